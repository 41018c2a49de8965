"""A month played through the real rating and writing of consume, hour by hour; then asked about."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st
from redis.asyncio import Redis

from aforo_admin.catalog_yaml import read_text
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.simulate import Comparison, Outcome
from aforo_admin.read_model import build
from aforo_admin.simulating import Ground, simulate
from aforo_admin.sync import apply, compare, mark_complete
from aforo_meter.batches import Rater, Readable
from aforo_meter.contracts import Contracts
from aforo_meter.domain.periods import HOUR_MICROS, micros_of
from aforo_meter.domain.rating import Measured, Usage
from aforo_meter.domain.usage import API_CALLS, LLM_INPUT
from aforo_meter.domain.usage import Outcome as CallOutcome
from aforo_meter.ledger import Partition
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.ledgers import AuditedLedger

UNIT = 1_000_000
PARTITION = Partition("aforo.usage.v1", 0)
# A billing period that is under way, and has lasted for twenty days.
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
START = (NOW - timedelta(days=20)).replace(hour=0)

CATALOG = """\
version: 1
currency: USD
built_in_costs: false
thresholds: {{warn_below: 30%, throttle_below: 15%, block_below: 5%, hysteresis: 4%}}
features: [{{id: chat, title: Chat}}, {{id: search, title: Search}}]
plans:
  pro:
    committed_fee: {fee} USD
    features: [chat, search]
    guards: [{{id: chat-margin, features: [chat], revenue_share: 70%}}]
    rate_card:
      - from: 2020-01-01
        components:
          - id: tokens
            meter: llm.input_tokens
            graduated: [{{up_to: 200, price: 0.02}}, {{price: 0.01}}]
  paid: {{committed_fee: {fee}, revenue_basis: accrued, features: [chat, search]}}
  flat:
    committed_fee: {fee} USD
    features: [chat, search]
tenants:
  acme:
    subscription: {{id: sub-1, plan: {plan}, started_at: {start}}}
costs:
  - {{meter: api.calls, price: {calls}, per: 1, from: 2020-01-01}}
  - {{meter: llm.input_tokens, provider: openai, price: {openai}, per: 1k, from: 2020-01-01}}
  - {{meter: llm.input_tokens, model: small, price: {small}, per: 1k, from: 2020-01-01}}
  - {{meter: llm.input_tokens, provider: other, price: 7, per: 1k, from: 2020-01-01}}
"""


def catalog_of(
    *,
    plan: str = "pro",
    fee: str = "20",
    calls: str = "0.01",
    openai: str = "11",
    small: str = "1.003",
) -> Catalog:
    text = CATALOG.format(
        plan=plan, fee=fee, calls=calls, openai=openai, small=small, start=f"{START:%Y-%m-%d}"
    )
    return read_text(text.encode(), name="catalog")


@dataclass(frozen=True, kw_only=True)
class Hour:
    """What came in one hour of the period, with what the gateway made of other calls."""

    number: int
    tokens: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    # By feature, provider and model; each is one call. In thousandths of a token.
    throttled: int = 0
    blocked: int = 0

    @property
    def start_micros(self) -> int:
        return micros_of(START) + self.number * HOUR_MICROS

    def usages(self) -> list[Usage]:
        found = [
            self._usage(f"{number}", *kind, millis * 1000)
            for number, (kind, millis) in enumerate(self.tokens.items())
        ]
        found += [self._refused(f"b{number}", CallOutcome.BLOCK) for number in range(self.blocked)]
        marked = self._usage("t", "search", "", "", 0)
        found += [
            replace(
                marked,
                event_id=f"{self.number}-t{number}",
                outcome=CallOutcome.THROTTLE,
                reason="margin_throttle",
            )
            for number in range(self.throttled)
        ]
        return found

    def _usage(self, name: str, feature: str, provider: str, model: str, micros: int) -> Usage:
        tokens = (Measured(LLM_INPUT, micros),) if micros else ()
        return Usage(
            event_id=f"{self.number}-{name}",
            tenant_id="acme",
            subscription_id="sub-1",
            features=(feature,),
            occurred_at_micros=self.start_micros + 60 * UNIT,
            outcome=CallOutcome.ALLOW,
            reason="allowed",
            shadow_reason="",
            provider=provider,
            model=model,
            measures=(Measured(API_CALLS, UNIT), *tokens),
            from_gateway=True,
        )

    def _refused(self, name: str, outcome: CallOutcome) -> Usage:
        refused = self._usage(name, "chat", "", "", 0)
        return replace(refused, outcome=outcome, reason="margin_limit_exceeded", measures=())


KINDS = st.tuples(
    st.sampled_from(["chat", "search"]),
    st.sampled_from(["openai", "other"]),
    st.sampled_from(["large", "small"]),
)
MONTHS = st.lists(
    st.builds(
        Hour,
        number=st.integers(0, 400),
        tokens=st.dictionaries(KINDS, st.integers(1, 400_000), max_size=4),
        throttled=st.integers(0, 3),
        blocked=st.integers(0, 3),
    ),
    min_size=1,
    max_size=9,
    unique_by=lambda hour: hour.number,
).map(lambda hours: sorted(hours, key=lambda hour: hour.number))


async def play(
    catalog: Catalog, hours: Sequence[Hour], file: AuditedLedger, redis_url: str
) -> None:
    """Write hours as consume does, each in a transaction of its own as it ends."""
    async with Redis.from_url(redis_url) as redis, SqlLedger(file.url) as ledger:
        await redis.flushall()
        model = build(catalog, NOW, ())
        await apply(redis, model, await compare(redis, model))
        await mark_complete(redis, model, NOW)
        rater = Rater(Contracts(redis), ledger)
        offset = 0
        for hour in hours:
            usages = hour.usages()
            if not usages:
                continue
            readable = [Readable(record=None, usage=one) for one in usages]
            batch = rater.batch(
                PARTITION,
                await rater.one_by_one(readable),
                first_offset=offset,
                next_offset=offset + len(usages),
            )
            offset += len(usages)
            await ledger.apply(replace(batch, now_micros=hour.start_micros + HOUR_MICROS))


def ground_of(catalog: Catalog, file: AuditedLedger) -> Ground:
    return Ground(catalog=catalog, ledger_url=file.url, now=NOW)


def asked(catalog: Catalog, file: AuditedLedger, **changes: Any) -> Comparison:  # noqa: ANN401
    return simulate(Scenario(**changes), ground_of(catalog, file))


def only(comparison: Comparison) -> Outcome:
    (outcome,) = comparison.outcomes
    return outcome


def levels_told(file: AuditedLedger) -> list[tuple[int, int]]:
    """Return when the tenant's own level changed, and to what, by the alerts."""
    names = {"none": 0, "warn": 1, "throttle": 2, "block": 3}
    found = []
    for at, payload in file.rows(
        "SELECT created_at_micros, payload FROM outbox ORDER BY outbox_id"
    ):
        message = json.loads(payload)
        if message["type"] == "margin.level_changed" and message["data"]["guard"] is None:
            found.append((at, names[message["data"]["to"]]))
    return found


def exact_cogs(file: AuditedLedger, *, factor: Fraction, provider: str) -> int:
    """Return what all usage costs if one provider's prices are multiplied, by SQL and fractions."""
    query = (
        "SELECT provider, quantity_micros, price_nanos, per_units"
        " FROM charge JOIN price USING (price_id)"
    )
    return sum(
        round(Fraction(quantity * nanos, per_units * UNIT) * (factor if named == provider else 1))
        for named, quantity, nanos, per_units in file.rows(query)
    )
