"""Kafka with TLS, logins and ops/kafka/acls.sh: who may do what, and what the others hear."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from aforo_meter import topics
from aforo_meter.kafka_place import client_options, start
from lab.kafka_java import JavaKafka
from lab.servers import HANG_S
from tests.certificates import certificate
from tests.guarded_kafka import USERS, give_rights, guarded_kafka

pytestmark = [pytest.mark.contract, pytest.mark.slow]

TOPIC, DEAD_LETTERS, GROUP = "aforo.usage.v1", "aforo.usage.dlq.v1", "aforo-consume"
TRIED = (TOPIC, DEAD_LETTERS, "another")
MAY_WRITE = {
    "aforo-ship": {TOPIC, DEAD_LETTERS},
    "aforo-ingest": {TOPIC, DEAD_LETTERS},
    "aforo-consume": {DEAD_LETTERS},
    "aforo-tools": {TOPIC, DEAD_LETTERS},
}
MAY_READ = {
    "aforo-ship": set[str](),
    "aforo-ingest": set[str](),
    "aforo-consume": {TOPIC},
    "aforo-tools": {TOPIC, DEAD_LETTERS},
}
MAY_JOIN = {"aforo-consume"}


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaKafka]:
    with guarded_kafka(tmp_path_factory.mktemp("kafka")) as server:
        asyncio.run(_topics(server.bootstrap))
        give_rights(server)
        yield server


async def _topics(bootstrap: str) -> list[str]:
    made = topics.create(bootstrap, TRIED, partitions=1, replication=1)
    return [line async for line in made]


@contextlib.asynccontextmanager
async def started(client: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - aiokafka ships no types.
    try:
        async with asyncio.timeout(HANG_S):
            await start(client)
        yield client
    finally:
        await client.stop()


async def writes(where: str, topic: str) -> bool:
    producer = AIOKafkaProducer(**client_options(where), enable_idempotence=True)
    async with started(producer):
        try:
            async with asyncio.timeout(HANG_S):
                await producer.send_and_wait(topic, b"x")
        except TopicAuthorizationFailedError:
            return False
    return True


async def reads(where: str, topic: str) -> bool:
    consumer = AIOKafkaConsumer(**client_options(where), auto_offset_reset="earliest")
    async with started(consumer):
        if topic not in await consumer.topics():
            return False  # It may not even know of it.
        consumer.assign([TopicPartition(topic, 0)])
        try:
            async with asyncio.timeout(HANG_S):
                while not await consumer.getmany(timeout_ms=200):
                    pass
        except TopicAuthorizationFailedError:
            return False
    return True


async def joins(where: str) -> bool:
    consumer = AIOKafkaConsumer(**client_options(where), group_id=GROUP)
    async with started(consumer):
        try:
            consumer.subscribe([TOPIC])
            async with asyncio.timeout(HANG_S):
                while not consumer.assignment():
                    await consumer.getmany(timeout_ms=200)
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError):
            return False
    return True


async def test_a_user_writes_to_its_topics_and_to_no_other(kafka: JavaKafka) -> None:
    for user in USERS:
        written = {topic for topic in TRIED if await writes(kafka.as_user(user), topic)}

        assert written == MAY_WRITE[user], user


async def test_a_user_reads_its_topics_and_no_other(kafka: JavaKafka) -> None:
    for topic in TRIED:
        assert await writes(kafka.bootstrap, topic)
    for user in USERS:
        read = {topic for topic in TRIED if await reads(kafka.as_user(user), topic)}

        assert read == MAY_READ[user], user


async def test_the_group_of_consume_is_its_own(kafka: JavaKafka) -> None:
    for user in USERS:
        assert await joins(kafka.as_user(user)) is (user in MAY_JOIN), user


async def test_no_process_makes_topics(kafka: JavaKafka) -> None:
    for user in USERS:
        made = topics.create(kafka.as_user(user), ["fresh"], partitions=1, replication=1)
        with pytest.raises(topics.TopicsError, match="Authorization failed"):
            await anext(made)


async def complaint(where: str) -> str:
    with pytest.raises(topics.TopicsError) as caught:
        await _topics(where)
    return str(caught.value)


async def test_what_is_wrong_with_a_connection_is_told_with_what_to_do(
    kafka: JavaKafka, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-s3cret")
    stranger, _ = certificate(tmp_path, "stranger", "IP:127.0.0.1")
    where, ca = f"127.0.0.1:{kafka.port}", kafka.bootstrap.rpartition("=")[2]

    for bootstrap, cause, remedy in (
        (
            f"kafkas://operator@{where}?password_file={wrong}&ssl_ca_certs={ca}",
            "SaslAuthenticationFailed",
            "what stands in password_file",
        ),
        (
            f"kafkas://operator@{where}?password_file={wrong}&ssl_ca_certs={stranger}",
            "certificate verify failed",
            "ssl_ca_certs=/path",
        ),
        (where, "closed", "kafkas://user@host:port"),
    ):
        told = await complaint(bootstrap)
        assert cause in told
        assert remedy in told
        assert "s3cret" not in told


async def test_an_error_of_a_client_that_starts_holds_no_password(
    kafka: JavaKafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-s3cret")
    authority = kafka.bootstrap.rpartition("&")[2]
    where = f"kafkas://aforo-ship@127.0.0.1:{kafka.port}?password_file={wrong}&{authority}"
    producer = AIOKafkaProducer(**client_options(where))
    try:
        with pytest.raises(KafkaError) as caught:
            await start(producer)
    finally:
        await producer.stop()

    assert "s3cret" not in f"{caught.value!r} {caught.value.__notes__} {caplog.text}"
