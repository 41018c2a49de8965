"""Sessions of agents and MCP servers: what events say of them, and when they are over. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple


class Boundary(StrEnum):
    """What an event says of its session."""

    STEP = "step"
    START = "start"
    HEARTBEAT = "heartbeat"  # It lives; never billed.
    END = "end"


class EndedBy(StrEnum):
    NOBODY = ""  # It is open.
    END = "end"
    IDLE = "idle"  # Nothing was heard of it for a while; what comes later opens it again.
    KILLED = "killed"  # For good.


class Sighting(NamedTuple):
    """One event of a session."""

    session_id: str
    boundary: Boundary
    product: str
    agent: str
    at_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    tenant_id: str
    session_id: str
    product: str = ""
    agent: str = ""
    opened_micros: int
    last_seen_micros: int
    started_micros: int | None = None  # The last START; None: it began before we heard of it.
    ended_micros: int | None = None
    steps: int = 0
    ended_by: EndedBy = EndedBy.NOBODY
    killed_micros: int | None = None


def seen(session: Session | None, tenant_id: str, sighting: Sighting) -> Session:
    """Return a session after an event. The order in which its events arrive changes nothing."""
    at_micros = sighting.at_micros
    if session is None:
        session = Session(
            tenant_id=tenant_id,
            session_id=sighting.session_id,
            opened_micros=at_micros,
            last_seen_micros=at_micros,
        )
    started_micros, ended_micros = session.started_micros, session.ended_micros
    ended_by = session.ended_by
    if ended_by is EndedBy.IDLE and at_micros > session.last_seen_micros:
        ended_micros, ended_by = None, EndedBy.NOBODY
    if sighting.boundary is Boundary.START:
        started_micros = max(at_micros, started_micros or at_micros)
    if sighting.boundary is Boundary.END and ended_by is not EndedBy.KILLED:
        told_micros = None if ended_by is EndedBy.IDLE else ended_micros
        ended_micros, ended_by = max(at_micros, told_micros or at_micros), EndedBy.END
    if ended_by is EndedBy.END and (started_micros or 0) > (ended_micros or 0):
        ended_by = EndedBy.NOBODY  # It has begun anew under its old name. The old end is kept:
        # one that comes late must not undo the start.
    return replace(
        session,
        product=session.product or sighting.product,
        agent=session.agent or sighting.agent,
        opened_micros=min(session.opened_micros, at_micros),
        last_seen_micros=max(session.last_seen_micros, at_micros),
        started_micros=started_micros,
        ended_micros=ended_micros,
        steps=session.steps + (sighting.boundary is Boundary.STEP),
        ended_by=ended_by,
    )


def killed(session: Session, *, now_micros: int) -> Session:
    """Return a session that nobody may go on with. One that is killed stays as it is."""
    if session.killed_micros is not None:
        return session
    return replace(
        session, ended_by=EndedBy.KILLED, ended_micros=now_micros, killed_micros=now_micros
    )
