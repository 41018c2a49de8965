"""What is PostgreSQL's alone: writers beside each other, a server that dies, one that forgot."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from aforo_meter.database import DatabaseThread, Sql, database_of
from aforo_meter.ledger import LedgerError, LedgerUnavailableError, Partition, PartitionLostError
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.migrate import migrate
from lab.postgres import PostgresServer
from lab.servers import KafkaServer, ServerStartError, eventually
from tests.conftest import KafkaAt, PostgresAt
from tests.contract.consume_lab import DOLLAR, ConsumeLab, consume_lab, usage_event
from tests.contract.ledger_lab import PARTITION, batch, used, watch, watched
from tests.contract.ledgers import LedgerOnServer, OnServer
from tests.missing import missing

pytestmark = pytest.mark.contract

ROUNDS = 15


@pytest.fixture
def file(postgres_server: PostgresServer | PostgresAt) -> Iterator[LedgerOnServer]:
    place = OnServer(postgres_server)
    yield place.new()
    place.close()


async def test_writers_of_one_tenant_take_nothing_from_each_other(file: LedgerOnServer) -> None:
    """As when a topic grows: a tenant's last events are in another partition than its next ones."""
    partitions = [Partition("aforo.usage.v1", number) for number in (0, 1)]

    async def write(partition: Partition) -> None:
        async with SqlLedger(file.url) as ledger:
            for at in range(ROUNDS):
                some = [used(f"e{partition.number}-{at}-{n}", tenant=f"t{n}") for n in range(5)]
                watches = watched(*(watch(tenant=f"t{n}") for n in range(5)))
                await ledger.apply(batch(some, at=at * 5, partition=partition, watches=watches))

    await asyncio.gather(*map(write, partitions))

    for n in range(5):
        assert file.units(f"t{n}") == {"p1": 2 * ROUNDS}
    assert file.kept_cogs() == file.audited_cogs()
    # $10 of revenue, $30 of COGS: every level was crossed, and told of once.
    told = file.rows(
        "SELECT tenant_id, COUNT(*), COUNT(DISTINCT message_id) FROM outbox GROUP BY 1"
    )
    assert sorted(told) == [(f"t{n}", 3, 3) for n in range(5)]


async def test_of_two_that_write_for_a_partition_one_is_refused(file: LedgerOnServer) -> None:
    async with SqlLedger(file.url) as one, SqlLedger(file.url) as other:
        writes = (
            one.apply(batch([used("e1")], at=10)),
            other.apply(batch([used("e2")], at=10)),
        )
        done = await asyncio.gather(*writes, return_exceptions=True)

    assert sorted(type(result).__name__ for result in done) == ["PartitionLostError", "Written"]
    assert file.units() == {"p1": 1}


async def test_a_server_without_the_last_commits_is_noticed(file: LedgerOnServer) -> None:
    """A replica took over, or a backup was brought back: the position is an old one."""
    async with SqlLedger(file.url) as ledger:
        await ledger.set_offset(PARTITION, 40)

        with pytest.raises(PartitionLostError, match="before offset 50: the ledger has lost"):
            await ledger.apply(batch([used("e1")], at=50, stands_at=50))
        await ledger.apply(batch([used("e1")], at=50, stands_at=40))

    assert file.units() == {"p1": 1}


async def test_texts_keep_their_signs(file: LedgerOnServer) -> None:
    """Percent and question marks mean something to drivers; colons to us."""
    odd = used("100% :sure?", tenant="a%s?", features=("a:b", "50%"))
    async with SqlLedger(file.url) as ledger:
        await ledger.apply(batch([odd, odd]))

    assert file.rows("SELECT tenant_id, feature FROM charge") == [("a%s?", "a:b,50%")]
    assert file.rows("SELECT COUNT(*) FROM seen_event") == [(1,)]


async def test_work_that_is_overtaken_is_done_again(file: LedgerOnServer) -> None:
    thread = DatabaseThread(database_of(file.url), "test")
    file.execute("INSERT INTO position VALUES ('t', 0, 0)")
    tries = []

    def add(sql: Sql) -> None:
        tries.append(1)
        (offset,) = sql.execute("SELECT next_offset FROM position").fetchone()
        if len(tries) == 1:
            file.execute("UPDATE position SET next_offset = 100")  # Somebody else, meanwhile.
        sql.execute("UPDATE position SET next_offset = ?", (offset + 1,))

    await thread.begin(add, writes=True)
    await thread.close()

    assert len(tries) == 2
    assert file.rows("SELECT next_offset FROM position") == [(101,)]


