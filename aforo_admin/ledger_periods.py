"""The ledger, read for simulations: periods of all tenants, then the rows of some. Only read."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aforo_admin.domain.scenario_usage import Row
from aforo_admin.domain.simulate import Recorded
from aforo_admin.domain.simulated_calls import Refusals
from aforo_admin.ledger_reading import Ask
from aforo_authz.domain.access import Outcome, Reason
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.corrections import NOTHING
from aforo_meter.domain.corrections import Row as Sums
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import NEGOTIATED_SOURCE
from aforo_meter.domain.rate_card import PerUnit
from aforo_meter.domain.rating import ChargeKey, amount_nanos

PERIODS_AT_ONCE: Final = 100  # Whose rows are in memory together.
NAMED_MAX: Final = 500  # Tenants in one statement.
ROWS_MAX: Final = 5_000_000  # Of one of these groups: beyond that a scenario is to name tenants.

PERIODS: Final = (
    "SELECT tenant_id, subscription_id, period_start_micros, period_end_micros, cogs_nanos,"
    " revenue_nanos, level, assessed_at_micros, in_force, currency,"
    " (SELECT earlier.level FROM margin_state AS earlier"
    " WHERE earlier.tenant_id = margin_state.tenant_id"
    " AND earlier.period_start_micros < margin_state.period_start_micros"
    " AND earlier.assessed_at_micros IS NOT NULL"
    " ORDER BY earlier.period_start_micros DESC LIMIT 1)"
    " FROM margin_state WHERE period_start_micros <= ? AND period_end_micros > ?{tenants}"
    " ORDER BY tenant_id, in_force DESC, period_start_micros DESC, subscription_id"
)
KEY: Final = ", ".join(f"entry.{name}" for name in ChargeKey._fields)
WIDTH: Final = len(ChargeKey._fields)
PRICE: Final = "price_nanos, per_units, tier_input_tokens_from, source"
SAME_PERIOD: Final = (
    " LEFT JOIN price USING (price_id) WHERE entry.tenant_id = given.tenant_id"
    " AND entry.subscription_id = given.subscription_id"
    " AND entry.period_start_micros = given.period_start_micros"
)
GIVEN: Final = "WITH given (tenant_id, subscription_id, period_start_micros) AS (VALUES {values})"
# Statements are put together from names of columns alone.
CHARGED: Final = (
    f"{GIVEN} SELECT {KEY}, quantity_micros, {PRICE}"  # noqa: S608
    f" FROM given CROSS JOIN charge AS entry{SAME_PERIOD}"
)
ADJUSTED: Final = (
    f"{GIVEN} SELECT {KEY}, quantity_micros, cogs_nanos, {PRICE}"  # noqa: S608
    f" FROM given CROSS JOIN adjustment AS entry{SAME_PERIOD}"
)
REFUSED: Final = (
    "SELECT tenant_id, hour_start_micros, outcome, count FROM intervention"
    " WHERE hour_start_micros > ? AND hour_start_micros < ?"
    " AND ((outcome = ? AND reason = ?) OR (outcome = ? AND reason = ?)){tenants}"
)
USED: Final = "SELECT provider, model FROM charge UNION SELECT provider, model FROM adjustment"
BY_MARGIN: Final = (
    *(Outcome.BLOCK.value, Reason.MARGIN_LIMIT_EXCEEDED.value),
    *(Outcome.THROTTLE.value, Reason.MARGIN_THROTTLE.value),
)


class TooMuchUsageError(Exception):
    """A simulation would need more memory than it may take; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The periods that an instant is in, by tenant, without their rows."""

    recorded: Sequence[Recorded]
    currency: str  # "" where nothing was ever assessed.


def read_periods(
    ask: Ask, *, at_micros: int, now_micros: int, tenants: Sequence[str] = ()
) -> Periods:
    """Return the billing periods that an instant is in, each as it was last assessed.

    Args:
        ask: The ledger.
        at_micros: The instant.
        now_micros: Until when usage is known.
        tenants: Of these only, as far as they are few enough to be named; empty: of all.
    """
    where, named = _of_tenants(tenants)
    found: list[Recorded] = []
    currency = ""
    for row in ask(PERIODS.format(tenants=where), (at_micros, at_micros, *named)):
        tenant_id, subscription_id, start, end, cogs, revenue, level, assessed_at, *rest = row
        _in_force, known, level_before = rest
        currency = currency or known or ""
        found.append(
            Recorded(
                tenant_id=tenant_id,
                subscription_id=subscription_id,
                period=PeriodMicros(start, end),
                as_of_micros=min(assessed_at or now_micros, end),
                revenue_nanos=int(revenue or 0),
                cogs_nanos=cogs,
                level=Level(level),
                level_before=Level(level_before or 0),
                is_assessed=revenue is not None,
            )
        )
    return Periods(recorded=_with_refusals(ask, found, tenants), currency=currency)


def _of_tenants(tenants: Sequence[str]) -> tuple[str, Sequence[str]]:
    if not 0 < len(tenants) <= NAMED_MAX:
        return "", ()
    return f" AND tenant_id IN ({', '.join('?' * len(tenants))})", tenants


def _with_refusals(ask: Ask, found: list[Recorded], tenants: Sequence[str]) -> Sequence[Recorded]:
    """Give each tenant's refusals to its first period: the one in force, else the latest."""
    if not found:
        return found
    first = min(one.period.start_micros for one in found)
    last = max(one.period.end_micros for one in found)
    refusals: dict[str, dict[int, Refusals]] = defaultdict(dict)
    where, named = _of_tenants(tenants)
    values = (first - HOUR_MICROS, last, *BY_MARGIN, *named)
    for tenant_id, hour, outcome, count in ask(REFUSED.format(tenants=where), values):
        before = refusals[tenant_id].get(hour, Refusals())
        is_block = outcome == Outcome.BLOCK.value
        refusals[tenant_id][hour] = Refusals(
            throttled=before.throttled + (0 if is_block else count),
            blocked=before.blocked + (count if is_block else 0),
        )
    given: set[str] = set()
    whole = []
    for one in found:
        mine = {} if one.tenant_id in given else refusals.get(one.tenant_id, {})
        given.add(one.tenant_id)
        within = {
            hour: count
            for hour, count in mine.items()
            if one.period.start_micros - HOUR_MICROS < hour < one.period.end_micros
        }
        whole.append(replace(one, refusals=within) if within else one)
    return whole


