"""Ingest without Redis, Kafka or ledger, and killed in the middle: nothing is lost or doubled."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aforo_meter import topics
from lab.ports import free_port
from lab.servers import HANG_S, KafkaServer, eventually
from tests.conftest import KafkaAt
from tests.contract.ingest_lab import (
    IngestLab,
    event,
    ingest_lab,
    ingest_program,
)

pytestmark = pytest.mark.contract


@contextlib.asynccontextmanager
async def a_lab(bootstrap: str, home: Path, **more: Any) -> AsyncIterator[IngestLab]:  # noqa: ANN401
    async with ingest_lab(bootstrap, home, **more) as made:
        yield made


async def test_without_redis_known_keys_and_tenants_go_on(
    kafka_server: KafkaServer | KafkaAt, tmp_path: Path
) -> None:
    async with a_lab(kafka_server.bootstrap, tmp_path, consuming=False) as lab:
        known, new = lab.tenant("known"), lab.tenant("new")
        assert (await lab.batch(event(known))).counts == (1, 0, 0)

        lab.consume.redis_server.kill()
        await asyncio.sleep(1.1)  # By then what is remembered wants to be asked for again.

        assert (await lab.batch(event(known))).counts == (1, 0, 0)
        for answer in (
            await lab.batch(event(known), event(new)),
            await lab.batch(key="never seen"),
        ):
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.problem
        for key in (lab.key, "never seen"):
            answer = await lab.post("/v1/quota/check", {"customerId": known}, key=key)
            assert answer.data["decision"] == "ALLOW"
            assert "at the moment" in answer.data["reason"]

        lab.consume.redis_server.start()
        # It is empty, and no sync has been there: what is missing is not known to be absent.
        await asyncio.sleep(1.1)
        assert (await lab.batch(event(known))).counts == (1, 0, 0)
        assert (await lab.batch(event(new))).status == 503
        lab.allow(lab.key)
        lab.consume.catalog.sync()
        await answered(lab, event(new), status=202)


async def answered(lab: IngestLab, body: dict[str, Any], *, status: int) -> None:
    """Send an event again and again, as clients do, until it is answered so."""
    async with asyncio.timeout(HANG_S):
        while (await lab.batch(body)).status != status:  # noqa: ASYNC110 - of another process.
            await asyncio.sleep(0.1)


async def test_a_redis_that_hangs_holds_up_one_request_in_a_second(
    kafka_server: KafkaServer | KafkaAt, tmp_path: Path
) -> None:
    async with a_lab(
        kafka_server.bootstrap, tmp_path, consuming=False, redis_timeout_ms="500"
    ) as lab:
        await lab.batch(event("warm-up"))
        lab.consume.redis_server.freeze()
        await asyncio.sleep(1.1)
        try:
            answers = [await lab.batch(event("warm-up")) for _ in range(20)]
        finally:
            lab.consume.redis_server.thaw()

        assert [answer.counts for answer in answers] == [(1, 0, 0)] * 20


async def test_without_the_ledger_events_are_taken_and_it_counts_them_once(
    kafka_server: KafkaServer | KafkaAt, tmp_path: Path
) -> None:
    """Locked for writing it answers; moved away it does not, and duplicates are sent on."""
    async with a_lab(kafka_server.bootstrap, tmp_path) as lab:
        tenant = lab.tenant("ledgerless")
        first, second = event(tenant), event(tenant)
        await lab.batch(first)
        await lab.meters_are(tenant, {"api.calls": 1})

        with lab.consume.ledger.locked():
            assert (await lab.batch(first, second)).counts == (1, 1, 0)
        await lab.meters_are(tenant, {"api.calls": 2})

        # Another process has no memory of what the first one accepted, and no ledger to ask.
        port = free_port()
        other = ingest_program(
            lab.consume,
            port,
            free_port(),
            name="other",
            ledger_url="sqlite:////nowhere/at/all.db",
        )
        await asyncio.to_thread(other.start)
        try:
            lab.port, here = port, lab.port
            assert (await lab.batch(first, second, event(tenant))).counts == (3, 0, 0)
            lab.port = here
            assert "aforo-meter migrate --ledger-url sqlite:////nowhere" in other.log_text()
            assert "the ledger does not answer" in other.log_text()
        finally:
            await asyncio.to_thread(other.stop)
        await lab.meters_are(tenant, {"api.calls": 3})


async def test_without_kafka_clients_are_told_to_come_again_and_nothing_is_promised(
    tmp_path: Path,
) -> None:
    with KafkaServer(log_dir=tmp_path) as kafka:
        async with a_lab(
            kafka.bootstrap, tmp_path, consuming=False, kafka_timeout_ms="1000"
        ) as lab:
            first, second = event("warm-up"), event("warm-up")
            await answered(lab, first, status=202)  # Once it has connected.

            kafka.freeze()
            for _ in range(2):
                answer = await lab.batch(first, second)
                assert answer.status == 503
                assert answer.headers["retry-after"] == "1"
                assert answer.problem
            # What was accepted before is known all the same.
            assert (await lab.batch(first)).counts == (0, 1, 0)

            kafka.thaw()
            await answered(lab, second, status=202)
            # The retry was taken for an event, and not for a repeat of what was never promised.
            assert await lab.metric('aforo_ingest_events_total{as="accepted"}') == 2


async def test_with_a_spool_clients_are_answered_without_kafka_and_a_kill_loses_nothing(
    tmp_path: Path,
) -> None:
    spool = tmp_path / "spool"
    with KafkaServer(log_dir=tmp_path) as kafka:
        async with a_lab(kafka.bootstrap, tmp_path, spool_dir=str(spool)) as lab:
            tenant = lab.tenant("spooled")
            before, meanwhile = event(tenant), [event(tenant) for _ in range(50)]
            assert (await lab.batch(before)).counts == (1, 0, 0)
            await lab.meters_are(tenant, {"api.calls": 1})

            kafka.freeze()
            try:
                for one in meanwhile:
                    assert (await lab.batch(one)).counts == (1, 0, 0)
                lab.program.kill()
                # A client that did not hear the last answer sends that event again.
                await asyncio.to_thread(lab.program.start)
                assert (await lab.batch(meanwhile[-1])).counts == (1, 0, 0)
            finally:
                kafka.thaw()

            await lab.meters_are(tenant, {"api.calls": 51})


async def test_it_starts_without_kafka_and_goes_on_when_there_is_one(tmp_path: Path) -> None:
    kafka = KafkaServer(log_dir=tmp_path)
    with kafka:
        async with a_lab(
            kafka.bootstrap, tmp_path, consuming=False, kafka_timeout_ms="1000"
        ) as lab:
            await asyncio.to_thread(lab.program.stop)
            kafka.kill()
            await asyncio.to_thread(lab.program.start)
            assert (await lab.batch(event("warm-up"))).status == 503

            await asyncio.to_thread(kafka.start)
            # The lab's broker has forgotten all topics.
            async for _ in topics.create(
                kafka.bootstrap, [lab.consume.topic], partitions=2, replication=1
            ):
                pass
            await answered(lab, event("warm-up"), status=202)


async def test_a_kill_at_any_moment_loses_nothing_that_was_answered(
    kafka_server: KafkaServer | KafkaAt, tmp_path: Path
) -> None:
    """A client that retries until it has an answer, and a server that dies again and again."""
    async with a_lab(kafka_server.bootstrap, tmp_path) as lab:
        tenant = lab.tenant("killed")
        batches = [[event(tenant) for _ in range(200)] for _ in range(30)]
        duplicates = 0

        async def deliver(events: list[dict[str, Any]]) -> None:
            nonlocal duplicates
            while True:
                try:
                    answer = await lab.batch(*events)
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)
                    continue
                if answer.status == 202:
                    duplicates += answer.data["duplicates"]
                    return
                assert answer.status == 503
                await asyncio.sleep(0.05)

        async def client(own: list[list[dict[str, Any]]]) -> None:
            for events in own:
                await deliver(events)

        clients = [asyncio.create_task(client(batches[part::3])) for part in range(3)]
        for pause_s in (0.02, 0.05, 0.11, 0.17):
            await asyncio.sleep(pause_s)
            lab.program.kill()
            await asyncio.to_thread(lab.program.start)
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*clients)
        assert (await lab.batch(event(tenant, metricName="bytes.request"))).status == 202

        await lab.meters_are(tenant, {"api.calls": 6000, "bytes.request": 1})


async def test_sigterm_lets_what_is_under_way_end(
    kafka_server: KafkaServer | KafkaAt, tmp_path: Path
) -> None:
    async with a_lab(kafka_server.bootstrap, tmp_path, consuming=False) as lab:
        sending = [
            asyncio.create_task(lab.batch(*(event("warm-up") for _ in range(1000))))
            for _ in range(4)
        ]
        await asyncio.sleep(0)
        await eventually(lambda: lab.program.running)
        while await lab.metric("aforo_ingest_requests_under_way") < 1:
            if all(one.done() for one in sending):
                break

        lab.program.signal(signal.SIGTERM)

        answers = await asyncio.gather(*sending, return_exceptions=True)
        assert await asyncio.to_thread(lab.program.wait) == 0
        for answer in answers:
            # One whose connection was not accepted yet is refused; none is cut.
            if isinstance(answer, BaseException):
                assert isinstance(answer, aiohttp.ClientConnectorError)
            else:
                assert answer.counts == (1000, 0, 0)


async def test_an_address_in_use_is_said_in_a_line(
    kafka_server: KafkaServer | KafkaAt, tmp_path: Path
) -> None:
    async with a_lab(kafka_server.bootstrap, tmp_path, consuming=False) as lab:
        taken = {"LISTEN": (lab.port, free_port()), "METRICS_LISTEN": (free_port(), lab.port)}
        for setting, (port, metrics_port) in taken.items():
            other = ingest_program(lab.consume, port, metrics_port, name=setting)
            other.start(wait=False)

            assert await asyncio.to_thread(other.wait) == 2
            assert other.log_text() == (
                f"aforo-meter: 127.0.0.1:{lab.port} is already in use: stop what listens there, or"
                f" change AFORO_METER_INGEST_{setting}\n"
            )