async def test_a_url_that_libpq_can_not_read_is_not_quoted() -> None:
    with pytest.raises(LedgerError, match="percent-encoded") as caught:
        database_of("postgresql://me:hun%ter2@host/aforo")

    assert "hun" not in str(caught.value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    """A server of the test's own, that it may kill."""
    made = PostgresServer(log_dir=tmp_path)
    try:
        made.start()
    except ServerStartError as error:
        missing(error)
    yield made
    made.stop()


def ledger_on(server: PostgresServer) -> LedgerOnServer:
    ledger = LedgerOnServer(server.url())
    migrate(ledger.url, dry_run=False)
    return ledger


async def test_a_server_that_dies_is_waited_for_and_found_again(server: PostgresServer) -> None:
    file = ledger_on(server)
    async with SqlLedger(file.url) as ledger:
        await ledger.apply(batch([used("e1")]))
        server.kill()
        with pytest.raises(LedgerUnavailableError) as caught:
            await ledger.apply(batch([used("e2")], at=1))
        with pytest.raises(LedgerUnavailableError):
            await ledger.next_offset(PARTITION)
        server.start()

        await ledger.apply(batch([used("e2")], at=1))

        assert await ledger.next_offset(PARTITION) == 2
    assert file.units() == {"p1": 2}
    assert "pa:ss" not in str(caught.value)
    assert "pa%3Ass" not in str(caught.value)


@pytest.fixture
async def lab(
    kafka_server: KafkaServer | KafkaAt, server: PostgresServer, tmp_path: Path
) -> AsyncIterator[ConsumeLab]:
    ledger = ledger_on(server)
    async with consume_lab(
        kafka_server.bootstrap, tmp_path, ledger=ledger, batch_records_max="40"
    ) as made:
        made.catalog.price("api.calls", DOLLAR // 1000)
        made.catalog.contract("acme")
        made.catalog.sync()
        yield made


@pytest.mark.slow
async def test_consume_waits_for_a_server_that_was_killed_and_charges_all_once(
    lab: ConsumeLab, server: PostgresServer
) -> None:
    """The margin in Redis, which decisions are made by, stays as it was meanwhile."""
    await lab.start()
    await lab.send("acme", 7)
    await lab.units_are("acme", {"api.calls@1000000": 7})
    before = await lab.margin_is("acme", lambda margin: margin.cogs_nanos == 7 * DOLLAR // 1000)

    for count in (1, 2, 3):
        events = [usage_event("acme", 1) for _ in range(200)]
        sending = asyncio.create_task(lab.send_many([*events, *events[::3]]))
        await asyncio.sleep(0.02 * count)
        await asyncio.to_thread(server.kill)
        await sending
        await eventually(lambda: len(lab.log_lines("waiting")) >= count)  # noqa: B023
        margin = lab.margin("acme")
        assert margin.cogs_nanos >= before.cogs_nanos
        await asyncio.to_thread(server.start)
        units = 7 + 200 * count
        await lab.units_are("acme", {"api.calls@1000000": units})

    assert lab.ledger.kept_cogs() == lab.ledger.audited_cogs()
    await lab.margin_is("acme", lambda margin: margin.cogs_nanos == 607 * DOLLAR // 1000)
    lab.program.signal(signal.SIGTERM)
    assert await asyncio.to_thread(lab.program.wait) == 0
    assert "pa%3Ass" not in lab.program.log_text()


@pytest.mark.slow
async def test_consume_starts_before_its_server(lab: ConsumeLab, server: PostgresServer) -> None:
    await asyncio.to_thread(server.kill)
    lab.program.start(wait=False)
    lines = await eventually(lambda: lab.log_lines("waiting"))
    assert "the ledger" in lines[0]["what"]

    await asyncio.to_thread(server.start)
    await lab.send("acme", 3)
    await lab.units_are("acme", {"api.calls@1000000": 3})
