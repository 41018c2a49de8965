"""Adjustments, within one transaction of the ledger: written once, never edited."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from aforo_meter.database import Sql
from aforo_meter.domain.corrections import (
    NOTHING,
    Adjustment,
    Kind,
    Known,
    Row,
    at_price,
    changed,
    cogs_by_period,
    rerated,
)
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import UNPRICED, ChargeKey, amount_nanos
from aforo_meter.ledger import PriceConflictError, TooLargeError
from aforo_meter.ledger_calls import move_parts
from aforo_meter.ledger_currency import require_currency
from aforo_meter.ledger_names import CHARGE_EQUALS, ROW
from aforo_meter.ledger_sums import is_above_zero, parts, whole

INT64_MAX: Final = 2**63 - 1
KEY: Final = ", ".join(ChargeKey._fields)

# Statements are put together from names of columns alone.
ADJUSTED = (
    f"SELECT COUNT(*), {parts('quantity_micros')}, {parts('extra_micros')}, {parts('cogs_nanos')}"  # noqa: S608
    f" FROM adjustment WHERE {CHARGE_EQUALS}"
)
IS_ADJUSTED = f"SELECT 1 FROM adjustment WHERE {CHARGE_EQUALS} LIMIT 1"  # noqa: S608
ADJUST = (
    f"INSERT INTO adjustment (adjustment_id, run_id, kind, {KEY}, seq, quantity_micros,"  # noqa: S608
    " extra_micros, cogs_nanos, voided, reason, author, created_at_micros)"
    f" VALUES ({', '.join('?' * (11 + len(ChargeKey._fields)))})"
)
KNOWN_PRICE = (
    "SELECT price_nanos, per_units, currency, effective_from_micros, tier_input_tokens_from"
    " FROM price WHERE price_id = ?"
)
LEARN_PRICE = (
    "INSERT INTO price (price_id, meter, price_nanos, per_units, currency, effective_from_micros,"
    " tier_input_tokens_from, source, first_used_at_micros) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (price_id) DO NOTHING"
)
PERIOD: Final = " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
COGS = f"SELECT cogs_nanos FROM margin_state{PERIOD}"  # noqa: S608
ADD_COGS = (
    "UPDATE margin_state SET cogs_nanos = ?, adjusted = 1,"  # noqa: S608
    f" revision = revision + 1{PERIOD}"
)
COUNT_UNPRICED = (
    "UPDATE margin_state SET unpriced_rows = (SELECT COUNT(*) FROM ("  # noqa: S608
    "SELECT COUNT(*) FROM ("
    f"SELECT {KEY}, quantity_micros FROM charge{PERIOD} AND price_id = ''"
    f" UNION ALL SELECT {KEY}, quantity_micros FROM adjustment{PERIOD} AND price_id = ''"
    f") AS entry GROUP BY {KEY} HAVING {is_above_zero('quantity_micros')}) AS waiting){PERIOD}"
)
CLOSED = f"SELECT closed_at_micros FROM margin_state{PERIOD}"  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who wants adjustments, and why: kept with each of them."""

    kind: Kind
    run_id: str
    reason: str
    author: str
    now_micros: int
    voided: str = ""  # The event that is taken back; "" where it is not one.


class State(NamedTuple):
    row: Row
    adjustments: int


