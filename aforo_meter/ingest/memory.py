"""What this process remembers: keys it has accepted durably, sessions that clients mentioned."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from aforo_meter.ingest.ledger_look import LedgerLook, Pair

POLL_S: Final = 1.0
SESSIONS_MAX: Final = 10_000  # Of one key.
IDLE_S: Final = 3600.0
KILLED_ANSWERED_MAX: Final = 1000


class Accepted:
    """Events that are durable, by tenant and id, until the ledger has them.

    Only what was accepted durably may be added: the client's retry of anything else must go on.
    They are kept in two generations, of which the older is dropped when the younger is full.
    """

    def __init__(self, count_max: int) -> None:
        self._generation_max = max(1, count_max // 2)
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def __contains__(self, pair: Pair) -> bool:
        digest = _digest(pair)
        return digest in self._young or digest in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            if len(self._young) >= self._generation_max:
                self._old, self._young = self._young, set()
            self._young.add(_digest(pair))


class Sessions:
    """Sessions that each key has mentioned, and which of them an operator has killed."""

    def __init__(
        self, ledger: LedgerLook, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._clock_s = clock_s
        # By key: session → (tenant, last mentioned). Oldest mention first.
        self._mentioned: dict[str, OrderedDict[str, tuple[str, float]]] = {}
        self._killed: frozenset[Pair] = frozenset()

    def tenant_of(self, key_id: str, session_id: str) -> str:
        """Return whose usage mentioned the session under this key; "" if none did."""
        sessions = self._mentioned.get(key_id)
        found = sessions.get(session_id) if sessions else None
        return found[0] if found else ""

    def mention(self, key_id: str, tenant_id: str, session_id: str) -> None:
        sessions = self._mentioned.setdefault(key_id, OrderedDict())
        tenant_id = tenant_id or self.tenant_of(key_id, session_id)
        sessions[session_id] = (tenant_id, self._clock_s())
        sessions.move_to_end(session_id)
        if len(sessions) > SESSIONS_MAX:
            sessions.popitem(last=False)

    def killed(self, key_id: str) -> Sequence[str]:
        """Return the sessions of a key that were killed, the latest mentioned first."""
        if not self._killed:
            return []
        mentioned = reversed(self._mentioned.get(key_id, OrderedDict()).items())
        found = [name for name, (tenant, _) in mentioned if (tenant, name) in self._killed]
        return found[:KILLED_ANSWERED_MAX]

    async def follow(self) -> None:
        """Ask the ledger each second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        self._forget_idle()
        pairs = {
            (tenant, name)
            for sessions in self._mentioned.values()
            for name, (tenant, _) in sessions.items()
        }
        found = await self._ledger.killed(pairs)
        if found is not None:
            self._killed = frozenset(found)

    def _forget_idle(self) -> None:
        before_s = self._clock_s() - IDLE_S
        for key_id, sessions in list(self._mentioned.items()):
            while sessions and next(iter(sessions.values()))[1] < before_s:
                sessions.popitem(last=False)
            if not sessions:
                del self._mentioned[key_id]


def _digest(pair: Pair) -> bytes:
    return hashlib.blake2b("\0".join(pair).encode(), digest_size=16).digest()
