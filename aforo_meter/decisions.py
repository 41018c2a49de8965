"""What authz has decided, from Redis: read every few seconds, kept in the ledger.

Totals are absolute and grow, so reading them twice, or from several consumers, changes nothing; and
an emptied Redis takes away only what was counted since the last look.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from aforo_meter.completeness import Completeness, Decided
from aforo_meter.domain.periods import HOUR_MICROS

HOUR_S: Final = 3600
HOURS_KEPT: Final = 73  # Redis keeps an hour's totals for three days from its beginning.
HOURS_FRESH: Final = 2
LOOKS_UNTIL_OLD: Final = 60  # Hours that are over are looked at with every n-th look.
ROWS_MAX: Final = 1000  # In one transaction: charges wait behind it.
SCAN_COUNT: Final = 1000
NOBODY: Final = "?"  # As whom authz counts calls of nobody; in the ledger and in events it is "".

log = structlog.get_logger()


def processes_key(hour_s: int) -> str:
    """Return the key of the names under which an hour's decisions were counted."""
    return f"aforo:decisions:v1:{hour_s}"


def decisions_key(hour_s: int, process: str) -> str:
    return f"{processes_key(hour_s)}:{process}"


class Decisions:
    """Remembers what it has kept, so that only what grew is written. One event loop."""

    def __init__(self, redis: Redis, completeness: Completeness) -> None:
        self._redis = redis
        self._completeness = completeness
        self._known: dict[tuple[int, str], Mapping[bytes, bytes]] = {}  # Of fresh hours.
        self._digests: dict[tuple[int, str], int] = {}  # Of all: an hour that is over stays alike.
        self._looks = 0

    async def keep(self, *, now_micros: int) -> int:
        """Bring the ledger up to what Redis says; return how many totals had grown.

        Raises:
            RedisError, OSError: Redis does not answer.
            LedgerUnavailableError: The ledger does not answer. It is kept with the next look.
        """
        this_hour_s = now_micros // HOUR_MICROS * HOUR_S
        count = HOURS_FRESH if self._looks % LOOKS_UNTIL_OLD else HOURS_KEPT
        # A decision's hour is that of authz' clock, which may be ahead of ours.
        hours = [this_hour_s + HOUR_S * (1 - back) for back in range(count + 1)]
        grown = 0
        for hour_s in hours:
            names: Any = await self._redis.smembers(processes_key(hour_s))
            for name in names:
                grown += await self._keep_process(hour_s, name.decode(errors="replace"))
        self._looks += 1
        fresh_s, oldest_s = this_hour_s - HOUR_S * HOURS_FRESH, this_hour_s - HOUR_S * HOURS_KEPT
        self._known = {key: known for key, known in self._known.items() if key[0] >= fresh_s}
        self._digests = {key: seen for key, seen in self._digests.items() if key[0] >= oldest_s}
        return grown

    async def _keep_process(self, hour_s: int, process: str) -> int:
        totals = self._redis.hscan_iter(decisions_key(hour_s, process), count=SCAN_COUNT)
        found: dict[bytes, bytes] = {field: value async for field, value in totals}
        digest = hash(frozenset(found.items()))
        if self._digests.get((hour_s, process)) == digest:
            return 0
        known = self._known.get((hour_s, process), {})
        grown = {field: value for field, value in found.items() if known.get(field) != value}
        rows = list(_rows(hour_s, process, grown))
        for start in range(0, len(rows), ROWS_MAX):
            await self._completeness.keep_decided(rows[start : start + ROWS_MAX])
        self._known[hour_s, process] = {**known, **grown}
        self._digests[hour_s, process] = digest
        return len(rows)


def _rows(hour_s: int, process: str, totals: Mapping[bytes, bytes]) -> Iterator[Decided]:
    for field, value in totals.items():
        parts = field.decode(errors="replace").split("|")
        if len(parts) != 3 or not value.isdigit() or int(value) >= 2**63:  # noqa: PLR2004
            log.error("a total of decisions can't be read", process=process, field=field[:200])
            continue
        tenant_id, outcome, features = parts
        yield Decided(
            hour_start_micros=hour_s * 1_000_000,
            tenant_id="" if tenant_id == NOBODY else tenant_id,
            feature=features,
            outcome=outcome,
            process=process,
            decisions=int(value),
        )
