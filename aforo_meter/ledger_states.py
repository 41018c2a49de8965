"""Rows of `margin_state` within one transaction: read and written many at a time."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from aforo_meter.database import Sql
from aforo_meter.domain.margin import Level
from aforo_meter.ledger_memory import PERIOD_KEY, PeriodKey, PeriodState, StaleError

MEASURE: Final = (
    *("revenue_nanos", "allowance_nanos", "currency", "contract_currency"),
    *("contract_revenue_nanos", "prepaid_drawn_nanos", "prepaid_left_nanos"),
    *("catalog_version", "price_book_version"),
)
OWN: Final = (
    *("revision", "period_end_micros", "cogs_nanos", "estimated_cogs_nanos", "unpriced_rows"),
    *("in_force", "adjusted", "guard_count", "level", *MEASURE),
)
KEY: Final = ", ".join(PERIOD_KEY)
TOTALS: Final = ("cogs_nanos", "estimated_cogs_nanos", "unpriced_rows")
# Statements are put together from names of columns alone.
SAME_KEY: Final = " AND ".join(f"s.{name} = given.{name}" for name in PERIOD_KEY)
FIND = (
    f"SELECT {', '.join(f's.{name}' for name in (*PERIOD_KEY, *OWN))}"  # noqa: S608
    f" FROM {{given}} CROSS JOIN margin_state AS s WHERE {SAME_KEY}"
)
INSERT = (
    "INSERT{or_rollback} INTO margin_state"  # noqa: S608
    f" ({KEY}, period_end_micros, {', '.join(TOTALS)}, revision)"
    f" SELECT {KEY}, period_end_micros, {', '.join(TOTALS)}, 1 FROM {{given}} WHERE true"
)
# An assessed period says when; what others may have written since is not written over.
UPDATE = (
    "UPDATE{or_rollback} margin_state AS s SET"
    f" {', '.join(f'{name} = given.{name}' for name in TOTALS)},"
    " revision = given.revision + 1, assessed_at_micros ="
    " CASE given.assessed WHEN 1 THEN ? ELSE s.assessed_at_micros END"
    f" FROM {{given}} WHERE {SAME_KEY} AND s.revision = given.revision"
)


NEW: Final = PeriodState(  # Of a period that was never assessed.
    revision=0,
    period_end_micros=0,
    cogs_nanos=0,
    estimated_cogs_nanos=0,
    unpriced_rows=0,
    in_force=False,
    adjusted=False,
    guard_count=0,
    level=Level.NONE,
    measure=(None,) * len(MEASURE),
)


def estimated_part(estimated_cogs_nanos: int, cogs_nanos: int) -> int:
    """Return the part of a period's COGS that rests on estimates.

    Corrections change COGS, and do not tell which part of what they take back was estimated.
    """
    return max(0, min(estimated_cogs_nanos, cogs_nanos))


class Totals(NamedTuple):
    cogs_nanos: int
    estimated_cogs_nanos: int
    unpriced_rows: int


class PeriodStates:
    """States as they are, and as they will be. Nothing is written before `write`."""

    def __init__(self, sql: Sql, remembered: Mapping[PeriodKey, PeriodState]) -> None:
        self._sql = sql
        self._remembered = remembered
        self.read: dict[PeriodKey, PeriodState] = {}
        self._changed: dict[PeriodKey, tuple[Totals, bool]] = {}

    def know(self, keys: Iterable[PeriodKey]) -> None:
        """Read the states that nothing is known of, in one statement."""
        unknown = [k for k in keys if k not in self._remembered and k not in self.read]
        if not unknown:
            return
        columns = dict(zip(PERIOD_KEY, zip(*unknown, strict=True), strict=True))
        given, values = self._sql.given(**columns)
        for row in self._sql.execute(FIND.format(given=given), values):
            self.read[row[:3]] = _state_of(row[3:])

    def get(self, key: PeriodKey) -> PeriodState | None:
        return self._remembered.get(key) or self.read.get(key)

    def set(self, key: PeriodKey, totals: Totals, *, assessed: bool) -> None:
        self._changed[key] = totals, assessed

    def write(
        self, ends: Mapping[PeriodKey, int], *, now_micros: int
    ) -> dict[PeriodKey, PeriodState]:
        """Write what changed; return the states as they are now.

        Raises:
            StaleError: Somebody else has written one of them since it was read.
        """
        done = dict(self.read)
        old: list[tuple[Any, ...]] = []
        new: list[tuple[Any, ...]] = []
        for key, (totals, assessed) in self._changed.items():
            state = self.get(key)
            if state is None:
                # A period that exists keeps its end.
                state = NEW._replace(period_end_micros=ends[key])
                new.append((*key, ends[key], *totals))
            else:
                old.append((*key, state.revision, *totals, int(assessed)))
            done[key] = state._replace(revision=state.revision + 1, **totals._asdict())
        if old:
            names: tuple[str, ...] = (*PERIOD_KEY, "revision", *TOTALS, "assessed")
            self._write(UPDATE, names, old, now_micros)
        if new:
            names = (*PERIOD_KEY, "period_end_micros", *TOTALS)
            self._write(INSERT, names, new)
        return done

    def _write(
        self, statement: str, names: Iterable[str], rows: list[tuple[Any, ...]], *before: int
    ) -> None:
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        given, values = self._sql.given(**columns)
        written = self._sql.execute(
            statement.format(given=given, or_rollback=self._sql.or_rollback), (*before, *values)
        ).rowcount
        if written != len(rows):
            raise StaleError


def _state_of(row: tuple[Any, ...]) -> PeriodState:
    revision, end_micros, cogs_nanos, estimated_cogs_nanos, unpriced_rows, *rest = row
    in_force, adjusted, guard_count, level, *measure = rest
    return PeriodState(
        revision=revision,
        period_end_micros=end_micros,
        cogs_nanos=cogs_nanos,
        estimated_cogs_nanos=estimated_cogs_nanos,
        unpriced_rows=unpriced_rows,
        in_force=bool(in_force),
        adjusted=bool(adjusted),
        guard_count=guard_count,
        level=Level(level),
        measure=tuple(measure),
    )
