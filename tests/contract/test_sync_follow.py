"""Sync follows its file and outlives Redis: edits, mistakes, outages, emptied servers, time."""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_admin.catalog_file import POLL_S, open_file
from aforo_admin.following import Follower
from aforo_admin.prices_file import write_prices
from aforo_proto.contract_pb2 import Contract, PriceBook, PriceEntry, PriceList
from aforo_proto.margin_pb2 import Margin
from aforo_proto.policy_pb2 import Policy, SyncState
from lab.servers import HANG_S, RedisServer, eventually

pytestmark = pytest.mark.contract

CATALOG = """\
version: 1
currency: USD
plans: {{pro: {{committed_fee: {fee}, features: []}}}}
tenants:
  acme:
    subscription: {{id: s, plan: pro, started_at: 2026-01-01}}
"""


class Running:
    """A follower at work in this process, on a clock that the test can move."""

    def __init__(self, redis: Redis, path: Path, *, interval_s: float) -> None:
        self.redis = redis
        self.path = path
        self.interval_s = interval_s
        self.ahead = timedelta()
        self.follower: Follower | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator["Running"]:
        stop = asyncio.Event()
        self.follower = Follower(
            redis=self.redis,
            source=await open_file(self.path),
            clock=lambda: datetime.now(UTC) + self.ahead,
            interval_s=self.interval_s,
        )
        task = asyncio.create_task(self.follower.run(stop))
        try:
            yield self
        finally:
            stop.set()
            await task

    def complaint(self) -> str | None:
        assert self.follower is not None
        return self.follower.complaint()

    def edit(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    async def fee(self) -> int | None:
        """The fee that Redis holds, in whole units; None if it holds or answers nothing."""
        with contextlib.suppress(Exception):
            value = await self.redis.get("aforo:v1:{acme}:contract")
            if isinstance(value, bytes):
                return Contract.FromString(value).committed_fee_nanos // 10**9
        return None

    async def fee_becomes(self, fee: int) -> None:
        async def reached() -> bool:
            return await self.fee() == fee

        await until(reached)


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HANG_S):
        while True:
            if await probe():
                return
            await asyncio.sleep(0.02)


def client(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=1, retry=Retry(NoBackoff(), 0))


@pytest.fixture
async def running(redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """Following, with a full pass only every ten minutes: what happens sooner has its own cause."""
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG.format(fee=5))
    redis = client(redis_url)
    async with Running(redis, path, interval_s=600).run() as found:
        await found.fee_becomes(5)
        yield found
    await redis.aclose()


async def test_an_edit_is_in_redis_within_two_seconds(running: Running) -> None:
    took_s = []
    for fee in range(11, 16):
        began_s = time.monotonic()
        running.edit(CATALOG.format(fee=fee))
        await running.fee_becomes(fee)
        took_s.append(time.monotonic() - began_s)

    assert statistics.median(took_s) < 2.0, took_s
    assert running.complaint() is None


async def test_an_edit_in_place_counts_too(running: Running) -> None:
    running.path.write_text(CATALOG.format(fee=8))

    await running.fee_becomes(8)


async def test_a_wrong_edit_leaves_the_last_good_catalog_in_force(running: Running) -> None:
    running.edit(CATALOG.format(fee=-8))
    await eventually(running.complaint)

    assert "has 1 fault," in (running.complaint() or "")
    assert await running.fee() == 5
    running.edit(CATALOG.format(fee=9))
    await running.fee_becomes(9)
    assert running.complaint() is None


async def test_a_file_that_vanishes_leaves_the_last_good_catalog_in_force(
    running: Running,
) -> None:
    content = running.path.read_text()
    running.path.unlink()
    await eventually(running.complaint)

    assert await running.fee() == 5
    running.path.write_text(content)
    await eventually(lambda: running.complaint() is None)


async def test_a_file_that_is_still_being_written_is_left_alone(running: Running) -> None:
    text = CATALOG.format(fee=8) + "#" * 40_960  # Eight looks long.
    assert running.follower is not None
    source = running.follower.source
    before = source.catalog
    with running.path.open("w") as file:
        for start in range(0, len(text), 512):
            file.write(text[start : start + 512])
            file.flush()
            await asyncio.sleep(POLL_S / 10)
            # Its first piece is a whole catalog already; more comes, so it is not taken.
            assert source.catalog is before

    await running.fee_becomes(8)


async def test_an_emptied_redis_is_filled_again_without_waiting_for_the_schedule(
    running: Running,
) -> None:
    await running.redis.flushall()

    async with asyncio.timeout(5):
        await running.fee_becomes(5)


