"""aforo-admin doctor at real brokers, each fault really made."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from aforo_admin.doctor import kafka
from aforo_admin.domain.diagnosis import Seen, Severity, compare
from aforo_meter import topics
from aforo_meter.kafka_place import client_options, settings_of
from lab.kafka_java import JavaKafka
from lab.servers import HANG_S, KafkaProgram, KafkaServer, ServerStartError
from tests.certificates import certificate
from tests.conftest import KafkaAt
from tests.contract.doctor_lab import assert_told, doctor, document_of, faults, found
from tests.guarded_kafka import give_rights, guarded_kafka
from tests.missing import missing

pytestmark = pytest.mark.contract

STEP_S = 60.0  # Of each step, at most.
USAGE, DEAD_LETTERS = "aforo.usage.v1", "aforo.usage.dlq.v1"  # As ops/kafka names them.


@pytest.fixture(scope="module")
def real_kafka() -> Iterator[KafkaProgram]:
    """Kafka itself, which tells of its topics' settings."""
    try:
        broker = JavaKafka()
    except ServerStartError as error:
        missing(error)
    with broker:
        yield broker


async def make(bootstrap: str, *names: str, settings: dict[str, str] | None = None) -> None:
    admin = AIOKafkaAdminClient(**client_options(bootstrap))
    await admin.start()
    await admin.create_topics([NewTopic(name, 2, 1, topic_configs=settings) for name in names])
    await admin.close()
    await known(bootstrap, *names)


async def known(bootstrap: str, *names: str) -> None:
    """Wait until the broker tells of topics: it answers whoever makes one a moment before."""
    admin = AIOKafkaAdminClient(**client_options(bootstrap))
    await admin.start()
    async with asyncio.timeout(HANG_S):
        while not {*names} <= {*await admin.list_topics()}:  # noqa: ASYNC110 - of a server.
            await asyncio.sleep(0.05)
    await admin.close()


async def alter(bootstrap: str, name: str, settings: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=settings)])
    async with asyncio.timeout(HANG_S):
        while settings.items() - (await settings_of(admin, name)).items():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
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
    await alter(real_kafka.bootstrap, name, {key: value})
    assert told not in str((await look(real_kafka.bootstrap, name)).findings)


@pytest.mark.parametrize("told", ["letters are kept for 7 days", "max.message.bytes is 1048588"])
async def test_dead_letters_that_kafka_keeps_as_it_keeps_all_are_told_of(
    real_kafka: KafkaProgram, told: str
) -> None:
    usage, letters = f"u-{told[:4].strip()}", f"d-{told[:4].strip()}"
    await make(real_kafka.bootstrap, usage, letters)

    async def looked() -> Seen:
        return await kafka.look(
            real_kafka.bootstrap, usage=usage, dead_letters=letters, timeout_s=STEP_S
        )

    finding = found(await looked(), f"{letters}: {told}")
    assert_told(finding, Severity.WARNING)
    key, value = finding.do.rpartition("--add-config ")[2].split("=")
    await alter(real_kafka.bootstrap, letters, {key: value})
    assert told not in str((await looked()).findings)


async def test_topics_that_our_command_made_are_as_they_should_be(
    real_kafka: KafkaProgram,
) -> None:
    names = ["ours.v1", "ours.dlq.v1"]
    made = topics.create(real_kafka.bootstrap, names, partitions=2, replication=1)
    lines = [line async for line in made]
    await known(real_kafka.bootstrap, *names)
    seen = await kafka.look(
        real_kafka.bootstrap, usage=names[0], dead_letters=names[1], timeout_s=STEP_S
    )

    assert [each.severity for each in seen.findings] == [Severity.OK] * 3, seen.findings
    assert [line.partition("; ")[0] for line in lines] == [
        "ours.v1: created, 2 partitions, replication 1",
        "ours.dlq.v1: created, 2 partitions, replication 1",
    ]
    assert "retention.ms=604800000,min.insync.replicas=1" in lines[0]
    assert lines[1].endswith("max.message.bytes=20971520")