def providers_and_models(ask: Ask) -> set[tuple[str, str]]:
    """Return those of all usage: it goes through all of the charges and adjustments."""
    return {(str(provider), str(model)) for provider, model in ask(USED, ())}


def with_rows(ask: Ask, recorded: Sequence[Recorded]) -> Iterator[Recorded]:
    """Yield periods with all their rows, some of them in memory at a time.

    Raises:
        TooMuchUsageError: A group of them has more rows than may be held.
    """
    for start in range(0, len(recorded), PERIODS_AT_ONCE):
        group = recorded[start : start + PERIODS_AT_ONCE]
        rows = _rows(ask, group)
        for one in group:
            yield replace(one, rows=rows.get(period_key(one), ()))


def period_key(one: Recorded) -> tuple[str, str, int]:
    return (one.tenant_id, one.subscription_id, one.period.start_micros)


def _rows(ask: Ask, group: Sequence[Recorded]) -> Mapping[tuple[Any, ...], Sequence[Row]]:
    values = ", ".join(["(?, ?, ?)"] * len(group))
    given = [part for one in group for part in period_key(one)]
    adjusted: dict[ChargeKey, Sums] = {}
    prices: dict[ChargeKey, Sequence[Any]] = {}
    for found in ask(ADJUSTED.format(values=values), given):
        key = ChargeKey._make(found[:WIDTH])
        quantity_micros, cogs_nanos, *price = found[WIDTH:]
        more = Sums(quantity_micros, 0, cogs_nanos)
        adjusted[key] = adjusted.get(key, NOTHING).plus(more)
        prices[key] = price
    rows: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    charges = ask(CHARGED.format(values=values), given)
    if len(charges) > ROWS_MAX:
        raise TooMuchUsageError(
            f"{len(charges)} rows of {len(group)} tenants are more than a simulation takes; name"
            " fewer tenants"
        )
    for found in charges:
        quantity_micros, *price = found[WIDTH:]
        cogs_nanos = _amount(quantity_micros, price)
        if adjusted:
            key = ChargeKey._make(found[:WIDTH])
            sums = Sums(quantity_micros, 0, cogs_nanos).plus(adjusted.pop(key, NOTHING))
            quantity_micros, _, cogs_nanos = sums
        if quantity_micros or cogs_nanos:
            rows[tuple(found[:3])].append(_row(found, quantity_micros, cogs_nanos, price))
    for key, sums in adjusted.items():
        if sums.quantity_micros or sums.cogs_nanos:
            amounts = (sums.quantity_micros, sums.cogs_nanos)
            rows[key[:3]].append(_row(key, *amounts, prices[key]))
    return rows


def _amount(quantity_micros: int, price: Sequence[Any]) -> int:
    if price[0] is None:
        return 0
    return amount_nanos(quantity_micros, price_nanos=price[0], per_units=price[1])


def _row(found: Sequence[Any], quantity_micros: int, cogs_nanos: int, price: Sequence[Any]) -> Row:
    hour, feature, meter, provider, model, _, input_tokens, tool, status = found[3:WIDTH]
    price_nanos, per_units, tier, source = price
    is_priced = price_nanos is not None
    return Row(
        hour_start_micros=hour,
        key=UsageKey(meter, feature, provider, model, tool, status),
        quantity_micros=quantity_micros,
        cogs_nanos=cogs_nanos,
        price=PerUnit(price_nanos=price_nanos, per_units=per_units) if is_priced else None,
        # Of a priced row only the tier tells how large its requests were.
        input_tokens=tier if is_priced else input_tokens,
        is_negotiated=source == NEGOTIATED_SOURCE,
    )
