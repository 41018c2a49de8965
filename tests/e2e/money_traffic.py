"""Usage of some tenants, and what it costs by a reckoning that shares no code with ours."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from random import Random
from typing import NamedTuple

from aforo_proto import usage_pb2

HOUR_MICROS = 3_600_000_000
NANOS = 1_000_000_000
TENANTS = tuple(f"tenant-{number:02}" for number in range(12))
PROVIDER = "lab"
FEATURE = "api"
REPEATED_SHARE = 0.04  # Sent twice, byte for byte, right away or much later.
LATE_SHARE = 0.05


class Price(NamedTuple):
    """What so many units of a meter cost: awkward numbers, so that rounding shows."""

    nanos: int
    per_units: int


# By meter and model; "" is any. They are the catalog's, and the reckoning's.
PRICES: Mapping[tuple[str, str], Price] = {
    ("api.calls", ""): Price(333_333, 7),
    ("llm.input_tokens", "small"): Price(3_000_001, 1_000_000),
    ("llm.output_tokens", "small"): Price(12_345_679, 999),
    ("llm.input_tokens", "large"): Price(77_777_777, 1_000),
    ("llm.output_tokens", "large"): Price(310_000_003, 1_000),
    ("bytes.response", ""): Price(90_000_000, 1_000_003),
}


class Row(NamedTuple):
    """What is summed before it is priced and rounded."""

    tenant_id: str
    period_start_micros: int
    hour_start_micros: int
    meter: str
    model: str


@dataclass(kw_only=True)
class Traffic:
    """Events that follow from a seed, but for ids and times.

    Args:
        seed: The same one makes the same choices.
        now_micros: Unix time, UTC: when the first event occurs.
    """

    seed: int
    now_micros: int
    units: Counter[Row] = field(default_factory=Counter)
    events: int = 0
    repeats: int = 0

    def __post_init__(self) -> None:
        # Not for secrets: the same seed is to say the same.
        self._random = Random(self.seed)  # noqa: S311
        self._to_repeat: list[bytes] = []

    def next(self, now_micros: int) -> Iterator[tuple[str, bytes]]:
        """Yield an event, and perhaps a repetition of it or of an older one: tenant and bytes."""
        random = self._random
        event = self._event(now_micros)
        value = event.SerializeToString()
        self.events += 1
        yield event.tenant_id, value
        if random.random() < REPEATED_SHARE:
            self._to_repeat.append(value)
            if random.random() < 0.5:
                older = random.choice(self._to_repeat)
                self.repeats += 1
                yield usage_pb2.UsageEvent.FromString(older).tenant_id, older

    def _event(self, now_micros: int) -> usage_pb2.UsageEvent:
        random = self._random
        at_micros = now_micros
        if random.random() < LATE_SHARE:  # Of the last days, or of the month before.
            at_micros -= random.choice((1, 5, 26, 24 * 31)) * HOUR_MICROS
        model = random.choice(("small", "large", ""))
        measures = {"api.calls": 1, "bytes.response": random.randrange(1, 100_000)}
        if model:
            measures |= {
                "llm.input_tokens": random.randrange(1, 5_000),
                "llm.output_tokens": random.randrange(1, 700),
            }
        tenant_id = random.choice(TENANTS)
        for meter, units in measures.items():
            self.units[self._row(tenant_id, at_micros, meter, model)] += units
        return usage_pb2.UsageEvent(
            event_id=f"{self.seed}-{self.events}-{random.getrandbits(64):016x}",
            source="envoy:lab",
            tenant_id=tenant_id,
            subscription_id=subscription_of(tenant_id),
            features=[FEATURE],
            occurred_at_micros=at_micros,
            outcome=usage_pb2.OUTCOME_ALLOW,
            reason="allowed",
            dimensions=usage_pb2.Dimensions(provider=PROVIDER if model else "", model=model),
            measures=[
                usage_pb2.Measure(meter=meter, units=units) for meter, units in measures.items()
            ],
        )

    @staticmethod
    def _row(tenant_id: str, at_micros: int, meter: str, model: str) -> Row:
        return Row(
            tenant_id,
            month_start_micros(at_micros),
            at_micros - at_micros % HOUR_MICROS,
            meter,
            model,
        )

    def cogs_nanos(self) -> dict[tuple[str, int], int]:
        """Return what each tenant's usage of each period costs: rounded once for each row."""
        found: Counter[tuple[str, int]] = Counter()
        for row, units in self.units.items():
            price = PRICES.get((row.meter, row.model)) or PRICES[row.meter, ""]
            # round() of a fraction goes half to even.
            amount = round(Fraction(units * price.nanos, price.per_units))
            found[row.tenant_id, row.period_start_micros] += amount
        return dict(found)


def month_start_micros(at_micros: int) -> int:
    at = datetime.fromtimestamp(at_micros // 1_000_000, UTC)
    return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()) * 1_000_000


def subscription_of(tenant_id: str) -> str:
    return f"{tenant_id}-sub"


def catalog(fees: Mapping[str, Fraction]) -> str:
    """Return a catalog in which every tenant has a deal of its own about the fee.

    Args:
        fees: By tenant: dollars a month.
    """
    costs = "".join(
        f"  - {{meter: {meter}, price: {_decimal(price.nanos)}, per: {price.per_units},"
        f" from: 2026-01-01{f', provider: {PROVIDER}, model: {model}' if model else ''}}}\n"
        for (meter, model), price in PRICES.items()
    )
    tenants = "".join(
        f"  {tenant_id}:\n    name: {tenant_id}\n"
        f"    subscription: {{id: {subscription_of(tenant_id)}, plan: basic,"
        " started_at: 2026-01-01}\n"
        f"    deals: [{{id: own, from: 2026-01-01, committed_fee: {_decimal(int(fee * NANOS))}}}]\n"
        for tenant_id, fee in fees.items()
    )
    return (
        "version: 1\ncurrency: USD\n"
        f"features: [{{id: {FEATURE}, title: API}}]\n"
        "default_route: allow\n"
        f"plans:\n  basic: {{title: Basic, committed_fee: 1, features: [{FEATURE}]}}\n"
        f"tenants:\n{tenants}"
        f"built_in_costs: false\ncosts:\n{costs}"
    )


def _decimal(nanos: int) -> str:
    return f"{nanos // NANOS}.{nanos % NANOS:09d}"
