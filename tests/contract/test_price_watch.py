"""When prices are compared with what was charged: by a clock of the test's, on a real ledger."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from aforo_meter.alerting_sql import SqlAlerts
from aforo_meter.contracts import Contracts
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.ledger import Partition
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.partitions import Owned, Partitions
from aforo_meter.price_watch import PriceWatch
from tests.contract.consume_lab import Catalog
from tests.contract.ledger_lab import DOLLAR, NOW, batch, price, used, watch, watched
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

PARTITION = Partition("aforo.usage.v1", 0)


@dataclass(kw_only=True)
class Watching:
    """One partition, its tenant, and the clock."""

    ledger: SqlLedger
    contracts: Contracts
    catalog: Catalog
    owned: Owned
    watch: PriceWatch = field(init=False)
    now_micros: int = NOW

    def __post_init__(self) -> None:
        partitions = Partitions(self.ledger, accept_lost_records=False, released=lambda _: None)
        partitions._owned[PARTITION] = self.owned
        self.watch = PriceWatch(
            *(SqlAlerts(self.ledger), self.contracts, partitions),
            tenants=lambda: ["acme"],
            now_micros=lambda: self.now_micros,
        )

    async def uses(self, event_id: str, meter: str) -> None:
        charged = used(event_id, 4, prices=(price(meter, meter=meter),), meter=meter)
        at = self.owned.next_offset
        await self.ledger.apply(
            batch([charged], at=at, watches=watched(watch()), partition=PARTITION)
        )
        self.owned.next_offset = at + 1

    async def look(self) -> None:
        await self.contracts.look()
        await self.watch.look()


@pytest.fixture
async def watching(ledger: SqlLedger, redis_url: str) -> AsyncIterator[Watching]:
    catalog = Catalog(redis.Redis.from_url(redis_url))
    catalog.contract("acme")
    for meter in ("api.calls", "gpu.ms"):
        catalog.price(meter, DOLLAR, price_id=meter)
    catalog.sync()
    client = Redis.from_url(redis_url)
    contracts = Contracts(client)
    await contracts.know([("acme", "")])
    owned = Owned(partition=PARTITION, next_offset=0, is_new=False)
    yield Watching(ledger=ledger, contracts=contracts, catalog=catalog, owned=owned)
    await client.aclose()


def announced(file: AuditedLedger) -> list[Any]:
    query = "SELECT meter, state FROM price_told ORDER BY told_at_micros, meter"
    return [tuple(row) for row in file.rows(query)]


async def test_who_begins_to_use_what_a_price_is_to_come_for_hears_of_it_within_the_hour(
    watching: Watching, file: AuditedLedger
) -> None:
    await watching.uses("e1", "api.calls")
    for meter in ("api.calls", "gpu.ms"):
        watching.catalog.price(meter, 2 * DOLLAR, price_id=f"{meter}-next")
        watching.catalog.prices[-1].effective_from_micros = NOW + 30 * HOUR_MICROS
    watching.catalog.sync()
    await watching.look()
    assert announced(file) == [("api.calls", "announced")]

    await watching.uses("e2", "gpu.ms")
    watching.now_micros += HOUR_MICROS
    await watching.look()
    await watching.look()

    assert announced(file) == [("api.calls", "announced"), ("gpu.ms", "announced")]


async def test_a_price_from_now_and_the_one_after_it_are_told_though_they_came_together(
    watching: Watching, file: AuditedLedger
) -> None:
    await watching.uses("e1", "api.calls")
    for number, hours in ((2, 0), (3, 30)):
        watching.catalog.price("api.calls", number * DOLLAR, price_id=f"p{number}")
        watching.catalog.prices[-1].effective_from_micros = NOW + hours * HOUR_MICROS
    watching.catalog.sync()

    await watching.look()

    assert sorted(announced(file)) == [("api.calls", "announced"), ("api.calls", "in_force")]