async def test_a_new_period_is_written_when_it_begins(running: Running) -> None:
    async def policy() -> Policy:
        value = await running.redis.get("aforo:v1:{acme}:policy")
        assert isinstance(value, bytes)
        return Policy.FromString(value)

    before = await policy()
    end = datetime.fromtimestamp(before.period_end_micros / 10**6, UTC)
    running.ahead = end - datetime.now(UTC)

    async def next_period() -> bool:
        return (await policy()).period_start_micros == before.period_end_micros

    await until(next_period)
    assert (await policy()).catalog_version == before.catalog_version


async def test_drift_is_repaired_on_schedule(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG.format(fee=5))
    redis = client(redis_url)
    async with Running(redis, path, interval_s=0.3).run() as running:
        await running.fee_becomes(5)
        await redis.delete("aforo:v1:{acme}:contract")
        await running.fee_becomes(5)
    await redis.aclose()


async def test_redis_may_come_late_go_and_come_back(tmp_path: Path) -> None:
    server = RedisServer()
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG.format(fee=5))
    redis = client(server.url)
    async with Running(redis, path, interval_s=600).run() as running:
        await asyncio.sleep(0.5)
        assert running.complaint() == "no pass has succeeded yet"

        with server:
            await running.fee_becomes(5)
        running.edit(CATALOG.format(fee=8))
        await asyncio.sleep(0.5)
        with server:
            await running.fee_becomes(8)
            assert running.complaint() is None
    await redis.aclose()


async def test_a_redis_that_hangs_is_given_up_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG.format(fee=5))
    with RedisServer() as server:
        redis = client(server.url)
        async with Running(redis, path, interval_s=600).run() as running:
            await running.fee_becomes(5)
            server.freeze()
            running.edit(CATALOG.format(fee=8))
            assert running.follower is not None
            await eventually(failures_of(running.follower))
            server.thaw()
            await running.fee_becomes(8)
        await redis.aclose()


def failures_of(follower: Follower) -> Callable[[], int]:
    return lambda: follower.failures


async def test_the_mark_of_a_pass_says_when_and_what(running: Running) -> None:
    value = await running.redis.get("aforo:v1:sync")
    assert isinstance(value, bytes)
    state = SyncState.FromString(value)

    assert state.tenants == 1
    assert abs(state.completed_at_micros / 10**6 - datetime.now(UTC).timestamp()) < 60
    assert running.follower is not None
    assert running.follower.complete is not None
    assert state.catalog_version == running.follower.complete.version


async def test_a_touched_file_with_the_same_content_writes_nothing(running: Running) -> None:
    before = await running.redis.get("aforo:v1:{acme}:contract")
    follower = running.follower
    assert follower is not None
    model = await eventually(lambda: follower.complete)
    os.utime(running.path)

    await eventually(lambda: follower.complete is not model)

    assert follower.complete is not None
    assert model is not None
    assert follower.complete.version == model.version
    assert await running.redis.get("aforo:v1:{acme}:contract") == before


async def test_an_import_into_the_file_of_prices_is_followed(running: Running) -> None:
    async def held() -> list[str]:
        value = await running.redis.get("aforo:v1:pricebook")
        assert isinstance(value, bytes)
        book = PriceBook.FromString(value)
        return [entry.price_id for each in book.built_in for entry in each.entries]

    def imported(*price_ids: str) -> None:
        entries = [PriceEntry(price_id=one, meter="api.calls", per_units=1) for one in price_ids]
        write_prices(running.path.with_name("prices.jsonl"), [PriceList(entries=entries)])

    imported("a")
    running.edit(CATALOG.format(fee=6) + "built_in_costs: prices.jsonl\n")
    await running.fee_becomes(6)
    assert await held() == ["a"]

    imported("a", "b")

    async def reached() -> bool:
        return await held() == ["a", "b"]

    await until(reached)


async def test_a_change_of_the_currency_under_charges_leaves_redis_as_it_is(
    running: Running,
) -> None:
    margin = Margin(tenant_id="acme", currency="USD", cogs_nanos=1)
    await running.redis.set("aforo:v1:{acme}:margin", margin.SerializeToString())

    running.edit(CATALOG.format(fee=7).replace("USD", "EUR") + "built_in_costs: false\n")

    async def refused() -> bool:
        return "has charges in USD" in (running.complaint() or "")

    await until(refused)
    assert await running.fee() == 5
    running.edit(CATALOG.format(fee=8))
    await running.fee_becomes(8)

    async def content() -> bool:
        return running.complaint() is None

    await until(content)
