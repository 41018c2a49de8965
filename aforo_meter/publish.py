"""Margins and the partitions' progress → Redis, as absolute values: repeating that is harmless.

What is written was committed, or read from the ledger, right before: a consumer that has lost a
partition without knowing writes what its successor has committed. All that is left is a process
that stands still between that moment and its write to Redis; the successor's next write puts it
right.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from aforo_meter import consume_metrics as metrics
from aforo_meter.batches import now_micros
from aforo_meter.contracts import PUBLISHED_KEY, Contracts
from aforo_meter.domain.margin import MarginState
from aforo_meter.domain.quotas import window_of
from aforo_meter.domain.terms import Terms
from aforo_meter.ledger import (
    INGEST_IDS_DAYS_MIN,
    Ledger,
    LedgerUnavailableError,
    Standing,
    UsageQuery,
)
from aforo_proto import margin_pb2

CHUNK_TENANTS_MAX: Final = 500
RETRY_S: Final = 0.2
# What was committed longer ago may have been overtaken by who took the partition over.
COMMITTED_S_MAX: Final = 1.0

STATES: Final = {
    MarginState.DEFINED: margin_pb2.MARGIN_STATE_DEFINED,
    MarginState.UNDEFINED: margin_pb2.MARGIN_STATE_UNDEFINED,
}

log = structlog.get_logger()


def margin_key(tenant_id: str) -> str:
    return f"aforo:v1:{{{tenant_id}}}:margin"


def consumed_key(partition: int) -> str:
    return f"aforo:v1:consumed:{partition}"


@dataclass(slots=True)
class Due:
    """A margin that has to be written."""

    partition: int
    oldest_micros: int | None  # When the oldest usage that it does not hold yet occurred.
    hours: set[int] = field(default_factory=set)  # In which it was used, by their starts.
    # As it was committed, and when that was; None: the ledger is asked.
    standing: Standing | None = None
    committed_s: float = 0.0


class Publisher:
    """Knows whose margins Redis does not have yet. Lives in one event loop."""

    def __init__(
        self,
        redis: Redis,
        ledger: Ledger,
        contracts: Contracts,
        *,
        ingest_ids_days: int = INGEST_IDS_DAYS_MIN,
    ) -> None:
        self._redis = redis
        self._ingest_ids_days = ingest_ids_days
        self._ledger = ledger
        self._contracts = contracts
        # Hears how each tenant stands whose margin is written, with its terms, the hours of its
        # usage since the last time, and the time.
        self.seen: Callable[[Standing, Terms, Collection[int], int], None] | None = None
        self._due: dict[str, Due] = {}
        self._wake = asyncio.Event()
        self._rebuilding = False
        self._failing = False
        self._heartbeats: set[int] = set()  # Partitions whose progress Redis should have.

    def mark(
        self,
        tenant_id: str,
        partition: int,
        *,
        oldest_micros: int | None = None,
        hours: Iterable[int] = (),
        standing: Standing | None = None,
    ) -> None:
        """Note that a tenant's margin changed, by usage or otherwise; if known, to `standing`."""
        due = self._due.get(tenant_id)
        if due is None:
            due = self._due[tenant_id] = Due(partition, None)
        due.partition = partition
        due.hours.update(hours)
        due.standing, due.committed_s = standing, time.monotonic()
        if oldest_micros is not None:
            known_micros = due.oldest_micros
            due.oldest_micros = min(oldest_micros, known_micros or oldest_micros)
        self._wake.set()

    def rebuild(self, tenants: Mapping[str, int]) -> None:
        """Write all margins again, given as partitions by tenant: Redis was emptied."""
        for tenant_id, partition in tenants.items():
            self.mark(tenant_id, partition)
        metrics.REPUBLISHED.inc(len(tenants))
        self._rebuilding = True
        self._wake.set()

    def forget(self, partition: int) -> None:
        """Leave a partition's margins to its next owner."""
        self._due = {name: due for name, due in self._due.items() if due.partition != partition}
        self._heartbeats.discard(partition)

    @property
    def is_rebuilding(self) -> bool:
        """Are all margins being written again?"""
        return self._rebuilding

    def is_behind(self, partition: int) -> bool:
        """Return whether a margin of the partition is still to be written."""
        return any(due.partition == partition for due in self._due.values())

    async def run(self) -> None:
        """Write what is marked, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                self._wake.set()
                await asyncio.sleep(RETRY_S)

    async def flush(self) -> bool:
        """Write what is marked now; return whether that worked. What did not stays marked."""
        while self._due:
            chunk = {name: self._due.pop(name) for name in list(self._due)[:CHUNK_TENANTS_MAX]}
            try:
                await self._publish(chunk)
            except (RedisError, OSError, LedgerUnavailableError) as error:
                self._failed(chunk, error)
                return False
            except BaseException:
                self._take_back(chunk)
                raise
        return await self._finish()

    async def heartbeat(self, as_of_micros: Mapping[int, int]) -> Sequence[int]:
        """Write until when partitions are in the ledger, and how long it knows ids of events.

        Returns:
            Partitions that Redis had forgotten.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        if not as_of_micros:
            return []
        pipeline = self._redis.pipeline(transaction=False)
        for partition, at_micros in as_of_micros.items():
            state = margin_pb2.ConsumeState(
                as_of_micros=at_micros, ingest_ids_days=self._ingest_ids_days
            )
            # The old value comes back: without one, Redis has been emptied since.
            pipeline.set(consumed_key(partition), state.SerializeToString(), get=True)
        before = await pipeline.execute()
        forgotten = [
            partition
            for partition, old in zip(as_of_micros, before, strict=True)
            if old is None and partition in self._heartbeats
        ]
        self._heartbeats.update(as_of_micros)
        return forgotten

    async def _publish(self, chunk: Mapping[str, Due]) -> None:
        now = now_micros()
        terms = {name: self._contracts.terms(name) for name in chunk}
        standings = self._committed(chunk)
        asked = {
            name: queries_of(known, now_micros=now)
            for name, known in terms.items()
            if known and name not in standings
        }
        if asked:
            standings |= await self._ledger.standings(asked)
        if not standings:
            return
        margins: dict[str, bytes] = {}
        for name, standing in standings.items():
            known = terms[name]
            assert known is not None
            if self.seen is not None:
                self.seen(standing, known, chunk[name].hours, now)
            margin = margin_of(standing, known, partition=chunk[name].partition, now_micros=now)
            margins[margin_key(name)] = margin.SerializeToString()
        await self._redis.mset(margins)
        metrics.PUBLISHED.inc(len(standings))
        written_micros = now_micros()
        for due in chunk.values():
            if due.oldest_micros is not None:
                metrics.FRESHNESS.observe(max(0, written_micros - due.oldest_micros) / 1_000_000)

    def _committed(self, chunk: Mapping[str, Due]) -> dict[str, Standing]:
        """Return how tenants stand by what was committed a moment ago, for those without quotas."""
        since_s = time.monotonic() - COMMITTED_S_MAX
        found = {}
        for name, due in chunk.items():
            terms = self._contracts.terms(name)
            if (
                due.standing is not None
                and due.committed_s > since_s
                and terms
                and not terms.quotas
            ):
                found[name] = due.standing
        return found

    async def _finish(self) -> bool:
        if self._rebuilding:
            try:
                await self._redis.set(PUBLISHED_KEY, b"1")
            except (RedisError, OSError) as error:
                self._failed({}, error)
                return False
            self._rebuilding = False
        if self._failing:
            self._failing = False
            log.info("margins are published again")
        metrics.WAITING.labels("publish").set(0)
        return True

    def _failed(self, chunk: Mapping[str, Due], error: BaseException) -> None:
        self._take_back(chunk)
        metrics.WAITING.labels("publish").set(1)
        if not self._failing:
            self._failing = True
            log.warning(
                "margins can't be published; charges go on, and it is tried again",
                waiting=len(self._due),
                error=repr(error),
            )

    def _take_back(self, chunk: Mapping[str, Due]) -> None:
        for name, due in chunk.items():
            self.mark(name, due.partition, oldest_micros=due.oldest_micros, hours=due.hours)


