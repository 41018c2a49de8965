"""Usage × price. Pure: which row of the ledger a usage adds to, and what a row's sum costs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import PriceEntry, Prices
from aforo_meter.domain.seen import event_key
from aforo_meter.domain.sessions import Sighting
from aforo_meter.domain.usage import (
    LLM_CACHE_CREATION,
    LLM_CACHED_INPUT,
    LLM_INPUT,
    LLM_TOOL,
    Outcome,
)

MICROS_PER_UNIT: Final = 1_000_000
UNPRICED: Final = ""  # The price id of usage that no price covers yet.
LLM_METERS: Final = "llm."  # Whose prices can depend on the size of the request.
TIER_TOKENS: Final = 1000  # How finely that size is kept while usage waits for a price.
TOOLS_MAX: Final = 200  # Of one tenant in one hour: callers choose the names.
OTHER_TOOL: Final = "(other)"  # All further ones.
MODELS_MAX: Final = 200  # The same for models, each with its provider.
OTHER_MODEL: Final = "(other)"
SHADOW: Final = "shadow"  # The outcome of what would have been refused or marked.

# How ids of events begin that come over HTTP or from files; those of gateways don't.
REPORTED: Final = ("ik:", "ce:", "im:")
INPUT_METERS: Final = frozenset({LLM_INPUT, LLM_CACHED_INPUT, LLM_CACHE_CREATION, LLM_TOOL})


class Measured(NamedTuple):
    meter: str
    quantity_micros: int  # 10^-6 units, >= 0.


class ToldAgain(NamedTuple):
    """Marks an event of a call of which others tell too: see calls.py."""

    decision_id: str
    interim: bool
    estimated: bool


class LoggedKey(NamedTuple):
    """Which decisions a logged call is counted with: as authz told them."""

    hour_start_micros: int
    tenant_id: str
    feature: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One usage event, as rating needs it."""

    event_id: str
    tenant_id: str  # Empty: nobody is known to have called.
    subscription_id: str
    features: tuple[str, ...]
    occurred_at_micros: int
    outcome: Outcome
    reason: str
    shadow_reason: str
    provider: str
    model: str
    measures: tuple[Measured, ...]
    tool: str = ""
    execution_status: str = ""
    weight_units: int = 1  # What the call counts on api.calls quotas.
    from_gateway: bool = False
    late: bool = False  # Older than a day when it arrived.
    call: ToldAgain | None = None
    logged: LoggedKey | None = None
    logged_calls: int = 1  # Of an estimate: how many it stands for.
    estimated: bool = False  # Something of its measures is.
    sighting: Sighting | None = None

    @property
    def hour_start_micros(self) -> int:
        return self.occurred_at_micros - self.occurred_at_micros % HOUR_MICROS

    @property
    def is_reported(self) -> bool:
        """Did it come over HTTP or from a file? Then it names no features."""
        return not self.from_gateway and self.event_id.startswith(REPORTED)

    @property
    def input_tokens(self) -> int:
        """All input tokens of the call, cached ones included: what tiers go by."""
        total = sum(m.quantity_micros for m in self.measures if m.meter in INPUT_METERS)
        return total // MICROS_PER_UNIT


class ChargeKey(NamedTuple):
    """Which row of the ledger: a sum of one meter at one price in one hour of one period."""

    tenant_id: str
    subscription_id: str
    period_start_micros: int
    hour_start_micros: int
    feature: str  # The features of the call, sorted, joined by ",".
    meter: str
    provider: str
    model: str
    price_id: str  # UNPRICED where no price covers it.
    input_tokens: int  # Of unpriced tokens: the size of their requests, see `size_kept`. Else 0.
    tool: str = ""
    execution_status: str = ""  # What became of the work; "" is not told.


class InterventionKey(NamedTuple):
    tenant_id: str
    hour_start_micros: int
    outcome: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Rated:
    """What one usage adds to the ledger, or several that differ in their quantities alone."""

    tenant_id: str
    event_keys: Sequence[bytes]  # One for each event that it stands for; see seen.py.
    subscription_id: str
    period: PeriodMicros
    charges: tuple[tuple[ChargeKey, int], ...]  # Quantities in 10^-6 units.
    prices: tuple[PriceEntry, ...]
    intervention: InterventionKey | None
    usage: Usage  # What was rated, for what depends on no price.


