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
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from aforo_authz import read_model
from aforo_authz.domain.access import Credential, Known, Margin, Policy
from aforo_authz.domain.features import Rules
from aforo_authz.policies import STRANGER, PoliciesUnavailableError, Presented, same_kind
from aforo_authz.tracking import follow

log = structlog.get_logger(__name__)

RETRY_S = 0.1
RETRY_AFTER_OWN_ERROR_S = 1.0
ALWAYS_WATCHED = (read_model.ROUTES_KEY, read_model.SYNC_KEY)
RELOAD_KEYS_MAX = 100  # Keys in one pipeline: decoding them keeps the loop busy for 2 ms.


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
        redis: A client with timeouts; its connections are used for look-ups.
        tracking: Makes a client of its own for the tracking connection.
        entries_max: Keys remembered; the least recently used go first.
        strangers_max: Unknown credentials remembered, so that guessing keys spares Redis.
    """

    def __init__(
        self,
        redis: Redis,
        tracking: Callable[[], Redis],
        *,
        entries_max: int = 300_000,
        strangers_max: int = 10_000,
    ) -> None:
        self._redis = redis
        self._tracking = tracking
        self._entries: OrderedDict[str, Any] = OrderedDict()  # key → decoded value, None: absent
        self._entries_max = entries_max
        self._strangers: OrderedDict[str, None] = OrderedDict()
        self._strangers_max = strangers_max
        self._loading: dict[str, asyncio.Future[None]] = {}
        self._wanted: set[str] = set()  # to be read in the next turn of the loop
        self._changed: set[str] = set()  # told of by Redis, not read again yet
        self._outdated: set[str] = set()  # changed while they were being loaded
        self._wake = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._readers: set[asyncio.Task[None]] = set()
        self._followed = False  # Does Redis tell us of changes?
        self._current = False  # Was all that it told of read again?
        self._complete = False  # Was aforo:v1:sync there at the last look?
        self._was_complete = False
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
        return not (self._followed and self._current and self._complete)

    def find(self, presented: Presented, budget_s: float) -> Known | Awaitable[Known]:
        if presented.sha256_hex in self._strangers:
            return STRANGER
        known = self._compose(presented)
        if isinstance(known, Known):
            self.counts.hits += 1
            return known
        self.counts.misses += 1
        return self._load_and_find(presented, known, budget_s)

    async def run(self) -> None:
        """Keep the cache equal to Redis until cancelled. Errors end in another attempt."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._persist(self._follow_changes))
            tasks.create_task(self._persist(self._reload_changed))

    def _compose(self, presented: Presented) -> Known | list[str]:
        """Return what is known, or the keys that have to be read before it can be told."""
        entries = self._entries
        cred_key = read_model.credential_key(presented.sha256_hex)
        if cred_key not in entries:
            return [cred_key]
        entries.move_to_end(cred_key)
        credential: Credential | None = same_kind(entries[cred_key], presented)
        if credential is None:
            return STRANGER
        policy_key = read_model.policy_key(credential.tenant_id)
        margin_key = read_model.margin_key(credential.tenant_id)
        if policy_key not in entries or margin_key not in entries:
            return [policy_key, margin_key]
        entries.move_to_end(policy_key)
        entries.move_to_end(margin_key)
        policy: Policy | None = entries[policy_key]
        found: tuple[Margin, int] | None = entries[margin_key]
        if found is None:
            return Known(presented=True, credential=credential, policy=policy, stale=self.stale)
        margin, partition = found
        consumed_key = read_model.consumed_key(partition)
        if consumed_key not in entries:
            return [consumed_key]
        entries.move_to_end(consumed_key)
        return Known(
            presented=True,
            credential=credential,
            policy=policy,
            margin=margin,
            margin_confirmed_micros=entries[consumed_key] or 0,
            stale=self.stale,
        )

    async def _load_and_find(
        self, presented: Presented, missing: list[str], budget_s: float
    ) -> Known:
        try:
            async with asyncio.timeout(budget_s):
                # Three steps at most: credential, then policy and margin, then the partition.
                while True:
                    await self._load(missing)
                    known = self._compose(presented)
                    if isinstance(known, Known):
                        break
                    missing = known
        except (RedisError, OSError, TimeoutError) as error:
            raise PoliciesUnavailableError(
                f"Redis did not answer in {budget_s * 1000:.0f} ms and nothing is remembered"
            ) from error
        except read_model.UnreadableValueError as error:
            raise PoliciesUnavailableError(str(error)) from error
        if known.credential is None:
            self._remember_stranger(presented)
        return known

    async def _load(self, keys: Iterable[str]) -> None:
        """Read keys into the cache; one read per key, however many wait for it."""
        loop = asyncio.get_running_loop()
        waits = []
        for key in keys:
            future = self._loading.get(key)
            if future is None:
                future = self._loading[key] = loop.create_future()
                if not self._wanted:
                    # The end of this turn of the loop: what else arrived in it comes along.
                    loop.call_soon(self._start_reading)
                self._wanted.add(key)
            waits.append(asyncio.shield(future))
        await asyncio.gather(*waits)

    def _start_reading(self) -> None:
        keys, self._wanted = self._wanted, set()
        task = asyncio.get_running_loop().create_task(self._read_wanted(sorted(keys)))
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    async def _read_wanted(self, keys: list[str]) -> None:
        failure: BaseException | None = None
        try:
            await self._read(keys)
        except (RedisError, OSError, TimeoutError) as error:
            failure = error
        finally:
            for key in keys:
                future = self._loading.pop(key)
                if key in self._entries:
                    future.set_result(None)
                else:
                    future.set_exception(failure or self._why_missing(key))
                    future.exception()  # Mark as seen: its waiters may have given up.
            again = self._outdated.intersection(keys)
            if again:
                self._outdated -= again
                self._on_change(list(again))

    def _why_missing(self, key: str) -> Exception:
        if self._complete:
            return read_model.UnreadableValueError(key, "it is damaged or of a newer version")
        return PoliciesUnavailableError(
            f"{read_model.SYNC_KEY} is not in Redis: the read model is empty or being filled;"
            " is aforo-admin sync running?"
        )

    async def _read(self, keys: list[str]) -> None:
        """Read keys from Redis and put what can be understood into the cache."""
        pipeline = self._redis.pipeline(transaction=False)
        # Before and after: between two looks that both find the mark, absent means absent.
        for key in (read_model.SYNC_KEY, *keys, read_model.SYNC_KEY):
            pipeline.get(key)
        before, *values, after = await pipeline.execute(raise_on_error=False)
        for answer in (before, after):
            if isinstance(answer, Exception):
                raise answer
        self._set_complete(before is not None and after is not None)
        for key, value in zip(keys, values, strict=True):
            if value is None and not self._is_absent(key):
                continue
            try:
                if isinstance(value, ResponseError):
                    raise read_model.UnreadableValueError(key, str(value))  # noqa: TRY301
                self._put(key, read_model.decode(key, value))
            except read_model.UnreadableValueError as error:
                # The last value that could be read goes on serving.
                self.counts.unreadable += 1
                log.error("unreadable value in Redis", error=str(error))

    def _is_absent(self, key: str) -> bool:
        """Does a value that isn't there mean that there is none?"""
        if read_model.is_consumers(key) and self._entries.get(key) is not None:
            return False  # A level, and usage, hold until they are published again.
        return self._complete

    def _set_complete(self, complete: bool) -> None:  # noqa: FBT001 - its name says it
        appeared = complete and not self._complete
        self._complete = complete
        self._was_complete = self._was_complete or complete
        if appeared:
            # What was kept meanwhile may have changed or gone.
            self._on_change(None)
        self._tell_state()

    def _put(self, key: str, value: Any) -> None:  # noqa: ANN401 - one cache for every kind
        if key == read_model.SYNC_KEY:
            self.synced_micros = value or self.synced_micros
            return
        if key == read_model.ROUTES_KEY:
            self.rules = value if value is not None else Rules()
            return
        if value is not None:
            self._forget_stranger(key)
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def _remember_stranger(self, presented: Presented) -> None:
        # Out of the big table: a guesser must not push tenants out of it.
        key = read_model.credential_key(presented.sha256_hex)
        if self._entries.get(key, self) is not None:
            return
        del self._entries[key]
        if not self.stale:  # Else nobody would tell of a credential created now.
            self._strangers[presented.sha256_hex] = None
            while len(self._strangers) > self._strangers_max:
                self._strangers.popitem(last=False)

    def _on_change(self, keys: list[str] | None) -> None:
        """Note what Redis says has changed; None means everything."""
        if keys is None:
            self._changed.update(self._entries, ALWAYS_WATCHED)
            self._outdated.update(self._loading)
            self._strangers.clear()
        for key in keys or ():
            self._forget_stranger(key)
            if key in self._loading:
                # The read under way may be older than the change: another one follows it.
                self._outdated.add(key)
            elif key in self._entries or key in ALWAYS_WATCHED:
                self._changed.add(key)
        if self._changed:
            self._wake.set()

    def _forget_stranger(self, key: str) -> None:
        prefix = read_model.credential_key("")
        if key.startswith(prefix):
            self._strangers.pop(key.removeprefix(prefix), None)

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin again after any error: what is known goes on serving meanwhile, marked stale."""
        while True:
            try:
                await work()
            except (RedisError, OSError, TimeoutError) as error:
                self._tell_state(error)
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                log.exception("the cache broke")
                self._tell_state(error)
                await asyncio.sleep(RETRY_AFTER_OWN_ERROR_S)

    async def _follow_changes(self) -> None:
        try:
            async with contextlib.aclosing(follow(self._tracking(), read_model.PREFIX)) as changes:
                async for keys in changes:
                    self._on_change(keys)
                    if keys is None:
                        # Just connected, or Redis was emptied: all of it may have changed.
                        await self._reload()
                        self._followed = True
                        self._tell_state()
        finally:
            self._followed = False
            self._strangers.clear()

    async def _reload_changed(self) -> None:
        while True:
            await self._wake.wait()
            await self._reload()

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
                    self._strangers.clear()
                    raise
                self.counts.reloads += len(keys)
            self._current = True
            self._tell_state()

    def _tell_state(self, error: Exception | None = None) -> None:
        """Log when the state changes, and only then."""
        if error is None and not self._followed:
            return  # Still connecting.
        state = (self._followed and self._current, self._complete)
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
            log.info("the cache follows Redis", entries=len(self._entries))
