"""Sessions in SQL, beside the charges. What consume counts of them commits with the charges."""

from collections.abc import Collection, Sequence

from aforo_meter.database import Sql
from aforo_meter.domain.sessions import Session, killed
from aforo_meter.ledger_sessions import COLUMNS, read_session, session_of, write_session
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.sessions import SessionQuery

FIND = (
    f"SELECT {COLUMNS} FROM session WHERE (? OR tenant_id = ?) AND (? OR ended_by = '')"  # noqa: S608
    " ORDER BY last_seen_micros DESC, tenant_id, session_id LIMIT ? OFFSET ?"
)
KILLED = (
    "SELECT session_id FROM session WHERE tenant_id = ? AND session_id = ?"
    " AND killed_micros IS NOT NULL"
)
END_IDLE = (
    "UPDATE session SET ended_by = 'idle', ended_micros = last_seen_micros"
    " WHERE (tenant_id, session_id) IN (SELECT tenant_id, session_id FROM session"
    " WHERE ended_by = '' AND last_seen_micros < ? LIMIT ?)"
)
PRUNE = (
    "DELETE FROM session WHERE (tenant_id, session_id) IN (SELECT tenant_id, session_id"
    " FROM session WHERE ended_by <> '' AND last_seen_micros < ? LIMIT ?)"
)


class SqlSessions:
    """On the connections of an open ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def find(self, query: SessionQuery) -> Sequence[Session]:
        everyone = query.tenant_id is None
        who = (everyone, query.tenant_id or "", not query.only_open)
        values = (*who, query.count_max, query.skipped)
        return await self._ledger.read(
            lambda sql: [session_of(row) for row in sql.execute(FIND, values)]
        )

    async def get(self, tenant_id: str, session_id: str) -> Session | None:
        return await self._ledger.read(lambda sql: read_session(sql, tenant_id, session_id))

    async def kill(self, tenant_id: str, session_id: str, *, now_micros: int) -> Session | None:
        def work(sql: Sql) -> Session | None:
            session = read_session(sql, tenant_id, session_id)
            if session is None:
                return None
            ended = killed(session, now_micros=now_micros)
            write_session(sql, ended)
            return ended

        return await self._ledger.write(work)

    async def killed(self, tenant_id: str, session_ids: Collection[str]) -> Sequence[str]:
        def work(sql: Sql) -> list[str]:
            found = (sql.execute(KILLED, (tenant_id, name)).fetchone() for name in session_ids)
            return [row[0] for row in found if row is not None]

        return await self._ledger.read(work)

    async def end_idle(self, *, silent_since_micros: int, rows_max: int) -> int:
        values = (silent_since_micros, rows_max)
        return await self._ledger.write(lambda sql: sql.execute(END_IDLE, values).rowcount)

    async def prune(self, *, last_seen_before_micros: int, rows_max: int) -> int:
        values = (last_seen_before_micros, rows_max)
        return await self._ledger.write(lambda sql: sql.execute(PRUNE, values).rowcount)