async def test_of_topics_that_are_there_it_is_told_what_differs_and_how_to_change_it(
    real_kafka: KafkaProgram,
) -> None:
    await make(real_kafka.bootstrap, "there-dlq")

    async def told(**more: int) -> str:
        bootstrap = real_kafka.bootstrap
        made = topics.create(bootstrap, ["there-dlq"], partitions=2, replication=1, **more)
        return await anext(made)

    line = await told()
    command = line.rpartition("--add-config ")[2]
    assert line.startswith(
        "there-dlq: exists, 2 partitions; retention.ms is 604800000, max.message.bytes is 1048588."
    )
    assert command == "retention.ms=7776000000,max.message.bytes=20971520"
    assert await told() == line  # It has changed nothing.

    await alter(
        real_kafka.bootstrap, "there-dlq", dict(part.split("=") for part in command.split(","))
    )
    assert await told() == "there-dlq: exists, 2 partitions"
    assert "retention.ms is 7776000000. " in await told(dead_letter_days=91)


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


async def make_ours(bootstrap: str) -> None:
    async for _ in topics.create(bootstrap, [USAGE, DEAD_LETTERS], partitions=2, replication=1):
        pass
    await known(bootstrap, USAGE, DEAD_LETTERS)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaKafka]:
    """Kafka with TLS, users and the ACLs of ops/kafka."""
    with guarded_kafka(tmp_path_factory.mktemp("kafka")) as server:
        give_rights(server)
        asyncio.run(make_ours(server.bootstrap))
        yield server


@pytest.mark.slow
async def test_over_tls_and_as_a_user_of_ops_all_is_looked_at(guarded: JavaKafka) -> None:
    as_tools = guarded.as_user("aforo-tools")
    seen = await kafka.look(as_tools, usage=USAGE, dead_letters=DEAD_LETTERS, timeout_s=STEP_S)

    assert [each.severity for each in seen.findings] == [Severity.OK] * 3, seen.findings
    assert seen.offsets == {0: (0, 0), 1: (0, 0)}
    assert f"answers at 127.0.0.1:{guarded.port}" in seen.findings[0].what

    done = doctor("--json", env={"AFORO_ADMIN_KAFKA_BOOTSTRAP": as_tools})
    assert document_of(done)["worst"] == "skipped", "the other parts"
    assert done.returncode == 0


@pytest.mark.slow
async def test_a_user_who_may_not_see_settings_is_told_so(guarded: JavaKafka) -> None:
    seen = await look(guarded.as_user("aforo-ship"), USAGE)
    finding = found(seen, f"{USAGE}: its settings were not told")

    assert finding.severity is Severity.SKIPPED
    assert "DescribeConfigs" in finding.do


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "cause", "remedy"),
    [
        ("password", "SaslAuthenticationFailed", "what stands in password_file"),
        ("authority", "certificate verify failed", "ssl_ca_certs=/path"),
        ("nothing", "closed", "kafkas://user@host:port"),
    ],
)
async def test_what_is_wrong_with_a_login_is_a_fault_with_what_to_do(
    guarded: JavaKafka, tmp_path: Path, said: str, cause: str, remedy: str
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-s3cret")
    where, ca = f"127.0.0.1:{guarded.port}", guarded.bootstrap.rpartition("=")[2]
    login = f"kafkas://aforo-tools@{where}?password_file={wrong}&ssl_ca_certs="
    stranger, _ = certificate(tmp_path, "stranger", "IP:127.0.0.1")
    bootstrap = {"password": f"{login}{ca}", "authority": f"{login}{stranger}", "nothing": where}
    told = found(await look(bootstrap[said]), f"brokers at {where} do not answer")

    assert_told(told, Severity.FAULT)
    assert cause in told.what
    assert remedy in told.what
    assert "s3cret" not in str(told)


def record_until(offset: int) -> object:
    from aiokafka.admin import RecordsToDelete  # noqa: PLC0415 - used here alone.

    return RecordsToDelete(before_offset=offset)
