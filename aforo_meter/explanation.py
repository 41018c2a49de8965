"""What a tenant's level follows from: all that is read to explain it."""

from dataclasses import dataclass

from aforo_meter.domain.guards import Guard
from aforo_meter.domain.inquiry import GuardState, Record
from aforo_meter.domain.margin import Level, Thresholds
from aforo_meter.domain.statement import Line, LineKind, Statement
from aforo_meter.domain.terms import Terms
from aforo_meter.tenant_reading import Known, Override, Synced


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardTold:
    """A guard in a period."""

    guard: Guard | None  # What the contract says of it now; None: it has no such guard.
    state: GuardState


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that a level follows from, read at one instant."""

    record: Record
    statement: Statement  # As far as its revenue has accrued by now.
    known: Known
    synced: Synced
    now_micros: int

    @property
    def revenue_lines(self) -> list[Line]:
        """What revenue is made of. What a prepaid balance pays is revenue too."""
        return [
            line
            for line in self.statement.lines
            if line.amount_nanos and line.kind is not LineKind.PREPAID
        ]

    @property
    def currency(self) -> str:
        """That of margin and floors."""
        return self.record.state.currency or ""

    @property
    def thresholds(self) -> Thresholds:
        return self.known.terms.thresholds if self.known.terms else Thresholds()

    @property
    def override(self) -> Override | None:
        """The override in force now."""
        override = self.known.override
        return override if override and override.holds(self.now_micros) else None

    @property
    def decided_level(self) -> Level:
        """What decisions take the level as."""
        return self.decided(self.record.state.level)

    def decided(self, level: Level) -> Level:
        """Return what decisions take a level as, the tenant's or a guard's."""
        return min(level, self.override.level_max) if self.override else level

    @property
    def guards(self) -> list[GuardTold]:
        return guards_of(self.record, self.known.terms)


def guards_of(record: Record, terms: Terms | None) -> list[GuardTold]:
    """Return the guards of a period: those of the contract in force, or, later, those it had.

    One that was not assessed yet has no level, and the figures that it will be measured by.
    """
    state = record.state
    known = {guard.guard_id: guard for guard in terms.guards} if terms else {}
    if terms is None or terms.subscription_id != state.subscription_id:
        known = {}
    assessed = {one.guard_id: one for one in record.guards}
    if not state.in_force and state.assessed_at_micros is not None:
        return [GuardTold(guard=known.get(one.guard_id), state=one) for one in record.guards]
    return [
        GuardTold(guard=guard, state=_state_of(guard, record, assessed.get(guard_id)))
        for guard_id, guard in known.items()
    ]


def _state_of(guard: Guard, record: Record, assessed: GuardState | None) -> GuardState:
    if assessed is not None and assessed.in_force:
        return assessed
    revenue_nanos = record.state.revenue_nanos or 0
    cogs_nanos = guard.cogs_of(record.account)
    return GuardState(
        guard_id=guard.guard_id,
        in_force=False,
        level=Level.NONE,
        level_since_micros=None,
        revenue_nanos=guard.revenue_of(revenue_nanos),
        cogs_nanos=cogs_nanos,
    )
