"""Keep Redis equal to the catalog: on a change at once, on schedule always, after outages again."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from aforo_admin import metrics
from aforo_admin.catalog_file import POLL_S
from aforo_admin.catalog_source import CatalogSource
from aforo_admin.currency_guard import CurrencyChangedError, require_same_currency
from aforo_admin.domain.catalog import Catalog
from aforo_admin.faults import CatalogError
from aforo_admin.published import held_book, up_to_date
from aforo_admin.read_model import (
    FOREVER,
    PRICEBOOK_KEY,
    SYNC_KEY,
    Known,
    ReadModel,
    build,
    build_tenants,
)
from aforo_admin.sync import (
    Differences,
    apply,
    compare,
    credential_keys,
    held_state,
    mark_complete,
    mark_written,
    publish_tenants,
)
from aforo_meter.domain.periods import micros_of
from aforo_proto.contract_pb2 import PriceList
from aforo_proto.policy_pb2 import SyncState

log = structlog.get_logger("aforo_admin")

PROBE_S: Final = 1.0
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 5.0
FAULTS_LOGGED_MAX: Final = 200
OVERDUE_INTERVALS: Final = 3
WRITTEN_ALONE_MAX: Final = 1_000  # Tenants between two passes: all readers look at their names.
MISSED_S: Final = 60.0  # A leader writes a tenant's change in one, and ends in five at most.

# Redis away, refusing, or answering what no Redis would.
RedisFailure = (RedisError, OSError)

Clock = Callable[[], datetime]


@dataclass(slots=True)
class Ahead:
    """What was published since a pass began: its own values of that are older."""

    keys: set[bytes] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)
    holds_until: datetime = FOREVER

    def add(self, tenants: Collection[str], model: ReadModel, written: Differences) -> None:
        self.keys |= written.stale.keys() | written.gone.keys()
        self.versions |= {name: model.tenants.get(name, "") for name in tenants}
        self.holds_until = min(self.holds_until, model.holds_until)


class LeadLostError(Exception):
    """Another process may write by now: what this one has begun is given up."""


@dataclass(slots=True)
class Missed:
    """Changes of tenants that perhaps nobody has written: they were seen while this did not lead.

    Whoever led then may have ended before. A pass writes them too, seconds later if there are many
    tenants; a key that was revoked should not be good for so long.
    """

    seen_s: dict[str, float] = field(default_factory=dict)  # By tenant; on the monotonic clock.
    had: dict[str, set[bytes]] = field(default_factory=dict)  # Keys of its credentials before.

    def add(self, tenants: Collection[str], before: Catalog) -> None:
        now_s = time.monotonic()
        for name in tenants:
            self.seen_s[name] = now_s
            self.had[name] = self.had.get(name, set()) | credential_keys(before, [name])
        self.forget(now_s)

    def forget(self, now_s: float) -> None:
        """Forget what a leader has had time for."""
        for name in [one for one, at_s in self.seen_s.items() if at_s < now_s - MISSED_S]:
            del self.seen_s[name], self.had[name]


@dataclass(slots=True, kw_only=True)
class Follower:
    """Sync, from one pass to the next."""

    redis: Redis
    source: CatalogSource
    clock: Clock
    interval_s: float
    leads: Callable[[], bool] = lambda: True  # Of several processes, one alone writes.
    model: ReadModel | None = None
    published: Sequence[PriceList] = ()  # What `model` holds of published prices.
    holds_until: datetime = FOREVER  # Of what was written: some value is another from then on.
    synced: Catalog | None = None  # What Redis holds, versions aside.
    complete: ReadModel | None = None  # What Redis was last made equal to.
    state: SyncState = field(default_factory=SyncState)  # What Redis was last told of this.
    complete_at_s: float = 0.0  # On the monotonic clock.
    next_pass_s: float = 0.0
    next_probe_s: float = 0.0
    failures: int = 0  # In a row.
    refused: str | None = None  # Why the catalog is not taken over.
    known: Known = field(default_factory=Known)
    again: bool = False  # There is a change that only a pass writes.
    ahead: Ahead = field(default_factory=Ahead)
    missed: Missed = field(default_factory=Missed)
    look_s: float = POLL_S  # Between two looks at the source, in a pass.
    next_look_s: float = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the file and the clock until `stop`."""
        metrics.CATALOG_FAULTS.set(0)
        while not stop.is_set():
            await self._look_at_source()
            if not self.leads():
                self._stand_by()
            elif await self._is_due():
                await self._try_pass()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)

    async def pass_once(self) -> None:
        """Make Redis equal to the catalog.

        Raises:
            RedisError: Redis does not answer, or refuses. What was written stays; a next pass
                begins anew.
            OSError: It can't be reached.
            CurrencyChangedError: What Redis knows was charged in another currency.
            LeadLostError: Another process leads by now. It writes all of it.
        """
        began_s = time.monotonic()
        now = self.clock()
        catalog = self.source.catalog
        self.again, self.ahead = False, Ahead()
        model = await self._model(catalog, now)
        differences = await compare(self.redis, model, between=self._meanwhile)
        await apply(
            self.redis, model, differences, besides=self.ahead.keys, between=self._meanwhile
        )
        self.state = await mark_complete(self.redis, model, self.clock(), self.ahead.versions)
        took_s = time.monotonic() - began_s
        repaired = model is self.complete
        self.complete = model
        self.complete_at_s = time.monotonic()
        self.synced = catalog
        self.holds_until = min(model.holds_until, self.ahead.holds_until)
        action = "repaired" if repaired else "written"
        metrics.VALUES.labels(action).inc(len(differences.stale))
        metrics.VALUES.labels("deleted").inc(len(differences.gone))
        metrics.PASSES.labels("ok").inc()
        metrics.PASS_SECONDS.observe(took_s)
        metrics.LAST_SUCCESS.set(now.timestamp())
        metrics.TENANTS.set(len(model.tenants))
        tell = log.info if len(differences) else log.debug
        tell(
            "synced",
            catalog_version=model.version,
            tenants=len(model.tenants),
            deleted=len(differences.gone),
            took_ms=round(took_s * 1000),
            **{action: len(differences.stale)},
        )

    async def _model(self, catalog: Catalog, now: datetime) -> ReadModel:
        """Return what Redis should hold; work out what is not known of it, and look meanwhile."""
        published = await self._published(now)
        known = self.model
        if known is not None and now < known.holds_until and published is self.published:
            return known
        await require_same_currency(self.redis, catalog)
        self.published = published
        building = asyncio.create_task(
            asyncio.to_thread(build, catalog, now, published, self.known)
        )
        try:
            while not building.done():
                await asyncio.wait([building], timeout=POLL_S)
                await self._meanwhile()
        finally:
            model = await building  # A thread can't be stopped, and the next would disturb it.
        # What has changed meanwhile is for the next pass.
        self.model = model if catalog is self.source.catalog else None
        return model

    async def _meanwhile(self) -> None:
        """In a pass, which may take seconds: publish what changes, without waiting for its end."""
        if not self.leads():
            raise LeadLostError
        if time.monotonic() >= self.next_look_s:
            self.next_look_s = time.monotonic() + self.look_s
            await self._look_at_source()

    async def _published(self, now: datetime) -> Sequence[PriceList]:
        """Return the prices of language models: the same object while they stay as they are."""
        if self.source.imported is not None or not self.source.catalog.built_in_costs:
            return self.source.imported or ()
        value: Any = await self.redis.get(PRICEBOOK_KEY)
        # Whatever has changed: the file may have said something else of published prices before.
        written = None if self.complete is None else self.complete.basis[PRICEBOOK_KEY]
        if self.model is not None and written is not None and value in {None, written}:
            return self.published
        held = held_book(value).built_in or self.published
        return await asyncio.to_thread(up_to_date, held, now_micros=micros_of(now))

    def complaint(self) -> str | None:
        """Say why this process is not ready, if it isn't."""
        if not self.leads():
            return None  # Another process keeps Redis equal; this one may follow it at any time.
        if self.refused is not None:
            return self.refused
        if self.complete is None:
            return "no pass has succeeded yet"
        age_s = time.monotonic() - self.complete_at_s
        if age_s > OVERDUE_INTERVALS * self.interval_s:
            return f"the last pass succeeded {age_s:.0f} s ago"
        count = self.source.fault_count
        if count:
            return (
                f"{self.source.name} has {count} fault{'s' if count > 1 else ''}, see the log; "
                f"version {self.complete.version} stays in force"
            )
        return None

    async def _look_at_source(self) -> None:
        before = self.source.catalog
        try:
            if not await self.source.poll():
                return
        except CatalogError as error:
            tell_faults(error)
            told = f"{self.source.name} is wrong: the last good catalog stays in force"
            log.error(
                told,
                faults=len(error.faults),
                catalog_version=self.complete.version if self.complete is not None else None,
            )
            metrics.CATALOG_FAULTS.set(len(error.faults))
            return
        metrics.CATALOG_FAULTS.set(0)
        self.model = None
        tenants, goes_beyond = self.source.touched, self.source.goes_beyond
        log.info("the catalog has changed", tenants=len(tenants), others=goes_beyond)
        if not self.leads():
            self.missed.add(tenants, before)
        if self.failures or not self.leads() or self.refused is not None:
            self.again = True  # While Redis is away, the next attempt is planned already.
            return
        self.again |= goes_beyond
        if tenants:
            known = [before] if self.synced is None else [self.synced, before]
            had = set().union(*(credential_keys(catalog, tenants) for catalog in known))
            await self._try_to_publish(tenants, had)

    async def _catch_up(self) -> None:
        """Before the first pass of a new leader: write what the last one perhaps did not."""
        missed, self.missed = self.missed, Missed()
        missed.forget(time.monotonic())
        if missed.seen_s:
            await self._try_to_publish(missed.seen_s.keys(), set().union(*missed.had.values()))

    async def _try_to_publish(self, tenants: Collection[str], had: Collection[bytes]) -> None:
        """Write what concerns some tenants at once; the next pass does the rest."""
        catalog, now = self.source.catalog, self.clock()
        model = build_tenants(catalog, tenants, now)
        try:
            if self.synced is None:  # What Redis holds, another process wrote.
                await require_same_currency(self.redis, catalog)
                self.state = await held_state(self.redis)
            differences = await publish_tenants(self.redis, tenants, had=had, model=model)
            await mark_written(self.redis, self.state, tenants, model)
        except RedisFailure as error:
            self.again = True
            self._plan_retry(error)
            return
        except CurrencyChangedError:
            self.again = True  # The pass refuses it, and says so.
            return
        if self.synced is not None:
            self.synced = catalog
        self.holds_until = min(self.holds_until, model.holds_until)
        self.ahead.add(tenants, model, differences)
        metrics.VALUES.labels("written").inc(len(differences.stale))
        metrics.VALUES.labels("deleted").inc(len(differences.gone))
        log.info("published", tenants=len(tenants), deleted=len(differences.gone))
        if len(self.state.written_since) > WRITTEN_ALONE_MAX:
            self.again = True

    def _stand_by(self) -> None:
        """Forget what Redis holds: another process writes. Whoever leads begins with a pass."""
        self.model = self.complete = self.synced = None
        self.next_pass_s = 0.0

    async def _is_due(self) -> bool:
        now_s = time.monotonic()
        if now_s >= self.next_pass_s:
            return True
        if self.failures:
            return False
        if self.again or self.clock() >= self.holds_until:
            return True
        if now_s < self.next_probe_s:
            return False
        self.next_probe_s = now_s + PROBE_S
        try:
            # An emptied Redis need not wait for the next pass on schedule.
            return not await self.redis.exists(SYNC_KEY)
        except RedisFailure as error:
            self._plan_retry(error)
            return False

    async def _try_pass(self) -> None:
        try:
            await self._catch_up()
            await self.pass_once()
        except LeadLostError:
            metrics.PASSES.labels("given_up").inc()
            log.warning("a pass is given up: another process may lead by now")
            self._stand_by()
            return
        except RedisFailure as error:
            metrics.PASSES.labels("error").inc()
            self._plan_retry(error)
            return
        except CurrencyChangedError as error:
            metrics.PASSES.labels("error").inc()
            self.refused = str(error)
            log.error("the catalog is refused: what was synced stays in force", error=str(error))
            self.next_pass_s = time.monotonic() + self.interval_s
            return
        self.refused = None
        if self.failures:
            log.info("Redis answers again", failures=self.failures)
            self.failures = 0
        self.next_pass_s = time.monotonic() + self.interval_s
        self.next_probe_s = time.monotonic() + PROBE_S

    def _plan_retry(self, error: Exception) -> None:
        wait_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(self.failures, 8))
        self.failures += 1
        self.next_pass_s = time.monotonic() + wait_s
        log.warning(
            "Redis can't be made equal to the catalog; decisions go on with what it held",
            error=str(error) or type(error).__name__,
            retry_in_s=wait_s,
            failures=self.failures,
        )


def tell_faults(error: CatalogError) -> None:
    """Log each fault, up to a bound."""
    for line in error.lines[:FAULTS_LOGGED_MAX]:
        log.error("catalog fault", fault=line)
    hidden = len(error.faults) - FAULTS_LOGGED_MAX
    if hidden > 0:
        log.error("catalog faults not shown", count=hidden)
