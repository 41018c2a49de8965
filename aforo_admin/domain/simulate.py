"""What if: a recorded period under other terms, beside the record. Pure, exact, deterministic.

Three figures stand side by side. `recorded` is the ledger's. `replayed` is the same usage under the
changed terms: what a replay would write. `acted` is what the gateway would have made of it: calls
at a simulated block are refused and bring no cost, calls that were refused and would pass come back
at the tenant's average. Only that last step is an estimate, and its share is told.

What is worked out is the difference between two reckonings, by the terms known now and by the
changed ones; it is added to the record. So with nothing changed all three are equal, whatever has
become of the catalog since; how far its reckoning is from the record is told as `drift_nanos`.
Where nobody ever assessed a period, the record has usage and no revenue: there the reckoning by the
terms known now stands for it, as in a statement.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from typing import Final

from aforo_admin.domain.levels_over_time import (
    Agreement,
    Levels,
    Span,
    Step,
    rests_on_none,
    walk,
)
from aforo_admin.domain.scenario import CostChange, ModelSwap
from aforo_admin.domain.scenario_usage import Reprice, Row
from aforo_admin.domain.simulated_calls import (
    NO_CALLS,
    SOME_CALL,
    Acting,
    Calls,
    Refusals,
    recorded_calls,
    warned_calls,
)
from aforo_meter.domain.account import Account, UsageKey, Used
from aforo_meter.domain.margin import Assessment, Level, MarginState
from aforo_meter.domain.periods import PeriodMicros

NO_USAGE: Final = Used()
MANY_MICROS: Final = 10**18  # So many that no growth is rounded.


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the ledger has of one tenant's period."""

    tenant_id: str
    subscription_id: str
    period: PeriodMicros
    as_of_micros: int
    revenue_nanos: int
    cogs_nanos: int
    level: Level
    level_before: Level = Level.NONE  # Of the period before it.
    is_assessed: bool = True  # No: it was over before its usage arrived, so it has no revenue.
    rows: Sequence[Row] = ()
    refusals: Mapping[int, Refusals] = field(default_factory=dict)  # By the start of the hour.


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A period's margin, and what it made of calls."""

    revenue_nanos: int
    cogs_nanos: int
    level: Level
    calls: Calls = NO_CALLS
    steps: tuple[Step, ...] = ()  # The level over time.

    @property
    def margin_ratio(self) -> Decimal | None:
        return Assessment(
            level=self.level,
            state=MarginState.DEFINED if self.revenue_nanos else MarginState.UNDEFINED,
            revenue_nanos=self.revenue_nanos,
            cogs_nanos=self.cogs_nanos,
            allowance_nanos=0,
        ).gross_margin_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One tenant's period, side by side."""

    tenant_id: str
    subscription_id: str
    period: PeriodMicros
    recorded: Figures
    replayed: Figures
    acted: Figures
    avoided_nanos: int = 0  # COGS of calls that would have been refused.
    added_nanos: int = 0  # COGS of refused calls that would have passed: an average.
    unpriced_rows: int = 0  # Rows that would lose their price.
    drift_nanos: int = 0  # By how much the revenue by the terms known now differs from the record.
    is_reckoned: bool = False  # It was never assessed: the terms known now stand for the record.

    @property
    def estimated_ratio(self) -> Decimal:
        """Return the share of the COGS that rests on estimates; rounded up."""
        whole = self.replayed.cogs_nanos + self.added_nanos
        if not whole:
            return Decimal(0)
        share = Decimal(self.avoided_nanos + self.added_nanos) / whole
        return share.quantize(Decimal("0.0001"), rounding=ROUND_CEILING)

    @property
    def is_changed(self) -> bool:
        return not self.recorded == self.replayed == self.acted


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All tenants that were looked at."""

    currency: str
    outcomes: tuple[Outcome, ...]
    left_out: tuple[tuple[str, str], ...] = ()  # Tenants, each with the reason.
    idle: tuple[CostChange | ModelSwap, ...] = ()  # What changes costs, and no usage is of it.

    def total(self, figures: Callable[[Outcome], Figures]) -> Figures:
        """Return the sums of one of the three; the level is the worst."""
        every = [figures(one) for one in self.outcomes]
        return Figures(
            revenue_nanos=sum(one.revenue_nanos for one in every),
            cogs_nanos=sum(one.cogs_nanos for one in every),
            level=max((one.level for one in every), default=Level.NONE),
            calls=sum((one.calls for one in every), start=NO_CALLS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds of a tenant's contract, and what would."""

    known: Agreement
    changed: Agreement
    currency: str  # Of the price book.