def rate(
    usage: Usage,
    prices: Prices,
    *,
    subscription_id: str,
    period: PeriodMicros,
    refused_price_ids: Collection[str] = (),
) -> Rated:
    """Return what a usage adds to the ledger, at the prices in force at its own time.

    Args:
        usage: What was used.
        prices: Those of its tenant.
        subscription_id: Whose charge it is.
        period: The billing period that it falls into.
        refused_price_ids: Prices that say something else than when they were first used. Usage at
            such a price is unpriced: a charge at a guessed price is worse than a late one.
    """
    charges: list[tuple[ChargeKey, int]] = []
    used: list[PriceEntry] = []
    input_tokens = usage.input_tokens
    feature, hour_start_micros = ",".join(usage.features), usage.hour_start_micros
    for meter, quantity_micros in usage.measures:
        # Of a call that is told again a zero says something: it may replace an estimate.
        if quantity_micros == 0 and usage.call is None:
            continue
        entry = prices.price_of(
            meter,
            provider=usage.provider,
            model=usage.model,
            at_micros=usage.occurred_at_micros,
            input_tokens=input_tokens,
        )
        if entry is not None and entry.price_id in refused_price_ids:
            entry = None
        if entry is not None:
            used.append(entry)
        key = ChargeKey(
            tenant_id=usage.tenant_id,
            subscription_id=subscription_id,
            period_start_micros=period.start_micros,
            hour_start_micros=hour_start_micros,
            feature=feature,
            meter=meter,
            provider=usage.provider,
            model=usage.model,
            price_id=entry.price_id if entry is not None else UNPRICED,
            input_tokens=size_kept(meter, input_tokens) if entry is None else 0,
            tool=usage.tool,
            execution_status=usage.execution_status,
        )
        charges.append((key, quantity_micros))
    return Rated(
        tenant_id=usage.tenant_id,
        event_keys=(key_of(usage),),
        subscription_id=subscription_id,
        period=period,
        charges=tuple(charges),
        prices=tuple(used),
        intervention=intervention_of(usage),
        usage=usage,
    )


def key_of(usage: Usage) -> bytes:
    """Return by what the ledger knows a usage's event again."""
    at_micros = usage.occurred_at_micros if usage.from_gateway else None
    return event_key(usage.tenant_id, usage.event_id, at_micros=at_micros)


def rerate(key: ChargeKey, prices: Prices) -> PriceEntry | None:
    """Return the price of an unpriced row, if there is one by now.

    Of its usage only the hour is known still, and the size of its requests by the thousand: it gets
    the price in force as the hour began, else the first that started within it.
    """
    return prices.price_in_hour(
        key.meter,
        provider=key.provider,
        model=key.model,
        hour_start_micros=key.hour_start_micros,
        input_tokens=key.input_tokens,
    )


def size_kept(meter: str, input_tokens: int) -> int:
    """Return how large a request was, as far as unpriced usage remembers it.

    Rows stay few, and tiers that start at a full thousand, or just above one, are told exactly.
    """
    if not depends_on_size(meter):
        return 0
    above = input_tokens % TIER_TOKENS
    return input_tokens - above + (above > 0)


def depends_on_size(meter: str) -> bool:
    """Can prices of a meter depend on the size of the request?"""
    return meter.startswith(LLM_METERS)


def intervention_of(usage: Usage) -> InterventionKey | None:
    if usage.call is not None and usage.call.interim:
        return None  # Its end tells of it.
    outcome, reason = usage.outcome.value, usage.reason
    if usage.shadow_reason:
        outcome, reason = SHADOW, usage.shadow_reason
    elif usage.outcome not in {Outcome.BLOCK, Outcome.THROTTLE}:
        return None
    return InterventionKey(usage.tenant_id, usage.hour_start_micros, outcome, reason)


def amount_nanos(quantity_micros: int, *, price_nanos: int, per_units: int) -> int:
    """Return what a row's quantity costs, in nanos of the price's currency.

    Rounds half to even, once, here; everything else adds integers.
    """
    assert quantity_micros >= 0, "quantities are validated where they arrive"
    assert per_units > 0, "prices are validated when the catalog loads"
    divisor = per_units * MICROS_PER_UNIT
    quotient, remainder = divmod(quantity_micros * price_nanos, divisor)
    twice = 2 * remainder
    round_up = twice > divisor or (twice == divisor and quotient % 2 == 1)
    return quotient + round_up
