"""Records of a partition → the ledger, each exactly once, however long that takes."""

import asyncio
import functools
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from aforo_meter import consume_metrics as metrics
from aforo_meter import process
from aforo_meter.batches import Counted, Rater, Readable, Refused, read, without
from aforo_meter.contract_messages import UnreadableError
from aforo_meter.contracts import NotSyncedError
from aforo_meter.dead_letters import DeadLetters
from aforo_meter.domain.rating import key_of
from aforo_meter.gathering import Gathering, Gatherings
from aforo_meter.kinds import Tally
from aforo_meter.ledger import (
    Ledger,
    LedgerUnavailableError,
    PartitionLostError,
    PriceConflictError,
    RepeatedError,
    TooLargeError,
    Written,
)
from aforo_meter.partitions import Owned
from aforo_meter.publish import Publisher
from aforo_meter.transitions import log_transitions
from aforo_meter.underway import Underway
from aforo_meter.upkeep import Upkeep
from aforo_meter.waits import Waits

RETRY_S: Final = 0.2
PART_MAX: Final = 300  # Kinds of usage in one transaction: some 80 ms.

# What may be away for a while: it is waited for.
AWAY: Final = (
    *(RedisError, NotSyncedError, UnreadableError),
    *(LedgerUnavailableError, KafkaError, OSError, TimeoutError),
)

log = structlog.get_logger()


