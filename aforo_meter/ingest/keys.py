"""Keys of clients: whose they are and what they may, as sync wrote it to Redis, remembered briefly.

Nothing of a key but its hash is kept, and that is neither logged nor shown.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import DecodeError

from aforo_meter.ingest.redis_link import SYNC_KEY, RedisAwayError, RedisLink
from aforo_proto import metering_pb2

FRESH_S: Final = 1.0  # How late a revocation counts.
KNOWN_MAX: Final = 10_000
UNKNOWN_MAX: Final = 10_000

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key that is in force, or was when Redis was last asked."""

    key_id: str
    installation: str
    may_ingest: bool
    may_read_quotas: bool
    may_correct: bool  # Say what calls at the gateway used after all.
    revoked: bool
    expires_at_micros: int
    tenants: frozenset[str]  # Empty: all.

    def may_report(self, tenant_id: str) -> bool:
        return not self.tenants or tenant_id in self.tenants


class Keys:
    """Lives in one event loop.

    Args:
        link: Redis.
        clock_s: A monotonic clock.
    """

    def __init__(self, link: RedisLink, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock_s = clock_s
        self._known: OrderedDict[str, tuple[Key, float]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()

    async def find(self, secret: str, *, now_micros: int) -> Key | None:
        """Return a key that is in force; None if there is none.

        Raises:
            RedisAwayError: It is not known, and Redis can't be asked.
        """
        name = hashlib.sha256(secret.encode()).hexdigest()
        key = self._remembered(name)
        if key is None and not self._is_unknown(name):
            key = await self._ask(name)
        if key is None or key.revoked:
            return None
        if key.expires_at_micros and now_micros >= key.expires_at_micros:
            return None
        return key

    def _remembered(self, name: str) -> Key | None:
        found = self._known.get(name)
        if found is None or self._clock_s() - found[1] > FRESH_S:
            return None
        return found[0]

    def _is_unknown(self, name: str) -> bool:
        at_s = self._unknown.get(name)
        return at_s is not None and self._clock_s() - at_s <= FRESH_S

    async def _ask(self, name: str) -> Key | None:
        try:
            key = await self._read(name)
        except (RedisAwayError, DecodeError) as error:
            found = self._known.get(name)
            if found is not None:
                return found[0]  # Known keys go on.
            raise RedisAwayError(str(error)) from error
        if key is None:
            self._known.pop(name, None)
            _remember(self._unknown, name, self._clock_s(), UNKNOWN_MAX)
            return None
        self._unknown.pop(name, None)
        _remember(self._known, name, (key, self._clock_s()), KNOWN_MAX)
        return key

    async def _read(self, name: str) -> Key | None:
        value, synced = await self._link.ask(
            ("GET", f"aforo:v1:ingest:{name}"), ("EXISTS", SYNC_KEY)
        )
        if value is not None:
            return _key_of(value)
        if not synced:
            # Without a complete sync what is missing may just not be there yet.
            raise RedisAwayError("redis holds no complete sync")
        return None


def _remember(kept: OrderedDict[str, V], name: str, value: V, count_max: int) -> None:
    kept[name] = value
    kept.move_to_end(name)
    if len(kept) > count_max:
        kept.popitem(last=False)


def _key_of(value: bytes) -> Key:
    message = metering_pb2.IngestKey.FromString(value)
    return Key(
        key_id=message.key_id,
        installation=message.installation,
        may_ingest=metering_pb2.INGEST_SCOPE_USAGE_INGEST in message.scopes,
        may_read_quotas=metering_pb2.INGEST_SCOPE_QUOTAS_READ in message.scopes,
        may_correct=metering_pb2.INGEST_SCOPE_USAGE_CORRECT in message.scopes,
        revoked=message.revoked,
        expires_at_micros=message.expires_at_micros,
        tenants=frozenset(message.tenants),
    )
