"""The port: sessions of agents and MCP servers, as the ledger knows them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from aforo_meter.domain.sessions import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionQuery:
    tenant_id: str | None = None  # None: of all.
    only_open: bool = False
    count_max: int = 100
    skipped: int = 0  # Of those that were seen last.


class Sessions(Protocol):
    """Every method raises LedgerUnavailableError if the database can't be asked."""

    async def find(self, query: SessionQuery) -> Sequence[Session]:
        """Return sessions, those that were seen last first."""

    async def get(self, tenant_id: str, session_id: str) -> Session | None: ...

    async def kill(self, tenant_id: str, session_id: str, *, now_micros: int) -> Session | None:
        """End a session for good; return it as it is then, None if it is unknown."""

    async def killed(self, tenant_id: str, session_ids: Collection[str]) -> Sequence[str]:
        """Return those that were killed: who still uses them has to be told."""

    async def end_idle(self, *, silent_since_micros: int, rows_max: int) -> int:
        """End open sessions that were last seen before an instant; return how many."""

    async def prune(self, *, last_seen_before_micros: int, rows_max: int) -> int:
        """Forget sessions that ended long ago; return how many."""
