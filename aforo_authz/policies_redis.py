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
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from aforo_authz import read_model
from aforo_authz.domain.access import Known
from aforo_authz.domain.features import Rules
from aforo_authz.lookup import get, whole_caller
from aforo_authz.policies import PoliciesUnavailableError, Presented
from aforo_authz.redis_link import Failure, RedisAnswerError
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.remembered import Remembered

log = structlog.get_logger(__name__)

RETRY_S = 0.1
READ_S_MAX = 1.0  # A read is shared; those who wait for it give up earlier, by their own budgets.
ALWAYS_WATCHED = (read_model.ROUTES_KEY, read_model.SYNC_KEY)
HEARD_MAX = 10_000  # More than that is as good as everything.
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
        self._loading: dict[str, asyncio.Future[RedisAnswerError | None]] = {}
        self._next_reading: asyncio.Future[RedisAnswerError | None] = asyncio.Future()
        self._wanted: set[str] = set()  # to be read in the next turn of the loop
        self._changed: set[str] = set()  # told of by Redis, not read again yet
        self._outdated: set[str] = set()  # changed while they were being loaded
        self._reads = 0  # Under way.
        self._heard: set[str] = set()  # Changed while any read was under way.
        self._taught = False  # Does Redis know the script of whole callers?
        self._wake = asyncio.Event()
        self._reloading = asyncio.Lock()
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
        return self._load_and_find(presented, known, budget_s)

    async def run(self) -> None:
        """Keep the cache equal to Redis until cancelled. Errors end in another attempt."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run())
            tasks.create_task(self._reload_changed())

    async def _load_and_find(
        self, presented: Presented, missing: list[str], budget_s: float
    ) -> Known:
        try:
            async with asyncio.timeout(budget_s):
                # Three steps at most: credential, then policy and margin, then the partition.
                while True:
                    await self._load(missing)
                    known = self.remembered.find(presented, stale=self.stale)
                    if isinstance(known, Known):
                        break
                    missing = known
        except TimeoutError as error:
            raise PoliciesUnavailableError(
                f"Redis did not answer in {budget_s * 1000:.0f} ms and nothing is remembered"
            ) from error
        except RedisAnswerError as error:
            raise PoliciesUnavailableError(f"{error}; nothing is remembered") from error
        except read_model.UnreadableValueError as error:
            raise PoliciesUnavailableError(str(error)) from error
        if known.credential is None:
            # While nobody tells of changes, one created now would go unnoticed.
            self.remembered.put_stranger(presented, lasting=not self.stale)
        return known

    async def _load(self, keys: Iterable[str]) -> None:
        """Read keys into the cache; one read per key, however many wait for it."""
        for reading in {self._reading_of(key) for key in keys}:
            # Shielded: others may wait for the same.
            failure = await asyncio.shield(reading)
            if failure is not None and not all(key in self.remembered for key in keys):
                raise failure
        for key in keys:
            if key not in self.remembered:
                raise self._why_missing(key)

    def _reading_of(self, key: str) -> "asyncio.Future[RedisAnswerError | None]":
        """Return what ends when a key has been read: with None, or with why it could not be."""
        reading = self._loading.get(key)
        if reading is None:
            if not self._wanted:
                loop = asyncio.get_running_loop()
                self._next_reading = loop.create_future()
                # The end of this turn of the loop: what else arrived in it comes along.
                loop.call_soon(self._start_reading)
            self._wanted.add(key)
            reading = self._loading[key] = self._next_reading
        return reading

    def _start_reading(self) -> None:
        keys, self._wanted = self._wanted, set()
        work = self._read_wanted(sorted(keys), self._next_reading)
        task = asyncio.get_running_loop().create_task(work)
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    async def _read_wanted(
        self, keys: list[str], reading: "asyncio.Future[RedisAnswerError | None]"
    ) -> None:
        failure: RedisAnswerError | None = None
        try:
            await self._read(keys, whole_callers=True)
        except RedisAnswerError as error:
            failure = error
        finally:
            for key in keys:
                del self._loading[key]
            reading.set_result(failure)
            again = self._outdated.intersection(keys)
            if again:
                self._outdated -= again
                self.on_changed(list(again))

    def _why_missing(self, key: str) -> Exception:
        if self._complete:
            return read_model.UnreadableValueError(key, "it is damaged or of a newer version")
        return PoliciesUnavailableError(
            f"{read_model.SYNC_KEY} is not in Redis: the read model is empty or being filled;"
            " is aforo-admin sync running?"
        )

    async def _read(self, keys: list[str], *, whole_callers: bool = False) -> None:
        """Read keys from Redis and put what can be understood into the cache.

        Args:
            keys: Any of the read model.
            whole_callers: With a credential read its tenant's values as well, where that can be
                had in the same round trip.
        """
        self._reads += 1
        started_s = time.perf_counter()
        try:
            answers = await self._ask(keys, whole_callers=whole_callers)
            if any(isinstance(a, RedisAnswerError) and a.is_unknown_script for a in answers):
                self._taught = False
                answers = await self._ask(keys, whole_callers=whole_callers)
            before, *values, after = answers
            failed = [answer for answer in (before, after) if isinstance(answer, RedisAnswerError)]
            if not failed:
                self._set_complete(before is not None and self._is_trusted(after))
                for key, value in zip(keys, values, strict=True):
                    if isinstance(value, RedisAnswerError) and not value.is_of_the_value:
                        failed.append(value)
                    else:
                        self._take(key, value)
            if failed:
                raise failed[0]
            self._observe("read", time.perf_counter() - started_s, None)
        except RedisAnswerError as error:
            self._observe("read", time.perf_counter() - started_s, error.failure)
            raise
        finally:
            self._reads -= 1
            if not self._reads:
                self._heard.clear()

    async def _ask(self, keys: list[str], *, whole_callers: bool) -> list[Any]:
        whole = whole_callers and not self._nodes.several
        asked = [whole_caller(k, taught=self._taught) if whole else get(k) for k in keys]
        # Before and after: between two looks that both find the mark, absent means absent.
        look = get(read_model.SYNC_KEY)
        return await self._nodes.ask_all([look, *asked, look], budget_s=READ_S_MAX)

    def _take(self, key: str, value: Any) -> None:  # noqa: ANN401 - whatever Redis answered
        """Put a value into the cache, and what came with it."""
        if isinstance(value, list):  # A whole caller.
            self._taught = True
            value, *others = value
            self._take(key, value)
            credential = self.remembered.entries.get(key)
            if not others or credential is None:
                return
            tenant_id = credential.tenant_id
            known = (read_model.policy_key(tenant_id), read_model.margin_key(tenant_id))
            for other, its_value in zip(known, others, strict=True):
                if other not in self.remembered:
                    self._take(other, its_value)
                    if other in self._heard or len(self._heard) >= HEARD_MAX:
                        self.on_changed([other])  # Since this was read.
            return
        if value is None and not self._is_absent(key):
            return
        try:
            if isinstance(value, RedisAnswerError):
                raise read_model.UnreadableValueError(key, str(value))  # noqa: TRY301
            self._put(key, read_model.decode(key, value))
        except read_model.UnreadableValueError as error:
            # The last value that could be read goes on serving.
            self.counts.unreadable += 1
            log.error("unreadable value in Redis", error=str(error))

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
        appeared = complete and not self._complete
        self._complete = complete
        self._was_complete = self._was_complete or complete
        if appeared:
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
        if self._reads and keys is not None and len(self._heard) < HEARD_MAX:
            self._heard.update(keys)
        for key in keys or ():
            self.remembered.forget_stranger(key)
            if key in self._loading:
                # The read under way may be older than the change: another one follows it.
                self._outdated.add(key)
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
        self._outdated.update(self._loading)
        self.remembered.strangers.clear()
        self._wake.set()

    def on_disconnected(self, error: Exception | None) -> None:
        self._taught = False
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
        async with self._reloading:  # One at a time: else an older answer could come last.
            self._wake.clear()
            while self._changed:
                batch = min(len(self._changed), RELOAD_KEYS_MAX)
                keys = [self._changed.pop() for _ in range(batch)]
                try:
                    await self._read(keys)
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
