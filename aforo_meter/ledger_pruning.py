"""Forget what the ledger was to know for long enough: ids of events, and parts of calls.

Ids have no index by time: it would cost each event as much as the table itself. They are looked at
in turn, by their keys. Those of gateways' events begin with the time, so what is too young to be
forgotten lies together and is passed over; keys from elsewhere are random.
"""

from typing import Final, NamedTuple

from aforo_meter.database import Sql
from aforo_meter.domain.periods import DAY_MICROS, HOUR_MICROS
from aforo_meter.domain.seen import KEY_BYTES, SECOND_MICROS, time_of

# Ids that are looked at for each that was added: each of those from elsewhere four times in its
# life, so that no more than a quarter of them are there beyond their time, however fast they come.
LOOKED_AT_PER_EVENT: Final = 4
AHEAD_MICROS: Final = DAY_MICROS  # By so much a gateway's clock may be fast.
LAST_KEY: Final = b"\xff" * KEY_BYTES

OLD_CALLS: Final = (
    "SELECT tenant_id, decision_id FROM call WHERE keep_until_micros < ?"
    " ORDER BY keep_until_micros, tenant_id, decision_id LIMIT ?"
)
OF_CALLS: Final = tuple(
    f"DELETE FROM {table} WHERE (tenant_id, decision_id) IN ({OLD_CALLS})"  # noqa: S608
    for table in ("call_part", "true_figure", "call")  # The last counts calls.
)
UNTIL: Final = (
    "SELECT event_key FROM seen_event WHERE event_key > ? AND event_key <= ?"
    " ORDER BY event_key LIMIT 1 OFFSET ?"
)
FORGET: Final = (
    "DELETE FROM seen_event WHERE event_key > ? AND event_key <= ? AND keep_until_hour < ?"
)


class Look(NamedTuple):
    """What came of one transaction."""

    forgotten: int
    after: bytes  # Keys up to this one were looked at; empty: all were, the next begins anew.
    is_last: bool  # There is nothing more to do for now.


def look(sql: Sql, after: bytes, *, now_micros: int, rows_max: int, kept_days: int) -> Look:
    """Look at some ids, and forget the old ones; the same of calls.

    Args:
        sql: In a transaction.
        after: Where the last look ended.
        now_micros: What was to be kept until before it is forgotten.
        rows_max: So many ids, and calls.
        kept_days: How long ids of gateways' events are kept: none of later ones is old.
    """
    calls = 0
    for statement in OF_CALLS:
        calls = sql.execute(statement, (now_micros, rows_max)).rowcount
    young, future = (
        time_of(max(0, at))
        for at in (now_micros - kept_days * DAY_MICROS + SECOND_MICROS, now_micros + AHEAD_MICROS)
    )
    if young <= after < future:
        after = future
    bound = young if after < young else LAST_KEY
    row = sql.execute(UNTIL, (after, bound, rows_max - 1)).fetchone()
    until = bound if row is None else bytes(row[0])
    seen = sql.execute(FORGET, (after, until, -(-now_micros // HOUR_MICROS))).rowcount
    ends = until == LAST_KEY
    return Look(calls + seen, b"" if ends else until, ends and calls < rows_max)


def looks(*, events: int, rows_max: int) -> int:
    """Return how many looks are due after so many events were added."""
    return 1 + LOOKED_AT_PER_EVENT * events // rows_max
