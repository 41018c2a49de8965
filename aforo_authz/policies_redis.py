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
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from aforo_authz import read_model
from aforo_authz.domain.access import Credential, Known, Margin, Policy
from aforo_authz.domain.features import Rules
from aforo_authz.lru import MISSING, Lru
from aforo_authz.policies import STRANGER, PoliciesUnavailableError, Presented, same_kind
from aforo_authz.redis_link import RedisAnswerError
from aforo_authz.redis_nodes import RedisNodes

log = structlog.get_logger(__name__)

RETRY_S = 0.1
READ_S_MAX = 1.0  # A read is shared; those who wait for it give up earlier, by their own budgets.
ALWAYS_WATCHED = (read_model.ROUTES_KEY, read_model.SYNC_KEY)
COMPOSED_MAX = 10_000
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
    """

    def __init__(
        self,
        nodes: RedisNodes,
        *,
        entries_max: int = 400_000,
        bytes_max: int = 256 << 20,
        strangers_max: int = 10_000,
    ) -> None:
        self._nodes = nodes
        nodes.follower = self
        self.entries = Lru(  # key → decoded value, None: absent
            entries_max=entries_max, bytes_max=bytes_max, bytes_of=read_model.bytes_of
        )
        self._composed: dict[str, Known] = {}  # By hash of the credential, from the entries.
        self._strangers = Lru(entries_max=strangers_max)
        self._loading: dict[str, asyncio.Future[None]] = {}
        self._wanted: set[str] = set()  # to be read in the next turn of the loop
        self._changed: set[str] = set()  # told of by Redis, not read again yet
        self._outdated: set[str] = set()  # changed while they were being loaded
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
        composed = self._composed.get(presented.sha256_hex)
        if composed is not None and self._is_current(composed, presented):
            self.counts.hits += 1
            return composed
        if presented.sha256_hex in self._strangers:
            return STRANGER
        known = self._compose(presented)
        if isinstance(known, Known):
            self.counts.hits += 1
            self._remember(presented, known)
            return known
        self.counts.misses += 1
        return self._load_and_find(presented, known, budget_s)

    def _is_current(self, known: Known, presented: Presented) -> bool:
        return known.stale is self.stale and same_kind(known.credential, presented) is not None

    def _remember(self, presented: Presented, known: Known) -> None:
        """Give the same object again until any value changes: what was decided on it holds on."""
        if known.credential is None:
            return  # Nobody's: it must not take anybody's place.
        if len(self._composed) >= COMPOSED_MAX:
            self._composed.clear()
        self._composed[presented.sha256_hex] = known

    async def run(self) -> None:
        """Keep the cache equal to Redis until cancelled. Errors end in another attempt."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run())
            tasks.create_task(self._reload_changed())

    def _compose(self, presented: Presented) -> Known | list[str]:
        """Return what is known, or the keys that have to be read before it can be told."""
        get, touch = self.entries.get, self.entries.touch
        cred_key = read_model.credential_key(presented.sha256_hex)
        found = get(cred_key, MISSING)
        if found is MISSING:
            return [cred_key]
        touch(cred_key)
        credential: Credential | None = same_kind(found, presented)
        if credential is None:
            return STRANGER
        policy_key = read_model.policy_key(credential.tenant_id)
        margin_key = read_model.margin_key(credential.tenant_id)
        policy: Policy | None = get(policy_key, MISSING)
        found = get(margin_key, MISSING)
        if policy is MISSING or found is MISSING:
            return [policy_key, margin_key]
        touch(policy_key)
        touch(margin_key)
        if found is None:
            return Known(presented=True, credential=credential, policy=policy, stale=self.stale)
        margin: Margin
        margin, partition = found
        consumed_key = read_model.consumed_key(partition)
        confirmed_micros = get(consumed_key, MISSING)
        if confirmed_micros is MISSING:
            return [consumed_key]
        touch(consumed_key)
        return Known(
            presented=True,
            credential=credential,
            policy=policy,
            margin=margin,
            margin_confirmed_micros=confirmed_micros or 0,
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
        except TimeoutError as error:
            raise PoliciesUnavailableError(
                f"Redis did not answer in {budget_s * 1000:.0f} ms and nothing is remembered"
            ) from error
        except RedisAnswerError as error:
            raise PoliciesUnavailableError(f"{error}; nothing is remembered") from error
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
        except RedisAnswerError as error:
            failure = error
        finally:
            for key in keys:
                future = self._loading.pop(key)
                if key in self.entries:
                    future.set_result(None)
                else:
                    future.set_exception(failure or self._why_missing(key))
                    future.exception()  # Mark as seen: its waiters may have given up.
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

    async def _read(self, keys: list[str]) -> None:
        """Read keys from Redis and put what can be understood into the cache."""
        # Before and after: between two looks that both find the mark, absent means absent.
        asked = [("GET", key) for key in (read_model.SYNC_KEY, *keys, read_model.SYNC_KEY)]
        before, *values, after = await self._nodes.ask_all(asked, budget_s=READ_S_MAX)
        for answer in (before, after):
            if isinstance(answer, RedisAnswerError):
                raise answer
        self._set_complete(before is not None and self._is_trusted(after))
        for key, value in zip(keys, values, strict=True):
            if value is None and not self._is_absent(key):
                continue
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
        if read_model.is_consumers(key) and self.entries.get(key) is not None:
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
            # What was kept meanwhile may have changed or gone.
            self.on_changed(None)
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
        # All of them, not this one's: it is simple, and few changes come for many calls.
        self._composed.clear()
        self.entries.put(key, value)

    def _remember_stranger(self, presented: Presented) -> None:
        # Out of the big table: a guesser must not push tenants out of it.
        key = read_model.credential_key(presented.sha256_hex)
        if self.entries.get(key, MISSING) is not None:
            return
        self.entries.discard(key)
        if not self.stale:  # Else nobody would tell of a credential created now.
            self._strangers.put(presented.sha256_hex, None)

    def on_changed(self, keys: list[str] | None) -> None:
        """Note what Redis says has changed; None means everything."""
        if keys is None:
            self._doubt_absence()
            self._changed.update(self.entries, ALWAYS_WATCHED)
            self._outdated.update(self._loading)
            self._strangers.clear()
        for key in keys or ():
            self._forget_stranger(key)
            if key in self._loading:
                # The read under way may be older than the change: another one follows it.
                self._outdated.add(key)
            elif key in self.entries or key in ALWAYS_WATCHED:
                self._changed.add(key)
        if self._changed:
            self._wake.set()

    def on_connected(self) -> None:
        """Read again what is known: all of it may have changed, unnoticed."""
        self._current = False
        self._changed.update(self.entries, ALWAYS_WATCHED)
        self._wake.set()

    def on_disconnected(self, error: Exception | None) -> None:
        self._doubt_absence()
        self._strangers.clear()
        self._tell_state(error)

    def _forget_stranger(self, key: str) -> None:
        prefix = read_model.credential_key("")
        if key.startswith(prefix):
            self._strangers.discard(key.removeprefix(prefix))

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
                    self._strangers.clear()
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
            log.info("the cache follows Redis", entries=len(self.entries))
