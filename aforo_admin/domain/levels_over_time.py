"""A tenant's margin through its period, hour by hour: which level was in force when. Pure.

The ledger keeps hours, so a level is looked at where an hour ends; during an hour the level is in
force that the last hour with usage ended with. A period begins with none in force.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from aforo_meter.domain.account import Account, UsageKey, Used
from aforo_meter.domain.guards import Guard, assess_guard, calls_in
from aforo_meter.domain.margin import Level, assess
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rate_card import Volume
from aforo_meter.domain.revenue import fixed_nanos, recognised, revenue
from aforo_meter.domain.terms import RevenueBasis, Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A tenant's contract, and what softens its levels."""

    terms: Terms
    shadow: bool = False
    override_level_max: Level | None = None
    override_until_micros: int = 0  # Exclusive. Since when it was granted is not known: always.

    def softened(self, level: Level, at_micros: int) -> Level:
        """Return the level that calls heed."""
        if self.shadow:
            level = min(level, Level.WARN)
        if self.override_level_max is not None and at_micros < self.override_until_micros:
            level = min(level, self.override_level_max)
        return level


class Levels(NamedTuple):
    """A tenant's own level, and those of its guards, in their order."""

    own: Level = Level.NONE
    guards: tuple[Level, ...] = ()

    def of(self, key: UsageKey, guards: tuple[Guard, ...]) -> Level:
        """Return the worst that calls of a kind heed."""
        concerning = (
            level for guard, level in zip(guards, self.guards, strict=False) if guard.concerns(key)
        )
        return max((self.own, *concerning))


NONE_IN_FORCE = Levels()


class Step(NamedTuple):
    """When the tenant's own level changes, and to what."""

    at_micros: int
    level: Level


@dataclass(slots=True, kw_only=True)
class Path:
    """A margin from a period's begin to the instant that is asked for."""

    end: Levels
    revenue_nanos: int
    cogs_nanos: int
    in_force: Mapping[int, Levels] = field(default_factory=dict)  # By the start of the hour.
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is looked at, and what was there before it."""

    period: PeriodMicros
    as_of_micros: int
    currency: str  # Of the price book.
    level_before: Level = Level.NONE  # Which the period before ended with.


# From an hour's start, the levels in force and the usage recorded: the usage that there would be.
Act = Callable[[int, Levels, Account], Account]


def walk(
    agreement: Agreement, hours: Mapping[int, Account], span: Span, act: Act | None = None
) -> Path:
    """Follow a margin through its hours.

    Args:
        agreement: What holds.
        hours: Usage by the start of its hour; hours without any may be among them.
        span: The period, up to when.
        act: What the levels make of an hour's usage; None: nothing.
    """
    course = _Course(agreement, span)
    in_force: dict[int, Levels] = {}
    for hour in sorted(hours):
        course.wait_until(hour)
        in_force[hour] = course.levels if course.has_begun else NONE_IN_FORCE
        used = hours[hour] if act is None else act(hour, in_force[hour], hours[hour])
        course.use(used, until_micros=min(hour + HOUR_MICROS, span.as_of_micros))
    course.wait_until(span.as_of_micros)
    return Path(
        end=course.levels,
        revenue_nanos=course.revenue_nanos,
        cogs_nanos=course.cogs_nanos,
        in_force=in_force,
        steps=tuple(course.steps),
    )


def rests_on_none(agreement: Agreement, span: Span, cogs_nanos: int) -> bool:
    """Say whether nothing but the level none can occur: then no hour needs a look.

    With a revenue that is fixed a margin only falls, and where it ends above its floors it was
    above them always.
    """
    terms = agreement.terms
    fixed = fixed_nanos(terms, span.period, book_currency=span.currency)
    if fixed is None or terms.guards or span.level_before is not Level.NONE:
        return False
    end = assess(
        revenue_nanos=fixed,
        cogs_nanos=cogs_nanos,
        allowance_nanos=round(terms.allowance_nanos * terms.covered(span.period)),
        thresholds=terms.thresholds,
        previous=Level.NONE,
    )
    return end.level is Level.NONE


class _Course:
    def __init__(self, agreement: Agreement, span: Span) -> None:
        terms = agreement.terms
        self._terms = terms
        self._span = span
        self._fixed = fixed_nanos(terms, span.period, book_currency=span.currency)
        self._allowance_nanos = round(terms.allowance_nanos * terms.covered(span.period))
        self._only_grows = _only_grows(terms, span.period)
        self._account: dict[UsageKey, Used] = {}
        self.levels = Levels(span.level_before, (Level.NONE,) * len(terms.guards))
        self.has_begun = False
        self.cogs_nanos = 0
        self.revenue_nanos = 0
        self.steps: list[Step] = []

    def wait_until(self, at_micros: int) -> None:
        """Let time pass: it changes a margin where revenue accrues."""
        is_last = at_micros == self._span.as_of_micros
        if is_last or (self.has_begun and self._terms.basis is RevenueBasis.ACCRUED):
            self._assess(at_micros)

    def use(self, used: Account, *, until_micros: int) -> None:
        for key, more in used.items():
            before = self._account.get(key)
            self._account[key] = more if before is None else before.plus(more)
            self.cogs_nanos += more.cogs_nanos
        self.has_begun = True
        # Most hours of most tenants: revenue is no less than it was, and was enough already.
        if self._only_grows and self.revenue_nanos and self._own() is Level.NONE:
            self._go_to(Level.NONE, until_micros)
            return
        self._assess(until_micros)

    def _assess(self, at_micros: int) -> None:
        terms = self._terms
        self.revenue_nanos = self._revenue(at_micros)
        guards = self.levels.guards
        if guards:
            part = recognised(terms, self._span.period, now_micros=at_micros)
            guards = tuple(
                assess_guard(
                    guard,
                    self._account,
                    contract_revenue_nanos=self.revenue_nanos,
                    previous=before,
                    recognised=part,
                ).level
                for guard, before in zip(terms.guards, guards, strict=True)
            )
        self._go_to(self._own(), at_micros, guards)

    def _own(self) -> Level:
        thresholds = self._terms.thresholds
        return assess(
            revenue_nanos=self.revenue_nanos,
            cogs_nanos=self.cogs_nanos,
            allowance_nanos=self._allowance_nanos,
            thresholds=thresholds,
            previous=self.levels.own,
            calls=calls_in(self._account, self._account) if thresholds.act_from_calls else None,
        ).level

    def _go_to(self, own: Level, at_micros: int, guards: tuple[Level, ...] = ()) -> None:
        if own is not self.levels.own:
            self.steps.append(Step(at_micros, own))
        self.levels = Levels(own, guards)

    def _revenue(self, at_micros: int) -> int:
        if self._fixed is not None:
            return self._fixed
        return revenue(
            self._terms,
            self._account,
            period=self._span.period,
            now_micros=at_micros,
            book_currency=self._span.currency,
        ).book_nanos


def _only_grows(terms: Terms, period: PeriodMicros) -> bool:
    """Say whether more usage never brings less: it may where all units get a lower tier's price."""
    if terms.guards or terms.basis is not RevenueBasis.PERIOD:
        return False
    card = terms.card_of(period)
    return card is None or not any(isinstance(one.pricing, Volume) for one in card.components)
