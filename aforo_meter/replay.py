"""`aforo-meter replay`: usage of a time, rated again into a ledger of its own, and compared.

The same code reads, rates and writes as in consume. It sends no alert and publishes no margin.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from aforo_meter import redis_client
from aforo_meter.batches import AHEAD_MICROS_MAX, Rater, now_micros, read
from aforo_meter.command_arguments import CommandError
from aforo_meter.contract_messages import UnreadableError
from aforo_meter.contracts import Contracts, NotSyncedError
from aforo_meter.database import database_of, without_password
from aforo_meter.domain.ledger_diff import Comparison, compare, left_out, whole_hours
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.kafka_reading import Span, TopicReader, count_of, limited, open_topic
from aforo_meter.ledger import Partition, PriceConflictError, TooLargeError
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.migrate import migrate
from aforo_meter.progress import Progress
from aforo_meter.replay_rows import contents, is_in_use, take_back

REDIS_TIMEOUT_S: Final = 5.0
LIVE_VARIABLES: Final = tuple(
    f"AFORO_METER_{name}_LEDGER_URL" for name in ("CONSUME", "DELIVER", "INGEST")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for."""

    period: PeriodMicros  # Of the usage, half-open.
    bootstrap: str
    topic: str
    redis_url: str
    scratch_url: str
    live_url: str | None


@dataclass(slots=True, kw_only=True)
class Replayed:
    """What was done."""

    asked: PeriodMicros
    hours: PeriodMicros  # Those that are compared: wholly in range, and known from their beginning.
    records: int = 0
    rated: int = 0
    refused: int = 0
    behind: int = 0  # Records that the live ledger did not have yet: left out.
    cut_partitions: Sequence[int] = ()  # Of which Kafka no longer has the beginning.
    comparison: Comparison | None = None
    left_out: Sequence[PeriodMicros] = field(default_factory=tuple)


async def run(wanted: Wanted) -> Replayed:
    """Rate again, and compare if there is something to compare with.

    Raises:
        CommandError: It can't be done; the scratch ledger may be begun, and is to be removed.
        LedgerError, LedgerUnavailableError: A ledger can't be used.
    """
    refuse_live(wanted)
    async with contextlib.AsyncExitStack() as stack:
        live = None
        if wanted.live_url is not None:
            live = await stack.enter_async_context(SqlLedger(wanted.live_url))
        migrate(wanted.scratch_url, dry_run=False)
        scratch = await stack.enter_async_context(SqlLedger(wanted.scratch_url))
        if await is_in_use(scratch):
            raise CommandError(
                f"{without_password(wanted.scratch_url)} has been written to; name a new ledger, or"
                " remove that one"
            )
        reader = await stack.enter_async_context(open_topic(wanted.bootstrap, wanted.topic))
        redis = await stack.enter_async_context(_redis(wanted.redis_url))
        return await _replay(wanted, reader, redis, scratch, live)


async def _replay(
    wanted: Wanted, reader: TopicReader, redis: Redis, scratch: SqlLedger, live: SqlLedger | None
) -> Replayed:
    # What occurred at an instant was written after it, but for clocks that are ahead.
    spans = await reader.spans(wanted.period.start_micros - AHEAD_MICROS_MAX)
    there = None
    behind = 0
    if live is not None:
        # The live ledger goes on meanwhile: it is compared as it is now, with all that it had read.
        there = await contents(live, whole_hours(wanted.period), wanted.topic)
        bounded = limited(spans, there.positions)
        behind = count_of(spans) - count_of(bounded)
        spans = bounded
    done = Replayed(
        asked=wanted.period,
        hours=whole_hours(wanted.period),
        behind=behind,
        cut_partitions=[one.partition for one in spans if one.is_cut],
    )
    # A former subscription's period is known to the live ledger alone.
    rater = Rater(Contracts(redis), live if live is not None else scratch)
    replaying = _Replaying(wanted, rater, scratch, done)
    await replaying.run(reader, spans)
    done.hours = whole_hours(wanted.period, replaying.known_from_micros)
    done.left_out = left_out(wanted.period, done.hours)
    if there is not None:
        await take_back(scratch, there.voids, now_micros=now_micros())
        here = await contents(scratch, done.hours, wanted.topic)
        known = {
            key: value for key, value in there.rows.items() if key.hour_start_micros in done.hours
        }
        done.comparison = compare(here.rows, known)
    return done


class _Replaying:
    """One replay: from records to the scratch ledger."""

    def __init__(self, wanted: Wanted, rater: Rater, scratch: SqlLedger, done: Replayed) -> None:
        self._wanted = wanted
        self._rater = rater
        self._scratch = scratch
        self._done = done
        # From where on all is known: of a partition that lost its beginning, the first record left.
        self.known_from_micros: int | None = None

    async def run(self, reader: TopicReader, spans: Sequence[Span]) -> None:
        cut = {one.partition for one in spans if one.is_cut}
        progress = Progress("replaying", count_of(spans))
        try:
            async for partition, records in reader.records(spans):
                if partition in cut:
                    cut.discard(partition)
                    first_micros = records[0].timestamp * 1000
                    self.known_from_micros = max(self.known_from_micros or 0, first_micros)
                await self._settle(partition, records)
                self._done.records += len(records)
                progress.at(self._done.records, f"{self._done.rated} events")
        finally:
            progress.end()

    async def _settle(self, partition: int, records: Sequence[Any]) -> None:
        readable, refused = read(records)
        period = self._wanted.period
        readable = [one for one in readable if one.usage.occurred_at_micros in period]
        self._done.refused += len(refused)
        while True:
            try:
                counted = await self._rater.one_by_one(readable)
                batch = self._rater.batch(
                    Partition(self._wanted.topic, partition),
                    counted,
                    first_offset=records[0].offset,
                    next_offset=records[-1].offset + 1,
                )
                # Nobody's margin is assessed, so nobody's level changes and nothing is to deliver.
                await self._scratch.apply(replace(batch, watches={}))
            except PriceConflictError as error:
                self._rater.refuse_prices(error.price_ids)
                continue
            except TooLargeError as error:
                raise CommandError(f"{error}: such usage can't be replayed") from error
            except (NotSyncedError, UnreadableError) as error:
                raise CommandError(str(error)) from error
            except (RedisError, OSError) as error:
                raise CommandError(
                    f"redis does not answer ({type(error).__name__}); check --redis-url"
                ) from error
            self._done.rated += len(readable)
            return


def refuse_live(wanted: Wanted) -> None:
    """Make sure that the scratch ledger is none that a process of ours works on.

    Raises:
        CommandError: It is.
    """
    scratch = database_of(wanted.scratch_url).identity
    named = {"--live-ledger-url": wanted.live_url or ""}
    named |= {name: os.environ.get(name, "") for name in LIVE_VARIABLES}
    for name, url in named.items():
        if url and database_of(url).identity == scratch:
            raise CommandError(
                f"--ledger-url is the ledger of {name}: a replay would count twice there;"
                " name a new one"
            )


@contextlib.asynccontextmanager
async def _redis(url: str) -> AsyncIterator[Redis]:
    redis = redis_client.connect(url, timeout_s=REDIS_TIMEOUT_S)
    try:
        yield redis
    finally:
        await redis.aclose()