class Adjusting:
    """Reads rows as they are in this transaction, and writes what is to be added to them.

    `finish` brings the totals of the periods up to date; they must exist by then.
    """

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._prices: dict[str, Known] = {}
        self._written: list[Adjustment] = []

    def learn(self, prices: Iterable[PriceEntry], *, currency: str, now_micros: int) -> None:
        """Keep prices that are used for the first time.

        Raises:
            PriceConflictError: One was used before with other figures.
        """
        conflicts = []
        by_id = {entry.price_id: entry for entry in prices}
        new = [price_id for price_id in by_id if self._price(price_id) is None]
        if new:
            require_currency(self._sql, currency, new)
        for entry in by_id.values():
            given = Known.of(entry, currency)
            figures = (entry.price_nanos, entry.per_units, currency, entry.effective_from_micros)
            rest = (entry.tier_input_tokens_from, entry.source, now_micros)
            self._sql.execute(LEARN_PRICE, (entry.price_id, entry.meter, *figures, *rest))
            known = self._price(entry.price_id)
            if known is None or known.figures != given.figures:
                conflicts.append(entry.price_id)
        if conflicts:
            raise PriceConflictError(conflicts)

    def rerate(self, to: Mapping[ChargeKey, str], order: Order) -> Sequence[Adjustment]:
        """Move rows to other prices, as they are now; return what was written.

        Raises:
            TooLargeError: A sum would not fit.
        """
        keys = {
            key: None
            for moved, price_id in to.items()
            for key in (moved, moved if price_id == moved.price_id else at_price(moved, price_id))
        }
        states = {key: self.state(key) for key in keys}
        prices = {
            price_id: known
            for price_id in {key.price_id for key in keys}
            if (known := self._price(price_id)) is not None
        }
        rows = {key: state.row for key, state in states.items()}
        adjustments = rerated(rows, to, prices)
        for one in adjustments:
            self._write(one, states[one.key], order)
        for key, price_id in to.items():
            # What calls have in the row moves along, or a true figure would be taken off elsewhere.
            if price_id != key.price_id:
                move_parts(self._sql, key, price_id=price_id)
        return adjustments

    def change(
        self, key: ChargeKey, quantity_micros: int, extra_micros: int, order: Order
    ) -> Adjustment:
        """Add to one row, or take off it what is there at most.

        Raises:
            TooLargeError: A sum would not fit.
        """
        state = self.state(key)
        made = changed(state.row, quantity_micros, extra_micros, price=self._price(key.price_id))
        adjustment = Adjustment(key, made)
        if made != NOTHING:
            self._write(adjustment, state, order)
        return adjustment

    def state(self, key: ChargeKey) -> State:
        """Return a row, with its adjustments, and how many these are."""
        quantity_micros, extra_micros = self._sql.execute(ROW, key).fetchone() or (0, 0)
        count, *sums = self._sql.execute(ADJUSTED, key).fetchone()
        price = self._price(key.price_id)
        cogs_nanos = 0
        if price is not None:
            cogs_nanos = amount_nanos(
                quantity_micros, price_nanos=price.price_nanos, per_units=price.per_units
            )
        charge = Row(quantity_micros, extra_micros, cogs_nanos)
        adjusted = Row(whole(*sums[:2]), whole(*sums[2:4]), whole(*sums[4:]))
        return State(charge.plus(adjusted), count)

    def is_adjusted(self, key: ChargeKey) -> bool:
        return self._sql.execute(IS_ADJUSTED, key).fetchone() is not None

    def is_closed(self, tenant_id: str, subscription_id: str, period_start_micros: int) -> bool:
        period = (tenant_id, subscription_id, period_start_micros)
        row = self._sql.execute(CLOSED, period).fetchone()
        return row is not None and row[0] is not None

    def finish(self) -> Collection[tuple[str, str, int]]:
        """Bring totals up to date, and have who is in force assessed again.

        Returns:
            The periods whose totals are others now.

        Raises:
            TooLargeError: A period's COGS would not fit.
        """
        changes = cogs_by_period(self._written)
        for period, cogs_nanos in changes.items():
            (before,) = self._sql.execute(COGS, period).fetchone()
            after = before + cogs_nanos
            if after > INT64_MAX:
                raise TooLargeError(period[0])
            self._sql.execute(ADD_COGS, (after, *period))
        waiting = [one for one in self._written if one.key.price_id == UNPRICED]
        for period in cogs_by_period(waiting):
            self._sql.execute(COUNT_UNPRICED, period * 3)
        self._written.clear()
        return changes.keys()

    def _price(self, price_id: str) -> Known | None:
        if price_id == UNPRICED:
            return None
        known = self._prices.get(price_id)
        if known is None:
            row = self._sql.execute(KNOWN_PRICE, (price_id,)).fetchone()
            if row is not None:
                known = self._prices[price_id] = Known._make(row)
        return known

    def _write(self, one: Adjustment, before: State, order: Order) -> None:
        after = before.row.plus(one.change)
        if max(after) > INT64_MAX:
            raise TooLargeError(one.key.tenant_id, meter=one.key.meter)
        assert min(after) >= 0, "no more is taken off than is there"
        seq = before.adjustments + 1
        values = (
            *(adjustment_id(one.key, seq), order.run_id, order.kind.value, *one.key, seq),
            *(*one.change, order.voided, order.reason, order.author, order.now_micros),
        )
        self._sql.execute(ADJUST, values)
        self._written.append(one)


def adjustment_id(key: ChargeKey, seq: int) -> str:
    """Return the id of the n-th adjustment of a row: the same, however it came about."""
    return "adj_" + hashlib.sha256(json.dumps([*key, seq]).encode()).hexdigest()[:32]