class Settling:
    """Lives in one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        rater: Rater,
        dead_letters: DeadLetters,
        upkeep: Upkeep,
        publisher: Publisher,
        waits: Waits,
        gatherings: Gatherings,
    ) -> None:
        self._ledger = ledger
        self._rater = rater
        self._dead_letters = dead_letters
        self._upkeep = upkeep
        self._publisher = publisher
        self._waits = waits
        self._gatherings = gatherings

    async def settle(self, owned: Owned, gathering: Gathering, stop: asyncio.Event) -> None:
        """Bring records into the ledger, or into the dead letters.

        It ends early only if the partition is taken away, or the process is stopped.
        """
        await self._settle_in_parts(owned, gathering, stop)
        records = gathering.records
        counted = set(gathering.counted)  # What the ledger knows of them already.
        # Each by itself, once one of them must be taken out; else many at once.
        readable: list[Readable] | None = None
        refused: Sequence[Refused] | None = None  # None: not looked for yet.
        while not stop.is_set() and gathering.follows(owned):
            try:
                generation = self._rater.generation
                if readable is None:
                    some = await self._added_up(gathering, counted)
                    refused = some.refused if refused is None else refused
                else:
                    some = await self._rater.one_by_one(readable)
                await self._dead_letters.send(refused or ())
                refused = ()
                await self._write(owned, gathering, some, records)
                self._look_again(some, generation)
            except PriceConflictError as error:
                log.error("usage is kept unpriced", error=str(error))
                self._rater.refuse_prices(error.price_ids)
            except RepeatedError as error:
                counted.update(error.event_keys)
            except TooLargeError as error:
                readable, refused = without(
                    error, _uncounted(records, counted) if readable is None else readable
                )
            except PartitionLostError as error:
                owned.displaced(error)
            except AWAY as error:
                self._waits.failed(error)
                await process.wait_for(stop, timeout_s=RETRY_S)
            else:
                self._waits.worked()
                return

    async def begin_due(self, underway: Underway, stop: asyncio.Event) -> None:
        """Begin with what is due, and with what can't wait.

        Raises:
            Exception: What was begun before has failed with.
        """
        for owned, gathering in self._gatherings.hurried():
            # All of it goes at once, unless what came before it is still being settled.
            is_next = gathering.is_urgent and not underway.has(owned)
            if not is_next and not underway.has(owned, ahead=True):
                work = functools.partial(self.settle_ahead, owned, gathering, stop)
                await underway.begin(owned, work, ahead=True)
        for owned, gathering in self._gatherings.due():
            # What is calm leaves the way free for what is not.
            has_own = underway.has(owned) or underway.has(owned, ahead=True)
            waits = has_own if gathering.is_urgent else underway.is_busy
            if waits and not gathering.is_full:
                continue
            self._gatherings.take(owned)
            await underway.begin(owned, functools.partial(self.settle, owned, gathering, stop))

    async def settle_ahead(self, owned: Owned, gathering: Gathering, stop: asyncio.Event) -> None:
        """Bring what can't wait of records into the ledger."""
        hurried, gathering.hurried = gathering.hurried, set()
        if gathering.tally is not None and not stop.is_set() and gathering.follows(owned):
            await self._write_ahead(owned, gathering, gathering.tally.split(hurried))

    async def _settle_in_parts(
        self, owned: Owned, gathering: Gathering, stop: asyncio.Event
    ) -> None:
        """Bring most of many tenants' usage into the ledger: others come in between."""
        while not stop.is_set() and gathering.follows(owned) and not gathering.is_behind:
            tally = gathering.tally
            if tally is None or len(tally.sums) <= PART_MAX:
                return
            await self._write_ahead(owned, gathering, tally.split_first(PART_MAX))

    async def _write_ahead(self, owned: Owned, gathering: Gathering, some: Tally) -> None:
        """Write a part of the tally; the position stays before it. Whatever fails is read again."""
        generation = self._rater.generation
        if gathering.basis != self._rater.basis:
            gathering.read_again()
            return
        ahead = self._rater.rated(some)
        try:
            await self._write(owned, gathering, ahead, ())
        except PartitionLostError as error:
            owned.displaced(error)
        except (PriceConflictError, RepeatedError, TooLargeError, *AWAY):
            gathering.read_again()  # It comes again where all of it is settled, and is told.
        except BaseException:
            gathering.read_again()
            raise
        else:
            gathering.counted.update(key for one in ahead.rated for key in one.event_keys)
            self._look_again(ahead, generation)

    def _look_again(self, some: Counted, generation: int) -> None:
        if generation != self._rater.generation:
            # It was rated by what held before, and nobody looks at its rows again.
            self._upkeep.reprice_soon(one.tenant_id for one in some.rated)

    async def _added_up(self, gathering: Gathering, counted: Collection[bytes]) -> Counted:
        # What was added up while it waited is good once; if that fails, all is read again.
        tally, gathering.tally = gathering.tally, None
        if tally is not None and gathering.basis == self._rater.basis:
            return await self._rater.finish(tally)
        return await self._rater.add_up(gathering.records, counted=counted)

    async def _write(
        self, owned: Owned, gathering: Gathering, some: Counted, records: Sequence[Any]
    ) -> None:
        """Write what came of records, and move the position behind them; of none, leave it."""
        started_s = time.monotonic()
        async with owned.lock:
            # Where the partition was begun anew, these records are not what comes next.
            if not gathering.follows(owned):
                return
            batch = self._rater.batch(
                owned.partition,
                some,
                first_offset=records[0].offset if records else owned.next_offset,
                # Offsets may have gaps: records are never counted.
                next_offset=records[-1].offset + 1 if records else owned.next_offset,
                stands_at=owned.next_offset,
            )
            written = await self._ledger.apply(batch)
            took_s = time.monotonic() - started_s
            owned.next_offset = batch.next_offset
            if records:
                owned.settled_micros, owned.commit_s = records[-1].timestamp * 1000, took_s
        metrics.COMMIT.observe(took_s)
        metrics.BATCHES.inc(bool(records))
        metrics.RECORDS.inc(len(records))
        metrics.DUPLICATES.inc(written.duplicates + some.repeated)
        metrics.LATE.inc(some.late)
        self._gatherings.settled(owned, some.oldest_micros, batch.watches, written.standings)
        self._tell(owned, some, batch.watches, written)

    def _tell(self, owned: Owned, some: Counted, watched: Iterable[str], written: Written) -> None:
        for became, count in written.corrections.items():
            metrics.CORRECTIONS.labels(became).inc(count)
        if written.corrections:  # What waited may have been rated before it had a price.
            self._upkeep.reprice_soon(some.oldest_micros)
        log_transitions(written.transitions)
        self._upkeep.note(watched)
        hours: dict[str, set[int]] = {}
        for one in some.rated:
            if one.charges:
                hours.setdefault(one.tenant_id, set()).add(one.charges[0][0].hour_start_micros)
        for tenant_id in watched:
            self._publisher.mark(
                tenant_id,
                owned.partition.number,
                oldest_micros=some.oldest_micros[tenant_id],
                hours=hours.get(tenant_id, ()),
                standing=written.standings.get(tenant_id),
            )


def _uncounted(records: Sequence[Any], counted: Collection[bytes]) -> list[Readable]:
    return [one for one in read(records)[0] if key_of(one.usage) not in counted]