def simulate_period(recorded: Recorded, terms: Terms | None, reprice: Reprice | None) -> Outcome:
    """Return a period under other terms, beside the record.

    Args:
        recorded: What the ledger has of it; its rows may be left out where nothing asks for them,
            see `needs_hours`.
        terms: The tenant's; None where the catalog has none that hold in this period.
        reprice: What its rows would be; None: as they are.

    Raises:
        MissingRateError: There is no exchange rate from a contract's currency.
    """
    rows = recorded.rows
    changed_rows = rows if reprice is None else [reprice(row) for row in rows]
    rise_nanos = sum(
        after.cogs_nanos - before.cogs_nanos
        for before, after in zip(rows, changed_rows, strict=True)
    )
    before = Figures(
        revenue_nanos=recorded.revenue_nanos,
        cogs_nanos=recorded.cogs_nanos,
        level=recorded.level,
        calls=recorded_calls(recorded.refusals.values()),
    )
    replayed = replace(before, cogs_nanos=recorded.cogs_nanos + rise_nanos)
    outcome = Outcome(
        tenant_id=recorded.tenant_id,
        subscription_id=recorded.subscription_id,
        period=recorded.period,
        recorded=before,
        replayed=replayed,
        acted=replayed,
        unpriced_rows=sum(
            after.price is None and before.price is not None
            for before, after in zip(rows, changed_rows, strict=True)
        ),
    )
    if terms is None:
        return outcome
    span = span_of(recorded, terms.currency)
    if needs_hours(recorded, terms, cogs_nanos=replayed.cogs_nanos):
        growth = _growth_of_calls(reprice)
        outcome = _Played(recorded, terms, span, changed_rows, growth).beside(outcome)
    else:
        outcome = _at_rest(outcome, terms, span)
    return outcome if recorded.is_assessed else _reckoned(outcome)


def _reckoned(outcome: Outcome) -> Outcome:
    """Return the outcome of a period without a revenue: what the terms known now make of it."""
    recorded, replayed, acted = (
        replace(side, revenue_nanos=side.revenue_nanos + outcome.drift_nanos)
        for side in (outcome.recorded, outcome.replayed, outcome.acted)
    )
    return replace(
        outcome,
        recorded=recorded,
        replayed=replayed,
        acted=acted,
        drift_nanos=0,
        is_reckoned=True,
    )


def needs_hours(recorded: Recorded, terms: Terms | None, *, cogs_nanos: int) -> bool:
    """Say whether hours must be looked at: not where no level begins, as it is and as it would be.

    Args:
        recorded: A period, with or without its rows.
        terms: The tenant's.
        cogs_nanos: What its usage would cost.
    """
    if terms is None:
        return False
    if recorded.refusals or recorded.level is not Level.NONE:
        return True
    span = span_of(recorded, terms.currency)
    return not (
        rests_on_none(terms.known, span, recorded.cogs_nanos)
        and rests_on_none(terms.changed, span, cogs_nanos)
    )


def span_of(recorded: Recorded, currency: str) -> Span:
    return Span(
        period=recorded.period,
        as_of_micros=recorded.as_of_micros,
        currency=currency,
        level_before=recorded.level_before,
    )


