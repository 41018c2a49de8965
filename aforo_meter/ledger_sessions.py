"""Sessions within one transaction of the ledger: read, brought up to date, written."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Any, Final

from aforo_meter.database import Sql
from aforo_meter.domain.rating import Rated
from aforo_meter.domain.sessions import EndedBy, Session, seen

COLUMNS: Final = (
    "tenant_id, session_id, product, agent, opened_micros, last_seen_micros, started_micros,"
    " ended_micros, steps, ended_by, killed_micros"
)
# Statements are put together from names of columns alone.
GET = f"SELECT {COLUMNS} FROM session WHERE tenant_id = ? AND session_id = ?"  # noqa: S608
SET = (
    f"INSERT INTO session ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
    " ON CONFLICT (tenant_id, session_id) DO UPDATE SET product = excluded.product,"
    " agent = excluded.agent, opened_micros = excluded.opened_micros,"
    " last_seen_micros = excluded.last_seen_micros, started_micros = excluded.started_micros,"
    " ended_micros = excluded.ended_micros, steps = excluded.steps, ended_by = excluded.ended_by,"
    " killed_micros = excluded.killed_micros"
)


def write_sightings(sql: Sql, rated: Iterable[Rated]) -> None:
    """Bring sessions up to date with events that the ledger has not seen before."""
    sessions: dict[tuple[str, str], Session] = {}
    for one in rated:
        sighting = one.usage.sighting
        if sighting is None:
            continue
        name = (one.tenant_id, sighting.session_id)
        known = sessions.get(name) or read_session(sql, *name)
        sessions[name] = seen(known, one.tenant_id, sighting)
    for session in sessions.values():
        write_session(sql, session)


def read_session(sql: Sql, tenant_id: str, session_id: str) -> Session | None:
    row = sql.execute(GET, (tenant_id, session_id)).fetchone()
    return None if row is None else session_of(row)


def write_session(sql: Sql, session: Session) -> None:
    sql.execute(SET, astuple(session))


def session_of(row: Sequence[Any]) -> Session:
    tenant_id, session_id, product, agent, opened, last_seen, started, ended, *rest = row
    steps, ended_by, killed_micros = rest
    return Session(
        tenant_id=tenant_id,
        session_id=session_id,
        product=product,
        agent=agent,
        opened_micros=opened,
        last_seen_micros=last_seen,
        started_micros=started,
        ended_micros=ended,
        steps=steps,
        ended_by=EndedBy(ended_by),
        killed_micros=killed_micros,
    )
