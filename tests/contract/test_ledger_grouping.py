"""Partitions that wait together: one transaction, and to each what came of its own."""

import asyncio
import threading
from dataclasses import replace

import pytest

from aforo_meter.domain.seen import event_key
from aforo_meter.ledger import (
    Batch,
    Ledger,
    Partition,
    PartitionLostError,
    PriceConflictError,
    RepeatedError,
    Written,
)
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.ledger_lab import DOLLAR, batch, price, used, watch, watched
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

COUNT = 6
TENANTS = [f"tenant-{number}" for number in range(COUNT)]
PARTITIONS = [Partition("aforo.usage.v1", number) for number in range(COUNT)]


def batch_of(number: int, *, at: int = 0) -> Batch:
    tenant = TENANTS[number]
    rated = [used(f"e{at}", number + 1, tenant=tenant), used(f"o{at}", 1, tenant=tenant)]
    watches = watched(replace(watch(), tenant_id=tenant))
    return batch(rated, at=at, partition=PARTITIONS[number], watches=watches)


async def together(ledger: Ledger, batches: list[Batch]) -> list[Written | BaseException]:
    """Apply batches while the ledger is busy, so that they wait for each other."""
    assert isinstance(ledger, SqlLedger)
    blocked = threading.Event()
    busy = asyncio.ensure_future(ledger.write(lambda _: blocked.wait(10)))
    waiting = [asyncio.ensure_future(ledger.apply(one)) for one in batches]
    await asyncio.sleep(0.05)
    blocked.set()
    await busy
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_each_hears_of_its_own(ledger: Ledger, file: AuditedLedger) -> None:
    done = await together(ledger, [batch_of(number) for number in range(COUNT)])

    for number, written in enumerate(done):
        assert isinstance(written, Written)
        assert [one.watch.tenant_id for one in written.transitions] in ([], [TENANTS[number]])
        assert set(written.standings) <= {TENANTS[number]}
        assert file.units(TENANTS[number]) == {"p1": number + 2}
    assert len(file.rows("SELECT * FROM position")) == COUNT
    assert file.kept_cogs() == file.audited_cogs()
    assert sum(file.kept_cogs().values()) == DOLLAR * sum(range(2, COUNT + 2))


async def test_who_is_refused_takes_nobody_with_him(ledger: Ledger, file: AuditedLedger) -> None:
    """One partition is another's by now, one has a price that was another, one has come before."""
    await ledger.apply(batch_of(0, at=0))
    await ledger.apply(batch([], at=50, partition=PARTITIONS[1]))  # Somebody else was there.
    await ledger.apply(batch_of(3, at=0))
    again = [event_key(TENANTS[3], "e0"), event_key(TENANTS[3], "new")]
    twice = replace(used("of two", 9, tenant=TENANTS[3]), event_keys=again)
    other_price = used("e0", tenant=TENANTS[2], prices=[price(nanos=7)])
    given = [
        batch_of(0, at=10),
        batch_of(1, at=10),
        batch([other_price], partition=PARTITIONS[2]),
        batch([twice], at=10, partition=PARTITIONS[3]),
        batch_of(4),
    ]

    fine, lost, conflict, repeated, last = await together(ledger, given)

    assert isinstance(fine, Written)
    assert isinstance(last, Written)
    assert isinstance(lost, PartitionLostError)
    assert isinstance(conflict, PriceConflictError)
    assert isinstance(repeated, RepeatedError)
    assert repeated.event_keys == {again[0]}
    units = [file.units(tenant) for tenant in TENANTS]
    assert units == [{"p1": 4}, {}, {}, {"p1": 5}, {"p1": 6}, {}]
    assert file.kept_cogs() == file.audited_cogs()


async def test_repeats_are_counted_where_they_came(ledger: Ledger, file: AuditedLedger) -> None:
    await ledger.apply(batch_of(1))

    done = await together(
        ledger, [batch_of(0), replace(batch_of(1), first_offset=2, next_offset=4)]
    )

    assert [one.duplicates for one in done if isinstance(one, Written)] == [0, 2]
    assert file.units(TENANTS[1]) == {"p1": 3}
    assert file.kept_cogs() == file.audited_cogs()
