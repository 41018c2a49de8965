"""Usage that is written before the position moves behind it counts once, whenever things end."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from aforo_meter import gathering, settling
from aforo_meter.batches import Rater, Refused
from aforo_meter.gathering import Gatherings
from aforo_meter.ledger import Batch, LedgerUnavailableError, Partition, Written
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.partitions import Owned, Partitions
from aforo_meter.settling import Settling
from aforo_meter.underway import Underway
from aforo_meter.upkeep import Upkeep
from aforo_meter.waits import Waits
from aforo_proto import usage_pb2
from tests.contract.ledger_lab import PARTITION
from tests.contract.ledgers import AuditedLedger
from tests.unit.test_gathering import AnyContract
from tests.unit.test_kinds import HOUR, Record

pytestmark = pytest.mark.contract

TENANTS = [f"t-{number}" for number in range(12)]


class Heard:
    """All that is told of what was settled: upkeep, publisher and dead letters in one."""

    def __init__(self) -> None:
        self.refused: list[Refused] = []

    async def send(self, refused: Sequence[Refused]) -> None:
        self.refused += refused

    def note(self, _: object) -> None: ...

    def reprice_soon(self, _: object) -> None: ...

    def mark(self, *_: object, **__: object) -> None: ...


class Unsteady:
    """A ledger whose server goes away now and then, before a transaction or right after it."""

    def __init__(self, ledger: SqlLedger, chance: random.Random) -> None:
        self._ledger = ledger
        self._chance = chance

    async def apply(self, batch: Batch) -> Written:
        fate = self._chance.randrange(12)
        if fate == 0:
            raise LedgerUnavailableError("gone before it began")
        written = await self._ledger.apply(batch)
        if fate == 1:
            raise LedgerUnavailableError("gone as it ended")
        return written

    async def period_covering(self, *_: object) -> None:
        return None


class Consumer:
    """What a process knows: nothing, when it begins."""

    def __init__(self, ledger: Unsteady, next_offset: int, heard: Heard) -> None:
        self.rater = Rater(AnyContract(), ledger)  # type: ignore[arg-type]
        self.gatherings = Gatherings(self.rater, calm_s_max=3600.0)
        self.owned = Owned(PARTITION, next_offset, commit_s=3600.0)
        self.read_until = next_offset
        self.heard = heard
        self.settling = Settling(
            *(ledger, self.rater, heard, heard, heard),  # type: ignore[arg-type]
            *(Waits("usage"), self.gatherings),
        )


async def play(
    ledger: SqlLedger, records: Sequence[Record], chance: random.Random, heard: Heard
) -> Counter[str]:
    """Let consumers bring records into the ledger, one after the other; return what happened."""
    stop = asyncio.Event()
    done: Counter[str] = Counter()
    consumer = None
    while (stands := await ledger.next_offset(PARTITION) or 0) < len(records):
        if consumer is None or consumer.owned.is_displaced or chance.randrange(30) == 0:
            consumer = Consumer(Unsteady(ledger, chance), stands, heard)
            done["began"] += 1
        owned, own = consumer.owned, consumer.gatherings
        some = records[consumer.read_until : consumer.read_until + chance.randint(1, 30)]
        if some:
            consumer.read_until += len(some)
            await own.add(owned, some)
        for _, hurried in list(own.hurried()):
            await consumer.settling.settle_ahead(owned, hurried, stop)
            done["ahead"] += 1
        due = list(own.due())
        if due or consumer.read_until >= len(records) or chance.randrange(8) == 0:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(settling, "RETRY_S", 0.0)
                await consumer.settling.settle(owned, own.take(owned), stop)
            done["settled"] += 1
    return done


def usage(chance: random.Random, count: int) -> tuple[list[Record], Counter[str]]:
    """Return records, some of them twice and some unreadable, and the calls that they are."""
    numbers, calls, sent = itertools.count(1), Counter[str](), list[bytes]()
    records = []
    for offset in range(count):
        fate = chance.randrange(20)
        if fate == 0:
            value = b"\xff no event"
        elif fate == 1 and sent:
            value = chance.choice(sent)
        else:
            tenant, units = chance.choice(TENANTS), chance.choice([1, 1, 5, 40])
            calls[tenant] += units
            value = usage_pb2.UsageEvent(
                event_id=f"e-{next(numbers)}",
                source="envoy:a",
                tenant_id=tenant,
                subscription_id="sub-1",
                occurred_at_micros=HOUR + offset,
                outcome=usage_pb2.OUTCOME_ALLOW,
                measures=[usage_pb2.Measure(meter="api.calls", units=units)],
            ).SerializeToString()
            sent.append(value)
        records.append(Record(value, offset=offset, key=b"k", timestamp=offset))
    return records, calls


@pytest.mark.parametrize("seed", range(12))
async def test_it_counts_once_whenever_things_end(
    seed: int, ledger: SqlLedger, file: AuditedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret.
    monkeypatch.setattr(gathering, "KINDS_FEW", 2)
    monkeypatch.setattr(gathering, "HURRIED_SHARE", 1)
    monkeypatch.setattr(gathering, "SLACK_NANOS", 0)
    monkeypatch.setattr(settling, "PART_MAX", 3)
    monkeypatch.setattr("aforo_meter.batches.now_micros", lambda: HOUR + 10**9)
    # Levels change within what is played.
    monkeypatch.setattr("tests.unit.test_gathering.FEE_NANOS", 1200)
    records, calls = usage(chance, 300)
    heard = Heard()
    await ledger.set_offset(PARTITION, 0)

    done = await play(ledger, records, chance, heard)

    assert done["ahead"] > 0
    assert {name: file.units(name).get("calls", 0) for name in TENANTS} == {
        name: calls[name] for name in TENANTS
    }
    assert file.kept_cogs() == file.audited_cogs()
    unreadable = sum((record.value or b"").startswith(b"\xff") for record in records)
    assert len({one.record.offset for one in heard.refused}) == unreadable
    assert file.rows("SELECT COUNT(*) FROM outbox") > [(0,)]
    for tenant in TENANTS:
        query = "SELECT payload FROM outbox WHERE tenant_id = ? ORDER BY outbox_id"
        told = [json.loads(payload)["data"] for (payload,) in file.rows(query, tenant)]
        assert [one["from"] for one in told][1:] == [one["to"] for one in told][:-1]


def calls_of(tenants: Sequence[str], *, offset: int = 0) -> list[Record]:
    """Return a call of each tenant, from an offset on."""
    return [
        Record(
            usage_pb2.UsageEvent(
                event_id=f"c-{number}",
                source="envoy:a",
                tenant_id=tenant,
                subscription_id="sub-1",
                occurred_at_micros=HOUR + number,
                outcome=usage_pb2.OUTCOME_ALLOW,
                measures=[usage_pb2.Measure(meter="api.calls", units=1)],
            ).SerializeToString(),
            offset=number,
            key=b"k",
            timestamp=number,
        )
        for number, tenant in enumerate(tenants, start=offset)
    ]


@pytest.fixture
async def consumer(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> Consumer:
    monkeypatch.setattr("aforo_meter.batches.now_micros", lambda: HOUR + 10**9)
    await ledger.set_offset(PARTITION, 0)
    return Consumer(ledger, 0, Heard())  # type: ignore[arg-type]


async def ended(underway: Underway, owned: Owned, *, ahead: bool = False) -> None:
    await asyncio.wait([underway._tasks[owned, ahead]])
    underway.look()


async def test_what_was_read_before_the_ledger_went_back_leaves_no_gap(
    consumer: Consumer, ledger: SqlLedger, file: AuditedLedger
) -> None:
    """A backup came back while records waited: those before them are to be read again, first."""
    owned, own = consumer.owned, consumer.gatherings
    await own.add(owned, calls_of(["acme", "acme"]))
    await consumer.settling.settle(owned, own.take(owned), asyncio.Event())
    await own.add(owned, calls_of(["acme"], offset=2))
    old = own.take(owned)
    await ledger.set_offset(PARTITION, 1)
    owned.next_offset, owned.taken = 1, owned.taken + 1  # As partitions.py takes it again.

    await consumer.settling.settle(owned, old, asyncio.Event())

    assert await ledger.next_offset(PARTITION) == 1
    assert file.units("acme")["calls"] == 2


async def test_what_has_waited_long_enough_does_not_wait_for_other_partitions(
    consumer: Consumer, ledger: SqlLedger
) -> None:
    owned, own, underway = consumer.owned, consumer.gatherings, Underway()
    other, never = Owned(Partition("usage", 1), 0), asyncio.Event()
    await underway.begin(other, never.wait)  # type: ignore[arg-type]
    await own.add(owned, [Record(b"no event", offset=0, key=b"k")])
    await consumer.settling.begin_due(underway, asyncio.Event())
    assert not underway.has(owned)

    own._calm_s_max = 0.0
    await consumer.settling.begin_due(underway, asyncio.Event())
    await ended(underway, owned)

    assert await ledger.next_offset(PARTITION) == 1
    never.set()


async def test_who_can_not_wait_does_not_wait_for_a_large_batch_of_the_partition(
    consumer: Consumer, ledger: SqlLedger, file: AuditedLedger
) -> None:
    owned, own, underway = consumer.owned, consumer.gatherings, Underway()
    never = asyncio.Event()
    await underway.begin(owned, never.wait)  # type: ignore[arg-type]
    await own.add(owned, calls_of(["newcomer"], offset=1))

    await consumer.settling.begin_due(underway, asyncio.Event())
    await ended(underway, owned, ahead=True)

    assert file.units("newcomer")["calls"] == 1
    assert await ledger.next_offset(PARTITION) == 0
    never.set()


async def test_who_is_assessed_by_upkeep_is_measured_by_that(
    consumer: Consumer, ledger: SqlLedger
) -> None:
    owned, own = consumer.owned, consumer.gatherings
    partitions = Partitions(ledger, accept_lost_records=False, released=print)
    partitions._owned[PARTITION] = owned
    partitions._count = PARTITION.number + 1
    tenant = next(name for name in TENANTS if partitions.of_tenant(name) is owned)
    upkeep = Upkeep(
        *(ledger, AnyContract(), consumer.rater, partitions),  # type: ignore[arg-type]
        *(consumer.heard, own),  # type: ignore[arg-type]
        close_after_days=1,
        accrue_every_s=60,
    )
    await consumer.rater._contracts.know([])

    await upkeep._reassess([tenant])
    await own.add(owned, calls_of([tenant, tenant]))

    assert [one.hurried for _, one in own.hurried()] == []
    assert list(own.due()) == []
