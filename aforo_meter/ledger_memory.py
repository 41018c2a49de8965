"""What a writer remembers of the ledger between transactions, so that it need not be read again.

It is checked by being written: each write of a period's charges raises the revision of its state,
and only where that is still the remembered one. If it isn't, somebody else has written; then all
is forgotten, and the transaction done again on what is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aforo_meter.domain.margin import Level
from aforo_meter.domain.rating import ChargeKey, amount_nanos
from aforo_meter.domain.terms import Terms
from aforo_meter.ledger import TooLargeError, Watch

ROWS_MAX: Final = 200_000  # Some 70 MB.
STATES_MAX: Final = 100_000
INT64_MAX: Final = 2**63 - 1


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
# By how much a row changes a period: COGS, the estimated part of it, rows without a price.
Change = tuple[int, int, int]

Measure = tuple[int | str | None, ...]


class ChargeRow:
    """A row as it will be, with what it costs: to work that out again took most of the time."""

    __slots__ = (
        *("charge_id", "cost_nanos", "estimated_cost_nanos", "estimated_micros", "extra_micros"),
        *("is_changed", "key", "price", "quantity_micros"),
    )

    def __init__(
        self,
        key: ChargeKey,
        price: Figures | None,
        charge_id: int = 0,
        quantity_micros: int = 0,
        extra_micros: int = 0,
        estimated_micros: int = 0,
    ) -> None:
        self.key = key
        self.price = price  # None: it waits for one.
        self.charge_id = charge_id  # 0: it is not in the table.
        self.quantity_micros = quantity_micros
        self.extra_micros = extra_micros
        self.estimated_micros = estimated_micros
        self.cost_nanos = _cost_nanos(quantity_micros, price)
        self.estimated_cost_nanos = _cost_nanos(estimated_micros, price)
        self.is_changed = False

    def add(self, quantity_micros: int, extra_micros: int, estimated_micros: int) -> Change | None:
        """Add to the row, or take off it what was counted too much.

        Returns:
            What that changes; None, and nothing is added, if there is less in the row than is to
            be taken off.

        Raises:
            TooLargeError: The sum would not fit.
        """
        before, price = self.quantity_micros, self.price
        after, extra = before + quantity_micros, self.extra_micros + extra_micros
        if after > INT64_MAX or extra > INT64_MAX:
            raise TooLargeError(self.key.tenant_id, meter=self.key.meter)
        if after < 0 or extra < 0:
            return None
        self.quantity_micros, self.extra_micros = after, extra
        estimated_change = 0
        if estimated_micros or self.estimated_micros:
            self.estimated_micros = min(max(0, self.estimated_micros + estimated_micros), after)
            estimated_nanos = _cost_nanos(self.estimated_micros, price)
            estimated_change = estimated_nanos - self.estimated_cost_nanos
            self.estimated_cost_nanos = estimated_nanos
        if price is None:
            return 0, 0, (after > 0) - (before > 0)
        # What a period costs is the sum of its rows' amounts: the old one goes, the new one comes.
        cost_nanos = amount_nanos(after, price_nanos=price.price_nanos, per_units=price.per_units)
        change, self.cost_nanos = cost_nanos - self.cost_nanos, cost_nanos
        return change, estimated_change, 0


def _cost_nanos(quantity_micros: int, price: Figures | None) -> int:
    if price is None or not quantity_micros:
        return 0
    return amount_nanos(quantity_micros, price_nanos=price.price_nanos, per_units=price.per_units)


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


class Calm(NamedTuple):
    """Between which COGS a period's level stays what it is."""

    watch: Watch
    measure: Measure  # Of the state.
    from_nanos: int
    until_nanos: int


@dataclass(slots=True)
class Memory:
    """What was committed, but for rows: these change as they are written.

    So all of it is forgotten where a transaction comes to nothing after it changed any.
    """

    prices: dict[str, Figures] = field(default_factory=dict)  # By price id.
    rows: dict[ChargeKey, ChargeRow] = field(default_factory=dict)
    states: dict[PeriodKey, PeriodState] = field(default_factory=dict)
    calm: dict[PeriodKey, Calm] = field(default_factory=dict)
    reporting: set[str] = field(default_factory=set)  # Tenants with usage from elsewhere.
    charged: dict[PeriodKey, Charged] = field(default_factory=dict)  # Past, of prepaid balances.

    is_sure: bool = True  # Nothing was changed in it that is not committed.

    def begin(self) -> None:
        """Begin a transaction, or begin it again."""
        if not self.is_sure:
            self.forget()

    def forget(self) -> None:
        self.is_sure = True
        self.prices.clear()
        self.rows.clear()
        self.states.clear()
        self.calm.clear()
        self.reporting.clear()
        self.charged.clear()

    def keep_rows(self) -> None:
        """Go on remembering rows as they are now, if they are not too many."""
        self.is_sure = True
        if len(self.rows) > ROWS_MAX:
            latest = max(key.hour_start_micros for key in self.rows)
            self.rows = {k: row for k, row in self.rows.items() if k.hour_start_micros >= latest}
            if len(self.rows) > ROWS_MAX:
                self.rows.clear()

    def keep_states(self, states: Mapping[PeriodKey, PeriodState]) -> None:
        self.states.update(states)
        if len(self.states) > STATES_MAX:
            # Rows are as good as the revision of their period that is remembered with them.
            self.states.clear()
            self.calm.clear()
            self.rows.clear()

    def keep_charged(self, charged: Mapping[PeriodKey, Charged]) -> None:
        self.charged.update(charged)
        if len(self.charged) > STATES_MAX:
            self.charged.clear()
