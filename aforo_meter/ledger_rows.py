"""Rows of `charge` within one transaction: read, changed and written many at a time."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from aforo_meter.database import Sql
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.ledger import TooLargeError
from aforo_meter.ledger_memory import CHARGE_ROW, ChargeRow, StaleError

INT64_MAX: Final = 2**63 - 1
COLUMNS: Final = ", ".join(ChargeKey._fields)
NEW_ROW: Final = (0, 0, 0, 0)
# A row's quantity before and after, then the part of it that is estimated before and after.
Step = tuple[int, int, int, int]

# Statements are put together from names of columns alone.
FIND = (
    f"SELECT {', '.join(f'c.{name}' for name in ChargeKey._fields)},"  # noqa: S608
    " c.charge_id, c.quantity_micros, c.extra_micros, c.estimated_micros"
    " FROM {given} CROSS JOIN charge AS c WHERE "
    + " AND ".join(f"c.{name} = given.{name}" for name in ChargeKey._fields)
)
INSERT = (
    f"INSERT INTO charge ({COLUMNS}, quantity_micros, extra_micros, estimated_micros)"  # noqa: S608
    f" SELECT {COLUMNS}, quantity_micros, extra_micros, estimated_micros"
    " FROM {given} WHERE true RETURNING " + f"{COLUMNS}, charge_id"
)
UPDATE = (
    "UPDATE charge SET quantity_micros = given.quantity_micros, extra_micros = given.extra_micros,"
    " estimated_micros = given.estimated_micros FROM {given}"
    " WHERE charge.charge_id = given.charge_id"
)
DELETE = "DELETE FROM charge WHERE charge_id = ?"
WIDTH: Final = len(ChargeKey._fields)


class ChargeRows:
    """Rows as they will be. Nothing is written before `write`."""

    def __init__(self, sql: Sql, remembered: Mapping[ChargeKey, ChargeRow]) -> None:
        self._sql = sql
        self._remembered = remembered
        self._asked: set[ChargeKey] = set()
        self._read: dict[ChargeKey, ChargeRow] = {}
        self._changed: dict[ChargeKey, ChargeRow] = {}

    def know(self, keys: Iterable[ChargeKey]) -> None:
        """Read the rows that nothing is known of, in one statement."""
        unknown = [k for k in keys if k not in self._remembered and k not in self._asked]
        if not unknown:
            return
        self._asked.update(unknown)
        given, values = self._sql.given(**_columns(unknown))
        for row in self._sql.execute(FIND.format(given=given), values):
            self._read[ChargeKey._make(row[:WIDTH])] = row[WIDTH:]

    def has(self, key: ChargeKey) -> bool:
        """Is there such a row, as far as is known without reading?"""
        return key in self._remembered or key in self._read

    def add(
        self, key: ChargeKey, quantity_micros: int, extra_micros: int, estimated_micros: int
    ) -> Step | None:
        """Add to a row, or take off it what was counted too much. `know` comes before.

        Returns:
            What that changes, with 0 where there is no row; None if there is less in the row than
            is to be taken off.

        Raises:
            TooLargeError: The sum would not fit.
        """
        row = self._changed.get(key) or self._remembered.get(key) or self._read.get(key, NEW_ROW)
        charge_id, before, extra, estimated_before = row
        after = before + quantity_micros
        extra += extra_micros
        if after > INT64_MAX or extra > INT64_MAX:
            raise TooLargeError(key.tenant_id, meter=key.meter)
        if after < 0 or extra < 0:
            return None
        estimated = min(max(0, estimated_before + estimated_micros), after)
        self._changed[key] = (charge_id, after, extra, estimated)
        return before, after, estimated_before, estimated

    def take(self, key: ChargeKey) -> ChargeRow | None:
        """Take a row out; None if there is none."""
        self.know([key])
        row = self._changed.get(key) or self._remembered.get(key) or self._read.get(key)
        if row is None or not row[1]:
            return None
        self._changed[key] = (row[0], 0, 0, 0)
        return row

    def write(self) -> Mapping[ChargeKey, ChargeRow | None]:
        """Write what changed; return the rows as they are now, None for those that are gone.

        A row that nothing is left of goes: it has no price to wait for.
        """
        done: dict[ChargeKey, ChargeRow | None] = dict(self._read)
        done |= self._changed
        new = {k: row for k, row in self._changed.items() if not row[0] and row[1]}
        old = [row for row in self._changed.values() if row[0] and row[1]]
        gone = [key for key, row in self._changed.items() if row[0] and not row[1]]
        if old:
            given, values = self._sql.given(**_figures(old))
            changed = self._sql.execute(UPDATE.format(given=given), values).rowcount
            if changed != len(old):
                raise StaleError
        if new:
            given, values = self._sql.given(**_columns(new), **_figures(new.values()))
            for row in self._sql.execute(INSERT.format(given=given), values).fetchall():
                key = ChargeKey._make(row[:WIDTH])
                done[key] = (row[WIDTH], *new[key][1:])
        self._sql.executemany(DELETE, [(self._changed[key][0],) for key in gone])
        done |= {key: None for key, row in self._changed.items() if not row[1]}
        return done


def _columns(keys: Collection[ChargeKey]) -> Mapping[str, Sequence[Any]]:
    return dict(zip(ChargeKey._fields, zip(*keys, strict=True), strict=True))


def _figures(rows: Collection[ChargeRow]) -> Mapping[str, Sequence[int]]:
    return dict(zip(CHARGE_ROW, zip(*rows, strict=True), strict=True))
