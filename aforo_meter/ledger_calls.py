"""Calls of which more than one event tells, within one transaction of the ledger."""

from collections import Counter
from enum import StrEnum
from typing import Final, NamedTuple

from aforo_meter.database import Sql
from aforo_meter.domain.calls import NEW, Call, Certainty, Change, Figure, Part, Told, tell
from aforo_meter.domain.rating import ChargeKey, Rated

KEY: Final = ", ".join(ChargeKey._fields)
WIDTH: Final = len(ChargeKey._fields)
PART_KEY: Final = (
    "tenant_id, decision_id, meter, hour_start_micros, subscription_id, period_start_micros,"
    " feature, provider, model, price_id, input_tokens, tool, execution_status"
)
CALL = "SELECT ended, logged FROM call WHERE tenant_id = ? AND decision_id = ?"
SET_CALL = (
    "INSERT INTO call (tenant_id, decision_id, ended, logged, keep_until_micros)"
    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (tenant_id, decision_id) DO UPDATE SET"
    " ended = excluded.ended, logged = excluded.logged,"
    " keep_until_micros = excluded.keep_until_micros"
)
# Statements are put together from names of columns alone.
PARTS = (
    f"SELECT {KEY}, quantity_micros, extra_micros, certainty FROM call_part"  # noqa: S608
    " WHERE tenant_id = ? AND decision_id = ?"
)
FORGET_PARTS = "DELETE FROM call_part WHERE tenant_id = ? AND decision_id = ?"
ADD_PART = (
    f"INSERT INTO call_part (decision_id, {KEY}, quantity_micros, extra_micros, certainty)"  # noqa: S608
    f" VALUES ({', '.join('?' * (WIDTH + 4))})"
)
FIGURE: Final = ", ".join(Figure._fields)
FIGURES = (
    f"SELECT {FIGURE}, quantity_micros FROM true_figure"  # noqa: S608
    " WHERE tenant_id = ? AND decision_id = ?"
)
FORGET_FIGURES = "DELETE FROM true_figure WHERE tenant_id = ? AND decision_id = ?"
ADD_FIGURE = (
    f"INSERT INTO true_figure (tenant_id, decision_id, {FIGURE}, quantity_micros)"  # noqa: S608
    f" VALUES ({', '.join('?' * (len(Figure._fields) + 3))})"
)
IN_ROW: Final = " AND ".join(f"{name} = ?" for name in ChargeKey._fields)
MOVE_PARTS = (
    f"INSERT INTO call_part (decision_id, {KEY}, quantity_micros, extra_micros, certainty)"  # noqa: S608
    " SELECT decision_id, "
    + ", ".join("?" if name in {"price_id", "input_tokens"} else name for name in ChargeKey._fields)
    + f", quantity_micros, extra_micros, certainty FROM call_part WHERE {IN_ROW}"
    f" ON CONFLICT ({PART_KEY}) DO UPDATE SET"
    " quantity_micros = call_part.quantity_micros + excluded.quantity_micros,"
    " extra_micros = call_part.extra_micros + excluded.extra_micros"
)
DROP_PARTS = f"DELETE FROM call_part WHERE {IN_ROW}"  # noqa: S608


class Correction(StrEnum):
    """What became of true figures for a call."""

    REPLACED = "replaced"  # An estimate.
    WAITING = "waiting"  # For an estimate. It never comes if the gateway counted exactly.
    NOT_NEEDED = "not_needed"  # The gateway's own report is known.


class Repeated(NamedTuple):
    """What one event of such a call does."""

    changes: dict[ChargeKey, Change]
    is_end: bool  # The first that tells of the whole call: interventions count with it.
    is_logged: bool  # The first that the gateway tells of the whole call.


class CallsWriting:
    """Reads each call once, and writes what became of it at the end of the transaction."""

    def __init__(self, sql: Sql, *, keep_until_micros: int) -> None:
        self._sql = sql
        self._keep_until_micros = keep_until_micros
        self._calls: dict[tuple[str, str], tuple[Call, bool]] = {}
        self.corrections: Counter[str] = Counter()  # By what became of them.

    def tell(self, one: Rated) -> Repeated:
        usage = one.usage
        assert usage.call is not None, "only of a call that is told again"
        name = (one.tenant_id, usage.call.decision_id)
        before, was_logged = self._calls.get(name) or self._read(name)
        told = Told(
            charges=one.charges,
            interim=usage.call.interim,
            estimated=usage.call.estimated,
            weight_units=usage.weight_units,
            is_whole=usage.from_gateway and not usage.call.interim,
            is_correction=not usage.from_gateway,
        )
        after, changes = tell(before, told)
        if told.is_correction or (before.waiting and not after.waiting):
            self.corrections[_correction_of(after)] += 1
        is_logged = usage.logged is not None and usage.from_gateway and not was_logged
        self._calls[name] = (after, was_logged or is_logged)
        return Repeated(changes, is_end=after.ended and not before.ended, is_logged=is_logged)

    def write(self) -> None:
        for (tenant_id, decision_id), (call, logged) in self._calls.items():
            name = (tenant_id, decision_id)
            state = (int(call.ended), int(logged))
            self._sql.execute(SET_CALL, (*name, *state, self._keep_until_micros))
            self._sql.execute(FORGET_PARTS, name)
            self._sql.executemany(
                ADD_PART, [(decision_id, *key, *part) for key, part in call.parts.items()]
            )
            self._sql.execute(FORGET_FIGURES, name)
            self._sql.executemany(
                ADD_FIGURE, [(*name, *figure, micros) for figure, micros in call.waiting.items()]
            )

    def _read(self, name: tuple[str, str]) -> tuple[Call, bool]:
        row = self._sql.execute(CALL, name).fetchone()
        if row is None:
            return NEW, False
        parts = {
            ChargeKey._make(values[:WIDTH]): Part(
                values[WIDTH], values[WIDTH + 1], Certainty(values[WIDTH + 2])
            )
            for values in self._sql.execute(PARTS, name)
        }
        waiting = {
            Figure._make(values[:-1]): values[-1] for values in self._sql.execute(FIGURES, name)
        }
        return Call(ended=bool(row[0]), parts=parts, waiting=waiting), bool(row[1])


def _correction_of(call: Call) -> Correction:
    if call.waiting:
        return Correction.WAITING
    return Correction.REPLACED if call.is_corrected else Correction.NOT_NEEDED


def move_parts(sql: Sql, row: ChargeKey, *, price_id: str) -> None:
    """Let the parts in a row follow it to another price, or they'd be taken off elsewhere."""
    sql.execute(MOVE_PARTS, (price_id, 0, *row))
    drop_parts(sql, row)


def drop_parts(sql: Sql, row: ChargeKey) -> None:
    """Forget what calls have in a row that was taken back."""
    sql.execute(DROP_PARTS, row)


def parts_of(sql: Sql, tenant_id: str, decision_id: str) -> list[tuple[ChargeKey, int, int]]:
    """Return what is counted of a call: rows, with quantity and what its weight adds."""
    return [
        (ChargeKey._make(values[:WIDTH]), values[WIDTH], values[WIDTH + 1])
        for values in sql.execute(PARTS, (tenant_id, decision_id)).fetchall()
    ]


def forget_counted(sql: Sql, tenant_id: str, decision_id: str) -> None:
    """Forget what is counted of a call that was taken back, and what waits to take its place."""
    sql.execute(FORGET_PARTS, (tenant_id, decision_id))
    sql.execute(FORGET_FIGURES, (tenant_id, decision_id))
