"""Kafka: its topics, and where the usage topic begins and ends. It makes no topic."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from aforo_admin.domain.diagnosis import Seen
from aforo_admin.domain.diagnosis_kafka import Topic, judge_topic
from aforo_meter import kafka_place

PART: Final = "kafka"


async def look(bootstrap: str, *, usage: str, dead_letters: str, timeout_s: float) -> Seen:
    """Look at the brokers and both topics, as whom `kafka_place` reads from the bootstrap."""
    seen = Seen(PART)
    options = kafka_place.client_options(bootstrap)
    options["request_timeout_ms"] = int(timeout_s * 1000)
    admin = AIOKafkaAdminClient(**options)
    try:
        await kafka_place.start(admin)
        topics = await _look(seen, admin, bootstrap, (usage, dead_letters))
        if partitions := topics[usage].partitions:
            await _read_offsets(seen, options, usage, partitions)
    except (KafkaError, OSError) as error:
        seen.fault(
            f"brokers at {options['bootstrap_servers']} do not answer: {kafka_place.told(error)}",
            "usage waits in the spools of ship and ingest, and nothing is charged",
            "are they up, is the address right, are the topics' ACLs? then their log",
        )
    finally:
        await admin.close()
    return seen


async def _look(
    seen: Seen, admin: AIOKafkaAdminClient, bootstrap: str, names: Sequence[str]
) -> dict[str, Topic]:
    brokers = len((await admin.describe_cluster())["brokers"])
    answer = "broker answers" if brokers == 1 else "brokers answer"
    seen.ok(f"{brokers} {answer} at {kafka_place.parse(bootstrap).brokers}")
    # To describe a topic that is not there may create it: so they are listed first.
    there = [name for name in await admin.list_topics() if name in names]
    described = (
        {each["topic"]: each for each in await admin.describe_topics(there)} if there else {}
    )
    topics: dict[str, Topic] = {}
    for name in names:
        topic = Topic(name=name)
        if name in described:
            topic = _topic(name, described[name], await kafka_place.settings_of(admin, name))
            if not topic.settings:
                seen.skipped(
                    f"{name}: its settings were not told; retention was not looked at",
                    "if the broker has ACLs: grant this user DescribeConfigs, as ops/kafka does",
                )
        # Dead letters come second, and are judged beside the usage that had no room.
        usage = next(iter(topics.values()), None)
        judge_topic(seen, topic, brokers=brokers, bootstrap=bootstrap, usage=usage)
        topics[name] = topic
    return topics


def _topic(name: str, described: dict[str, Any], settings: dict[str, str]) -> Topic:
    partitions = described["partitions"]
    return Topic(
        name=name,
        partitions=len(partitions),
        replicas=min(len(each["replicas"]) for each in partitions),
        leaderless=tuple(each["partition"] for each in partitions if each["leader"] < 0),
        thin=tuple(
            each["partition"] for each in partitions if len(each["isr"]) < len(each["replicas"])
        ),
        settings=settings,
    )


async def _read_offsets(
    seen: Seen, options: Mapping[str, Any], usage: str, partitions: int
) -> None:
    consumer = AIOKafkaConsumer(**options)
    places = [TopicPartition(usage, number) for number in range(partitions)]
    try:
        await consumer.start()
        first, end = await asyncio.gather(
            consumer.beginning_offsets(places), consumer.end_offsets(places)
        )
        seen.offsets = {place.partition: (first[place], end[place]) for place in places}
    finally:
        await consumer.stop()
