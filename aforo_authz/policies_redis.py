"""The near-cache: the read model of Redis in this process, kept equal by Redis itself.

Redis tells a tracking connection (`CLIENT TRACKING … BCAST`) which keys changed; those held here
are read again at once, so a decision never waits for a value it has seen before. While that
connection is down everything still serves, marked stale.

An absent key means "there is none" only while `aforo:v1:sync` is there: sync writes it last. In a
Redis that was emptied, or is being filled, what is remembered goes on serving, and an unknown
caller is an outage, not a stranger: nobody is turned away because a cache lost its memory. What the
consumer writes has no such mark, since several consumers fill Redis, each its own partitions: once
known, a margin holds until another one is there. It ends by itself with its period.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from aforo_authz import read_model
from aforo_authz.domain.access import Known
from aforo_authz.domain.features import Rules
from aforo_authz.lookup import LOOKUP, LOOKUP_SHA
from aforo_authz.policies import PoliciesUnavailableError, Presented
from aforo_authz.readings import Reading, Readings
from aforo_authz.redis_link import Failure, RedisAnswerError, Told
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.remembered import Remembered

log = structlog.get_logger(__name__)

RETRY_S = 0.1
READ_S_MAX = 1.0  # A read is shared; those who wait for it give up earlier, by their own budgets.
ALWAYS_WATCHED = (read_model.ROUTES_KEY, read_model.SYNC_KEY)
RELOAD_KEYS_MAX = 100  # Keys in one read: decoding them keeps the loop busy for 2 ms.


@dataclass(slots=True)
class CacheCounts:
    """What the cache did since the start; read by the metrics."""

    hits: int = 0
    misses: int = 0
    reloads: int = 0
    unreadable: int = 0


class NearCache:
    """Policies over Redis, remembered. One per process; lives in one event loop.

    Args:
        nodes: Redis; its follower is this cache.
        entries_max: Keys remembered; the least recently used go first.
        bytes_max: Memory that they may take, about.
        strangers_max: Unknown credentials remembered, so that guessing keys spares Redis.
        observe: Told of what Redis took, for the metrics: (purpose, seconds, failure).
    """

    def __init__(
        self,
        nodes: RedisNodes,
        *,
        entries_max: int = 400_000,
        bytes_max: int = 256 << 20,
        strangers_max: int = 10_000,
        observe: Callable[[str, float, Failure | None], None] = lambda *_: None,
    ) -> None:
        self._nodes = nodes
        self._observe = observe
        nodes.follower = self
        self.remembered = Remembered(
            entries_max=entries_max, bytes_max=bytes_max, strangers_max=strangers_max
        )
        self._readings = Readings(nodes)
        self._changed: set[str] = set()  # told of by Redis, not read again yet
        self._wake = asyncio.Event()
        self._readers: set[asyncio.Task[None]] = set()
        self._current = False  # Was all that Redis told of read again?
        self._complete = False  # Was aforo:v1:sync there at the last look?
        self._was_complete = False
        self._doubted_micros = -1  # A sync that was complete then says nothing of what is absent.
        self._told: tuple[bool, bool] | None = None  # What the log last said.
        self.rules = Rules()
        self.synced_micros = 0  # When the last pass of sync was complete, as far as is known.
        self.counts = CacheCounts()

    @property
    def ready(self) -> bool:
        """Was the read model complete once? From then on the last known values can serve."""
        return self._was_complete

    @property
    def stale(self) -> bool:
        """Can the values not be confirmed: no word from Redis, or no complete sync in it?"""
        return not (self._nodes.connected and self._current and self._complete)

    def find(self, presented: Presented, budget_s: float) -> Known | Awaitable[Known]:
        known = self.remembered.find(presented, stale=self.stale)
        if isinstance(known, Known):
            self.counts.hits += 1
            return known
        self.counts.misses += 1
        # Begun here, not by the coroutine: so the question leaves in this turn of the loop.
        return self._find_when_read(presented, known, self._readings_of(known), budget_s)

    async def run(self) -> None:
        """Keep the cache equal to Redis until cancelled. Errors end in another attempt."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run())
            tasks.create_task(self._reload_changed())

    async def _find_when_read(
        self, presented: Presented, missing: list[str], readings: list[Reading], budget_s: float
    ) -> Known:
        now_s = asyncio.get_running_loop().time
        ends_s = now_s() + budget_s
        # Three steps at most: credential, then policy and margin, then the partition.
        while True:
            for reading in readings:
                if not reading.over:
                    try:
                        await self._readings.wait(reading, ends_s - now_s())
                    except RedisAnswerError as error:
                        raise _unavailable(error) from error
                if reading.failure is not None:
                    raise _unavailable(reading.failure)
                for key in reading.unread:
                    if key in missing:
                        raise self._why_missing(key)
            known = self.remembered.find(presented, stale=self.stale)
            if isinstance(known, Known):
                break
            missing, readings = known, self._readings_of(known)
        if known.credential is None:
            # While nobody tells of changes, one created now would go unnoticed.
            self.remembered.put_stranger(presented, lasting=not self.stale)
        return known

    def _readings_of(self, keys: list[str]) -> list[Reading]:
        """Return the readings that bring these keys; begin one of those that nobody reads yet."""
        found = [self._readings.get(key) for key in keys]
        readings = [reading for reading in found if reading is not None]
        if len(readings) < len(keys):
            begun = self._readings.begin(keys)
            readings.append(begun)
            if read_model.is_credential(keys[0]) and not self._nodes.several:
                self._look_up(begun, "EVALSHA", LOOKUP_SHA)
            else:
                self._read_later(begun)
        return readings

    def _end(self, reading: Reading, failure: RedisAnswerError | None, started_s: float) -> None:
        failed = None if failure is None else failure.failure
        self._observe("read", time.perf_counter() - started_s, failed)
        if changed := self._readings.end(reading, failure):
            self.on_changed(changed)

    def _look_up(self, reading: Reading, command: str, script: str) -> None:
        """Read all of a caller by one script: only where one server has every key."""
        (key,) = reading.keys
        told = Told(functools.partial(self._on_caller, reading, time.perf_counter()))
        self._nodes.send(key, (command, script, 0, key), told, budget_s=READ_S_MAX)

    def _on_caller(self, reading: Reading, started_s: float, answer: Any) -> None:  # noqa: ANN401 - Redis'
        """Take what Redis answered of a caller, before anything that it says afterwards."""
        failure: RedisAnswerError | None = None
        try:
            if not isinstance(answer, RedisAnswerError):
                self._take_caller(reading, *answer)
            elif answer.is_unknown_script:
                self._look_up(reading, "EVAL", LOOKUP)  # This also teaches it the script.
                return
            elif answer.failure is Failure.REFUSED:
                self._read_later(reading)  # One by one, to see which of them is no good.
                return
            else:
                failure = answer
        except Exception:
            # A wrong turn of ours must not cost the connection that told us.
            log.exception("the cache broke")
        self._end(reading, failure, started_s)

    def _take_caller(
        self, reading: Reading, mark: bytes | None, credential: bytes | None, *others: bytes | None
    ) -> None:
        self._set_complete(mark is not None)
        (key,) = reading.keys
        reading.unread = [] if self._take(key, credential) else [key]
        taken = self.remembered.entries.get(key)
        if others and taken is not None:
            policy, margin = others
            for other, value in (
                (read_model.policy_key(taken.tenant_id), policy),
                (read_model.margin_key(taken.tenant_id), margin),
            ):
                if other not in self.remembered:
                    self._take(other, value)

    def _read_later(self, reading: Reading) -> None:
        async def read() -> None:
            with contextlib.suppress(RedisAnswerError):  # Who waits is told.
                await self._read(reading)

        task = asyncio.get_running_loop().create_task(read())
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    def _why_missing(self, key: str) -> PoliciesUnavailableError:
        if self._complete:
            why = read_model.UnreadableValueError(key, "it is damaged or of a newer version")
            return PoliciesUnavailableError(str(why))
        return PoliciesUnavailableError(
            f"{read_model.SYNC_KEY} is not in Redis: the read model is empty or being filled;"
            " is aforo-admin sync running?"
        )

    async def _read(self, reading: Reading) -> None:
        """Read keys from Redis and put what can be understood into the cache.

        Raises:
            RedisAnswerError: Redis could not be asked.
        """
        # Before and after: between two looks that both find the mark, absent means absent.
        asked = [("GET", k) for k in (read_model.SYNC_KEY, *reading.keys, read_model.SYNC_KEY)]
        failure: RedisAnswerError | None = None
        started_s = time.perf_counter()
        try:
            before, *values, after = await self._nodes.ask_all(asked, budget_s=READ_S_MAX)
            for answer in (before, after):
                if isinstance(answer, RedisAnswerError):
                    raise answer
            self._set_complete(before is not None and self._is_trusted(after))
            reading.unread = self._take_all(zip(reading.keys, values, strict=True))
        except RedisAnswerError as error:
            failure = error
            raise
        finally:
            self._end(reading, failure, started_s)

    def _take_all(self, pairs: Iterable[tuple[str, Any]]) -> list[str]:
        """Put values into the cache; return the keys of which nothing is remembered.

        Raises:
            RedisAnswerError: Redis refused to tell some of them. The others are taken.
        """
        unread, refused = [], None
        for key, value in pairs:
            if isinstance(value, RedisAnswerError) and not value.is_of_the_value:
                refused = refused or value
            elif not self._take(key, value):
                unread.append(key)
        if refused is not None:
            raise refused
        return unread

    def _take(self, key: str, value: Any) -> bool:  # noqa: ANN401 - whatever Redis answered
        """Put a value into the cache, if it can be understood; say if anything is remembered."""
        if value is None and not self._is_absent(key):
            return key in self.remembered
        try:
            if isinstance(value, RedisAnswerError):
                raise read_model.UnreadableValueError(key, str(value))  # noqa: TRY301
            self._put(key, read_model.decode(key, value))
        except read_model.UnreadableValueError as error:
            # The last value that could be read goes on serving.
            self.counts.unreadable += 1
            log.error("unreadable value in Redis", error=str(error))
            return key in self.remembered
        return True

    def _is_absent(self, key: str) -> bool:
        """Does a value that isn't there mean that there is none?"""
        if read_model.is_consumers(key) and self.remembered.entries.get(key) is not None:
            return False  # A level, and usage, hold until they are published again.
        return self._complete

    def _is_trusted(self, mark: bytes | None) -> bool:
        """Does sync's mark say that all is there? In a cluster it stands on one server only."""
        if mark is None or not self._nodes.several:
            return mark is not None
        try:
            return read_model.synced_of(read_model.SYNC_KEY, mark) > self._doubted_micros
        except read_model.UnreadableValueError:
            return False

    def _doubt_absence(self) -> None:
        """Believe of no key that it is absent, until sync has looked at all of them again.

        One server of a cluster may have lost its memory while the mark stands on another.
        """
        if self._nodes.several:
            self._doubted_micros = self.synced_micros

    def _set_complete(self, complete: bool) -> None:  # noqa: FBT001 - its name says it
        if complete == self._complete:
            return
        self._complete = complete
        if complete:
            self._was_complete = True
            self._suspect_all()  # What was kept meanwhile may have changed or gone.
        self._tell_state()

    def _put(self, key: str, value: Any) -> None:  # noqa: ANN401 - one cache for every kind
        if key == read_model.SYNC_KEY:
            self.synced_micros = value or self.synced_micros
            return
        if key == read_model.ROUTES_KEY:
            self.rules = value if value is not None else Rules()
            return
        self.remembered.put(key, value)

    def on_changed(self, keys: list[str] | None) -> None:
        """Note what Redis says has changed; None means everything."""
        if keys is None:
            self._doubt_absence()
            self._suspect_all()
        for key in keys or ():
            self.remembered.forget_stranger(key)
            if key in self._readings:
                self._readings.outdate(key)  # Read again when that is over.
            elif key in self.remembered or key in ALWAYS_WATCHED:
                self._changed.add(key)
        if self._changed:
            self._wake.set()

    def on_connected(self) -> None:
        self._current = False
        self._suspect_all()

    def _suspect_all(self) -> None:
        """Read again what is known: all of it may have changed, unnoticed."""
        self._changed.update(self.remembered, ALWAYS_WATCHED)
        self._readings.outdate_all()
        self.remembered.strangers.clear()
        self._wake.set()

    def on_disconnected(self, error: Exception | None) -> None:
        self._doubt_absence()
        self.remembered.strangers.clear()
        self._tell_state(error)

    async def _reload_changed(self) -> None:
        while True:
            await self._wake.wait()
            try:
                await self._reload()
            except RedisAnswerError as error:
                self._tell_state(error)
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                # What is known goes on serving, marked stale: a wrong turn of ours is no outage.
                log.exception("the cache broke")
                self._tell_state(error)
                await asyncio.sleep(RETRY_S)

    async def _reload(self) -> None:
        """Read again what has changed. What can't be read stays marked as changed."""
        self._wake.clear()
        while self._changed:
            batch = min(len(self._changed), RELOAD_KEYS_MAX)
            keys = [self._changed.pop() for _ in range(batch)]
            try:
                # What is being read already was asked for after it had changed.
                await self._read(self._readings.begin(keys))
            except BaseException:
                self._changed.update(keys)
                self._wake.set()
                self._current = False
                self.remembered.strangers.clear()
                raise
            self.counts.reloads += len(keys)
        self._current = True
        self._tell_state()

    def _tell_state(self, error: Exception | None = None) -> None:
        """Log when the state changes, and only then."""
        if error is None and not (self._nodes.connected and self._current):
            return  # Still connecting, or reading.
        state = (self._nodes.connected and self._current, self._complete)
        if state == self._told:
            return
        self._told = state
        confirmed, complete = state
        if not confirmed:
            log.warning("no word from Redis: the last known values serve", error=repr(error))
        elif not complete:
            log.warning(
                "the read model in Redis is incomplete: the last known values serve;"
                " is aforo-admin sync running?"
            )
        else:
            log.info("the cache follows Redis", entries=len(self.remembered.entries))


def _unavailable(error: RedisAnswerError) -> PoliciesUnavailableError:
    return PoliciesUnavailableError(f"{error}; nothing is remembered")