def queries_of(terms: Terms, *, now_micros: int) -> Sequence[UsageQuery]:
    """Return what to ask the ledger about a tenant's quotas."""
    if not terms.quotas:
        return ()
    period = terms.period_at(now_micros)
    queries = []
    for quota in terms.quotas:
        window = window_of(quota, period=period, now_micros=now_micros)
        if window is not None:
            queries.append(
                UsageQuery(
                    quota_id=quota.quota_id,
                    meter=quota.meter,
                    features=quota.features,
                    window=window,
                    billing=window is period,
                )
            )
    return queries


def margin_of(
    standing: Standing, terms: Terms, *, partition: int, now_micros: int
) -> margin_pb2.Margin:
    """Return the message for Redis."""
    assessment = standing.assessment
    usages: Iterable[margin_pb2.QuotaUsage] = (
        margin_pb2.QuotaUsage(
            quota_id=query.quota_id,
            window_start_micros=query.window.start_micros,
            used_units=standing.used_units[query.quota_id],
        )
        for query in queries_of(terms, now_micros=now_micros)
    )
    return margin_pb2.Margin(
        tenant_id=standing.tenant_id,
        subscription_id=standing.subscription_id,
        level=margin_pb2.Level.ValueType(int(assessment.level)),
        state=STATES[assessment.state],
        revenue_nanos=assessment.revenue_nanos,
        cogs_nanos=assessment.cogs_nanos,
        allowance_nanos=assessment.allowance_nanos,
        currency=standing.currency,
        period_start_micros=standing.period.start_micros,
        period_end_micros=standing.period.end_micros,
        as_of_micros=standing.assessed_at_micros,
        partition=partition,
        price_book_version=standing.price_book_version,
        unpriced_rows=standing.unpriced_rows,
        estimated_cogs_nanos=standing.estimated_cogs_nanos,
        quota_usages=usages,
        catalog_version=standing.catalog_version,
        contract_currency=standing.contract_currency,
        contract_revenue_nanos=standing.contract_revenue_nanos,
        prepaid_left_nanos=standing.prepaid_left_nanos,
        guards=_guard_levels(standing, terms),
    )


def _guard_levels(standing: Standing, terms: Terms) -> Iterable[margin_pb2.GuardLevel]:
    """Return the levels of the guards that the contract has and the ledger has assessed."""
    return [
        margin_pb2.GuardLevel(
            guard_id=guard.guard_id,
            features=sorted(guard.features),
            level=margin_pb2.Level.ValueType(int(standing.guard_levels[guard.guard_id])),
        )
        for guard in terms.guards
        if guard.guard_id in standing.guard_levels
    ]