def _at_rest(outcome: Outcome, terms: Terms, span: Span) -> Outcome:
    """Return what follows where no level begins: revenues are fixed, so no usage is needed."""
    known, changed = (walk(each, {}, span).revenue_nanos for each in (terms.known, terms.changed))
    revenue_nanos = outcome.recorded.revenue_nanos + changed - known
    replayed = replace(outcome.replayed, revenue_nanos=revenue_nanos)
    return replace(
        outcome,
        replayed=replayed,
        acted=replayed,
        drift_nanos=known - outcome.recorded.revenue_nanos,
    )


class _Played:
    """A period played three times: as it was, under the changed terms, and acted on."""

    def __init__(
        self,
        recorded: Recorded,
        terms: Terms,
        span: Span,
        changed_rows: Iterable[Row],
        growth: Fraction,
    ) -> None:
        self._recorded = recorded
        self._terms = terms
        quiet: dict[int, Account] = {hour: {} for hour in recorded.refusals}
        self._hours = quiet | by_hour(recorded.rows)
        self._changed_hours = quiet | by_hour(changed_rows)
        self._known = walk(terms.known, self._hours, span)
        self._changed = self._known
        is_same = terms.changed == terms.known and self._changed_hours == self._hours
        is_same = is_same and growth == 1
        if not is_same:
            self._changed = walk(terms.changed, self._changed_hours, span)
        self._acting = Acting(
            known=terms.known,
            changed=terms.changed,
            known_levels=self._known.in_force,
            refusals=recorded.refusals,
            recorded=self._hours.values(),
            usage=self._changed_hours.values(),
            growth=growth,
        )
        # Where the levels are the same in each hour, nothing is acted on otherwise.
        self._acted = self._changed
        if not is_same:
            self._acted = walk(terms.changed, self._changed_hours, span, self._acting)
        self._is_same = is_same

    def beside(self, outcome: Outcome) -> Outcome:
        known, changed, acted = self._known, self._changed, self._acted
        warned = warned_calls(self._terms.known, known.in_force, self._hours)
        recorded = replace(
            outcome.recorded,
            level=self._level(known.end),
            calls=outcome.recorded.calls._replace(warned=warned),
            steps=known.steps,
        )
        replayed = replace(
            outcome.replayed,
            revenue_nanos=recorded.revenue_nanos + changed.revenue_nanos - known.revenue_nanos,
            level=self._level(changed.end),
            calls=recorded.calls,
            steps=changed.steps,
        )
        return replace(
            outcome,
            recorded=recorded,
            replayed=replayed,
            acted=Figures(
                revenue_nanos=replayed.revenue_nanos + acted.revenue_nanos - changed.revenue_nanos,
                cogs_nanos=replayed.cogs_nanos + acted.cogs_nanos - changed.cogs_nanos,
                level=self._level(acted.end),
                calls=recorded.calls if self._is_same else self._acting.calls,
                steps=acted.steps,
            ),
            avoided_nanos=self._acting.avoided_nanos,
            added_nanos=self._acting.added_nanos,
            drift_nanos=known.revenue_nanos - recorded.revenue_nanos,
        )

    def _level(self, end: Levels) -> Level:
        """Return the level that the record would have: its own, where the reckoning agrees."""
        if not self._recorded.is_assessed:
            return end.own
        return self._recorded.level if end.own is self._known.end.own else end.own


def _growth_of_calls(reprice: Reprice | None) -> Fraction:
    """Return what becomes of a call of which no feature is known: that of all usage grows."""
    if reprice is None:
        return Fraction(1)
    call = Row(
        hour_start_micros=0,
        key=SOME_CALL,
        quantity_micros=MANY_MICROS,
        cogs_nanos=0,
        price=None,
        input_tokens=0,
        is_negotiated=False,
    )
    return Fraction(reprice(call).quantity_micros, MANY_MICROS)


def by_hour(rows: Iterable[Row]) -> dict[int, dict[UsageKey, Used]]:
    """Add rows up, each hour by itself."""
    found: dict[int, dict[UsageKey, Used]] = {}
    for row in rows:
        account = found.setdefault(row.hour_start_micros, {})
        before = account.get(row.key, NO_USAGE)
        account[row.key] = before.plus(row.used)
    return found
