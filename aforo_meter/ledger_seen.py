"""Which events the ledger has counted, within one transaction: many at a time, by their keys."""

from collections.abc import Sequence

from aforo_meter.database import Sql
from aforo_meter.domain.rating import Rated
from aforo_meter.ledger import RepeatedError

NOTE = (
    "INSERT{or_rollback} INTO seen_event (event_key, keep_until_hour)"
    " SELECT event_key, ? FROM {given} WHERE true ON CONFLICT (event_key) DO NOTHING"
)
FIND = (
    "SELECT s.event_key FROM {given} CROSS JOIN seen_event AS s WHERE s.event_key = given.event_key"
)


class LookFirstError(Exception):
    """Some of these events were counted before. What was written goes back: look which, first."""


def note(sql: Sql, keys: Sequence[bytes], *, keep_until_hour: int) -> None:
    """Keep that events are counted now.

    Raises:
        LookFirstError: Not all of them are new, or one is there twice.
    """
    if not keys:
        return
    # In the order of the table its pages are each looked for once.
    given, values = sql.given_keys(sorted(keys))
    # Which ones went in is not asked, only how many: hardly ever is one known already.
    statement = NOTE.format(given=given, or_rollback=sql.or_rollback)
    if sql.execute(statement, (keep_until_hour, *values)).rowcount != len(keys):
        raise LookFirstError


def new_among(sql: Sql, rated: Sequence[Rated]) -> Sequence[Rated]:
    """Return those that were not counted before; of repeated ones among them, the first.

    Raises:
        RepeatedError: One that stands for several events holds some that were.
    """
    keys = [key for one in rated for key in one.event_keys]
    given, values = sql.given_keys(keys)
    found = {bytes(key) for (key,) in sql.execute(FIND.format(given=given), values)}
    grouped = {key for one in rated if len(one.event_keys) > 1 for key in one.event_keys}
    if found & grouped:
        raise RepeatedError(found)
    new = []
    for one in rated:
        if found.isdisjoint(one.event_keys):
            new.append(one)
            found.update(one.event_keys)
    return new
