"""Rows of `charge` within one transaction: read, changed and written many at a time."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from aforo_meter.database import Sql
from aforo_meter.domain.rating import UNPRICED, ChargeKey
from aforo_meter.ledger_memory import ChargeRow, Figures, StaleError

COLUMNS: Final = ", ".join(ChargeKey._fields)
FIGURES: Final = ("quantity_micros", "extra_micros", "estimated_micros")

# Statements are put together from names of columns alone.
FIND = (
    f"SELECT {', '.join(f'c.{name}' for name in ChargeKey._fields)},"  # noqa: S608
    f" c.charge_id, {', '.join(f'c.{name}' for name in FIGURES)}"
    " FROM {given} CROSS JOIN charge AS c WHERE "
    + " AND ".join(f"c.{name} = given.{name}" for name in ChargeKey._fields)
)
INSERT = (
    f"INSERT{{or_rollback}} INTO charge ({COLUMNS}, {', '.join(FIGURES)})"  # noqa: S608
    f" SELECT {COLUMNS}, {', '.join(FIGURES)}"
    " FROM {given} WHERE true RETURNING " + f"{COLUMNS}, charge_id"
)
UPDATE = (
    f"UPDATE{{or_rollback}} charge SET {', '.join(f'{name} = given.{name}' for name in FIGURES)}"
    " FROM {given} WHERE charge.charge_id = given.charge_id"
)
DELETE = "DELETE FROM charge WHERE charge_id = ?"
WIDTH: Final = len(ChargeKey._fields)


class ChargeRows:
    """What a transaction changes of them. Nothing is written before `write`."""

    def __init__(
        self,
        sql: Sql,
        remembered: dict[ChargeKey, ChargeRow],
        figures: Callable[[str], Figures | None],
    ) -> None:
        """Begin.

        Args:
            sql: To read and write.
            remembered: Rows that are known; those of this transaction come to them, and change.
            figures: What is known of a price.
        """
        self._sql = sql
        self._rows = remembered
        self._figures = figures
        self._new: list[ChargeRow] = []  # Not there when this began.
        self._changed: list[ChargeRow] = []

    def know(self, keys: Iterable[ChargeKey]) -> None:
        """Read the rows that nothing is known of, in one statement."""
        rows = self._rows
        unknown = {key: None for key in keys if key not in rows}
        if not unknown:
            return
        given, values = self._sql.given(**_columns(unknown))
        for found in self._sql.execute(FIND.format(given=given), values):
            key = ChargeKey._make(found[:WIDTH])
            rows[key] = ChargeRow(key, self._price(key), *found[WIDTH:])
        for key in unknown:
            if key not in rows:
                rows[key] = row = ChargeRow(key, self._price(key))
                self._new.append(row)

    def has(self, key: ChargeKey) -> bool:
        """Is there such a row, as far as is known without reading?"""
        row = self._rows.get(key)
        return row is not None and (row.charge_id != 0 or row.quantity_micros != 0)

    def change(self, key: ChargeKey) -> ChargeRow:
        """Return a row that is to be changed. `know` comes before."""
        row = self._rows[key]
        if not row.is_changed:
            row.is_changed = True
            self._changed.append(row)
        return row

    def take(self, key: ChargeKey) -> tuple[int, int, int] | None:
        """Take a row out, and return what was in it; None if there is none."""
        self.know([key])
        row = self._rows[key]
        if not row.quantity_micros:
            return None
        row = self.change(key)
        figures = (row.quantity_micros, row.extra_micros, row.estimated_micros)
        row.quantity_micros = row.extra_micros = row.estimated_micros = 0
        row.cost_nanos = row.estimated_cost_nanos = 0
        return figures

    def write(self) -> None:
        """Write what changed. A row that nothing is left of goes: it has no price to wait for.

        Raises:
            StaleError: Not all of the rows are there any more.
        """
        new, old, gone = [], [], []
        for row in self._changed:
            row.is_changed = False
            if not row.quantity_micros:
                gone.append(row)
            elif row.charge_id:
                old.append(row)
            else:
                new.append(row)
        if old:
            given, values = self._sql.given(charge_id=[row.charge_id for row in old], **_sums(old))
            changed = self._sql.execute(
                UPDATE.format(given=given, or_rollback=self._sql.or_rollback), values
            ).rowcount
            if changed != len(old):
                raise StaleError
        if new:
            given, values = self._sql.given(**_columns([row.key for row in new]), **_sums(new))
            for found in self._sql.execute(
                INSERT.format(given=given, or_rollback=self._sql.or_rollback), values
            ).fetchall():
                self._rows[ChargeKey._make(found[:WIDTH])].charge_id = found[WIDTH]
        self._sql.executemany(DELETE, [(row.charge_id,) for row in gone if row.charge_id])
        for row in (*gone, *self._new):
            # What is not in the table is not remembered either: others may add it.
            if not row.quantity_micros:
                self._rows.pop(row.key, None)

    def _price(self, key: ChargeKey) -> Figures | None:
        if key.price_id == UNPRICED:
            return None
        price = self._figures(key.price_id)
        assert price is not None, "a price is kept before its first row"
        return price


def _columns(keys: Collection[ChargeKey]) -> Mapping[str, Sequence[Any]]:
    return dict(zip(ChargeKey._fields, zip(*keys, strict=True), strict=True))


def _sums(rows: Collection[ChargeRow]) -> Mapping[str, Sequence[int]]:
    return {
        "quantity_micros": [row.quantity_micros for row in rows],
        "extra_micros": [row.extra_micros for row in rows],
        "estimated_micros": [row.estimated_micros for row in rows],
    }
