"""Margins → a real Redis: absolute, complete after failures, and again when Redis forgot them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import redis
from redis.asyncio import Redis

from aforo_meter.contracts import Contracts
from aforo_meter.ledger import Ledger
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.publish import Publisher, consumed_key, margin_key
from aforo_proto import margin_pb2
from lab.ports import free_port
from lab.servers import RedisServer, eventually
from tests.contract.consume_lab import Catalog, now_micros
from tests.contract.ledger_lab import DOLLAR, batch, used, watch, watched
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract


@dataclass(kw_only=True)
class Parts:
    ledger: Ledger
    publisher: Publisher
    redis: redis.Redis
    contracts: Contracts
    next_offset: int = 0

    async def use(self, tenant: str, units: int) -> None:
        """Commit usage, without publishing."""
        event = used(f"{tenant}-{self.next_offset}", units, tenant=tenant)
        await self.ledger.apply(
            batch([event], at=self.next_offset, watches=watched(watch(tenant=tenant)))
        )
        self.next_offset += 1

    def margin(self, tenant: str) -> margin_pb2.Margin | None:
        value = self.redis.get(margin_key(tenant))
        return margin_pb2.Margin.FromString(value) if isinstance(value, bytes) else None

    def cogs(self, tenant: str) -> int:
        margin = self.margin(tenant)
        return -1 if margin is None else margin.cogs_nanos


@pytest.fixture
async def parts(redis_url: str, file: AuditedLedger) -> AsyncIterator[Parts]:
    sync_client = redis.Redis.from_url(redis_url)
    catalog = Catalog(sync_client)
    for tenant in ("acme", "globex"):
        catalog.contract(tenant)
    catalog.sync()
    client = Redis.from_url(redis_url)
    contracts = Contracts(client)
    await contracts.know([("acme", ""), ("globex", ""), ("gone", "")])
    async with SqlLedger(file.url) as ledger:
        yield Parts(
            ledger=ledger,
            publisher=Publisher(client, ledger, contracts),
            redis=sync_client,
            contracts=contracts,
        )
    await client.aclose()


async def test_what_is_published_is_what_the_ledger_says_at_that_moment(parts: Parts) -> None:
    await parts.use("acme", 1)
    parts.publisher.mark("acme", 7)
    await parts.use("acme", 2)  # Committed by another consumer meanwhile.

    assert await parts.publisher.flush()

    margin = parts.margin("acme")
    assert margin is not None
    assert (margin.cogs_nanos, margin.partition) == (3 * DOLLAR, 7)


async def test_only_tenants_that_are_marked_are_written(parts: Parts) -> None:
    await parts.use("acme", 1)
    await parts.use("globex", 1)
    parts.publisher.mark("acme", 0)

    await parts.publisher.flush()

    assert (parts.cogs("acme"), parts.cogs("globex")) == (DOLLAR, -1)


async def test_a_tenant_without_a_contract_has_no_margin(parts: Parts) -> None:
    await parts.use("gone", 1)
    parts.publisher.mark("gone", 0)

    assert await parts.publisher.flush()

    assert parts.margin("gone") is None


async def test_a_partition_is_behind_until_its_margins_are_written(parts: Parts) -> None:
    await parts.use("acme", 1)
    parts.publisher.mark("acme", 3, oldest_micros=now_micros())
    assert parts.publisher.is_behind(3)
    assert not parts.publisher.is_behind(4)

    await parts.publisher.flush()

    assert not parts.publisher.is_behind(3)


async def test_what_could_not_be_written_is_written_later(parts: Parts) -> None:
    port = free_port()
    away = Redis.from_url(f"redis://127.0.0.1:{port}/0")
    publisher = Publisher(away, parts.ledger, parts.contracts)
    await parts.use("acme", 1)
    publisher.mark("acme", 0)
    assert not await publisher.flush()
    await parts.use("acme", 1)

    with RedisServer(port=port), redis.Redis(port=port) as client:
        running = asyncio.create_task(publisher.run())
        value = await eventually(lambda: client.get(margin_key("acme")))
        assert isinstance(value, bytes)
        assert margin_pb2.Margin.FromString(value).cogs_nanos == 2 * DOLLAR
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await away.aclose()


async def test_the_margins_of_a_partition_that_was_given_up_are_left_to_others(
    parts: Parts,
) -> None:
    await parts.use("acme", 1)
    await parts.use("globex", 1)
    parts.publisher.mark("acme", 1)
    parts.publisher.mark("globex", 2)

    parts.publisher.forget(1)
    await parts.publisher.flush()

    assert (parts.cogs("acme"), parts.cogs("globex")) == (-1, DOLLAR)


async def test_a_rebuilt_redis_is_marked_once_everything_is_there(parts: Parts) -> None:
    await parts.use("acme", 1)
    await parts.use("globex", 1)
    parts.publisher.rebuild({"acme": 0, "globex": 1})
    assert parts.redis.get("aforo:v1:published") is None

    await parts.publisher.flush()

    assert parts.redis.get("aforo:v1:published") == b"1"
    assert not parts.publisher.is_rebuilding
    assert (parts.cogs("acme"), parts.cogs("globex")) == (DOLLAR, DOLLAR)


async def test_a_heartbeat_notices_that_redis_forgot(parts: Parts) -> None:
    now = now_micros()
    assert await parts.publisher.heartbeat({0: now, 1: now}) == []
    assert await parts.publisher.heartbeat({0: now + 1, 1: now + 1}) == []

    parts.redis.delete(consumed_key(1))

    assert await parts.publisher.heartbeat({0: now + 2, 1: now + 2}) == [1]
    assert await parts.publisher.heartbeat({0: now + 3, 1: now + 3}) == []
    value = parts.redis.get(consumed_key(1))
    assert isinstance(value, bytes)
    state = margin_pb2.ConsumeState.FromString(value)
    assert (state.as_of_micros, state.ingest_ids_days) == (now + 3, 91)


async def test_a_margin_says_which_contract_and_prices_it_rests_on(parts: Parts) -> None:
    await parts.use("acme", 9)
    parts.publisher.mark("acme", 0)
    await parts.publisher.flush()

    margin = parts.margin("acme")
    assert margin is not None
    assert margin.level == margin_pb2.LEVEL_WARN
    assert (margin.catalog_version, margin.price_book_version) == ("v1", "b1")
    assert (margin.revenue_nanos, margin.allowance_nanos) == (10 * DOLLAR, 0)
