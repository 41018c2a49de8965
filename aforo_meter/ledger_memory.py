"""What a writer remembers of the ledger between transactions, so that it need not be read again.

It is checked by being written: each write of a period's charges raises the revision of its state,
and only where that is still the remembered one. If it isn't, somebody else has written; then all
is forgotten, and the transaction done again on what is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aforo_meter.domain.margin import Level
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.domain.terms import Terms

ROWS_MAX: Final = 200_000  # Some 70 MB.
STATES_MAX: Final = 100_000


class StaleError(Exception):
    """Somebody else has written since: what is remembered is forgotten. Nothing was written."""


class Figures(NamedTuple):
    """What of a price decides about money: never changed once it was used."""

    price_nanos: int
    per_units: int
    currency: str


# Plain tuples, as there are so many: to make a named one costs seven times as much.
PERIOD_KEY: Final = ("tenant_id", "subscription_id", "period_start_micros")
PeriodKey = tuple[str, str, int]
CHARGE_ROW: Final = ("charge_id", "quantity_micros", "extra_micros", "estimated_micros")
ChargeRow = tuple[int, int, int, int]


Measure = tuple[int | str | None, ...]


class PeriodState(NamedTuple):
    """A row of margin_state."""

    revision: int
    period_end_micros: int
    cogs_nanos: int
    estimated_cogs_nanos: int  # The part of them that rests on estimated usage.
    unpriced_rows: int
    in_force: bool
    adjusted: bool  # To be assessed, as somebody has corrected what it cost.
    guard_count: int
    level: Level
    measure: Measure  # What the margin was measured by: ledger_states.MEASURE.


class Charged(NamedTuple):
    """What usage of a period is charged."""

    revision: int  # Of the period's state, when its usage was read.
    terms: Terms
    nanos: int


@dataclass(slots=True)
class Memory:
    """Changed only with what was committed."""

    prices: dict[str, Figures] = field(default_factory=dict)  # By price id.
    rows: dict[ChargeKey, ChargeRow] = field(default_factory=dict)
    states: dict[PeriodKey, PeriodState] = field(default_factory=dict)
    reporting: set[str] = field(default_factory=set)  # Tenants with usage from elsewhere.
    charged: dict[PeriodKey, Charged] = field(default_factory=dict)  # Past, of prepaid balances.

    def forget(self) -> None:
        self.prices.clear()
        self.rows.clear()
        self.states.clear()
        self.reporting.clear()
        self.charged.clear()

    def keep_rows(self, rows: Mapping[ChargeKey, ChargeRow | None]) -> None:
        """Remember rows; None: it is gone."""
        for key, row in rows.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        if len(self.rows) > ROWS_MAX:
            latest = max(key.hour_start_micros for key in rows)
            self.rows = {k: row for k, row in self.rows.items() if k.hour_start_micros >= latest}
            if len(self.rows) > ROWS_MAX:
                self.rows.clear()

    def keep_states(self, states: Mapping[PeriodKey, PeriodState]) -> None:
        self.states.update(states)
        if len(self.states) > STATES_MAX:
            # Rows are as good as the revision of their period that is remembered with them.
            self.states.clear()
            self.rows.clear()

    def keep_charged(self, charged: Mapping[PeriodKey, Charged]) -> None:
        self.charged.update(charged)
        if len(self.charged) > STATES_MAX:
            self.charged.clear()
