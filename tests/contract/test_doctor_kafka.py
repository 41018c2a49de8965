"""aforo-admin doctor at real brokers, each fault really made."""

import os
import time
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from aforo_admin.doctor import kafka
from aforo_admin.domain.diagnosis import Seen, Severity, compare
from lab.kafka_java import JavaKafka
from lab.servers import KafkaProgram, KafkaServer, ServerStartError
from tests.conftest import KafkaAt
from tests.contract.doctor_lab import assert_told, doctor, faults, found

pytestmark = pytest.mark.contract

STEP_S = 5.0


@pytest.fixture(scope="module")
def real_kafka() -> Iterator[KafkaProgram]:
    """Kafka itself, which tells of its topics' settings."""
    try:
        broker = JavaKafka()
    except ServerStartError as error:
        pytest.skip(str(error))
    with broker:
        yield broker


async def make(bootstrap: str, *names: str, settings: dict[str, str] | None = None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, 2, 1, topic_configs=settings) for name in names])
    await admin.close()


async def look(bootstrap: str, usage: str = "usage", timeout_s: float = STEP_S) -> Seen:
    return await kafka.look(bootstrap, usage=usage, dead_letters="dlq", timeout_s=timeout_s)


async def test_topics_that_are_not_there_are_told_with_the_command_and_not_made(
    kafka_server: KafkaServer | KafkaAt,
) -> None:
    usage = f"usage-{os.getpid()}-missing"
    for _ in range(2):  # It must not have made it at the first look.
        finding = found(await look(kafka_server.bootstrap, usage), f"there is no topic {usage}")
        assert_told(finding, Severity.FAULT)
        assert "aforo-meter topics" in finding.do


async def test_brokers_that_are_away_are_a_fault() -> None:
    assert_told(found(await look("127.0.0.1:1"), "do not answer"), Severity.FAULT)


async def test_a_broker_that_is_frozen_is_a_fault_within_its_time() -> None:
    with KafkaServer() as server:
        server.freeze()
        begun_s = time.monotonic()
        # As a process: the client leaves a connection open that it gave up.
        done = doctor("--timeout-s", "3", env={"AFORO_ADMIN_KAFKA_BOOTSTRAP": server.bootstrap})
        took_s = time.monotonic() - begun_s
        server.thaw()

    assert done.returncode == 1
    assert "FAULT   kafka" in done.stdout
    assert took_s < 30  # Of which its start is most, on shared cores.


async def test_topics_as_they_should_be_have_no_fault(real_kafka: KafkaProgram) -> None:
    await make(real_kafka.bootstrap, "well", "dlq")
    producer = AIOKafkaProducer(bootstrap_servers=real_kafka.bootstrap)
    await producer.start()
    await producer.send_and_wait("well", b"1", partition=1)
    await producer.stop()
    seen = await look(real_kafka.bootstrap, "well")

    assert faults(seen) == []
    assert found(seen, "well: 2 partitions").severity is Severity.OK
    assert seen.offsets == {0: (0, 0), 1: (0, 1)}


@pytest.mark.parametrize(
    ("settings", "told", "severity"),
    [
        ({"cleanup.policy": "compact"}, "cleanup.policy is compact", Severity.FAULT),
        ({"cleanup.policy": "compact,delete"}, "cleanup.policy is compact", Severity.FAULT),
        ({"retention.ms": "3600000"}, "records are kept for 1 h", Severity.WARNING),
        ({"max.message.bytes": "1000"}, "max.message.bytes is 1000", Severity.WARNING),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
async def test_settings_that_lose_usage_are_told_with_the_command_that_mends_them(
    real_kafka: KafkaProgram, settings: dict[str, str], told: str, severity: Severity
) -> None:
    name = "wrong-" + "-".join(settings[key].replace(",", "-") for key in settings)
    await make(real_kafka.bootstrap, name, settings=settings)
    finding = found(await look(real_kafka.bootstrap, name), told)

    assert_told(finding, severity)
    key, value = finding.do.rpartition("--add-config ")[2].split("=")
    admin = AIOKafkaAdminClient(bootstrap_servers=real_kafka.bootstrap)
    await admin.start()
    await admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name, configs={key: value})]
    )
    await admin.close()
    assert told not in str((await look(real_kafka.bootstrap, name)).findings)


async def test_usage_that_kafka_removed_before_it_was_charged_is_a_fault(
    real_kafka: KafkaProgram,
) -> None:
    await make(real_kafka.bootstrap, "short")
    admin = AIOKafkaAdminClient(bootstrap_servers=real_kafka.bootstrap)
    producer = AIOKafkaProducer(bootstrap_servers=real_kafka.bootstrap)
    await producer.start()
    for _ in range(3):
        sent = await producer.send_and_wait("short", b"1", partition=0)
    await producer.stop()
    await admin.start()
    await admin.delete_records({sent.topic_partition: record_until(2)})
    await admin.close()
    seen = await look(real_kafka.bootstrap, "short")
    assert seen.offsets[0] == (2, 3)

    ledger = Seen("ledger")
    ledger.positions = {0: 1, 7: 4}
    together = compare([seen, ledger], own_build="1")

    assert_told(found(together, "partition 0: the ledger wants offset 1"), Severity.FAULT)
    assert_told(found(together, "a position of partition 7"), Severity.FAULT)


def record_until(offset: int) -> object:
    from aiokafka.admin import RecordsToDelete  # noqa: PLC0415 - used here alone.

    return RecordsToDelete(before_offset=offset)
