"""Dead letters as the admin shows them, from a real broker."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from django.test import override_settings

from aforo_proto import usage_pb2
from lab.servers import KafkaServer
from tests.conftest import KafkaAt
from tests.contract.screens_lab import World, empty_world

pytestmark = [
    pytest.mark.contract,
    pytest.mark.slow,
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

SCRIPT = b"<script>alert(1)</script>"
EVENT = usage_pb2.UsageEvent(event_id="e-7", tenant_id="acme", source="billing")


@pytest.fixture
def world(
    database: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    redis_url: str,
    kafka_server: KafkaServer | KafkaAt,
) -> Iterator[World]:
    topic = f"letters-{uuid4().hex}"
    asyncio.run(put(kafka_server.bootstrap, topic))
    with empty_world(database, request, tmp_path, redis_url) as made:
        told = replace(made.places, kafka_bootstrap=kafka_server.bootstrap, dead_letter_topic=topic)
        with override_settings(AFORO_PLACES=told):
            yield made


async def put(bootstrap: str, topic: str) -> None:
    """Write three letters, the second of which was sent again."""
    now_micros = time.time_ns() // 1000
    letters = [
        usage_pb2.DeadLetter(
            reason="no tenant", stage="consume", payload=EVENT.SerializeToString()
        ),
        usage_pb2.DeadLetter(reason="not an entry", stage="ship", payload=SCRIPT),
        usage_pb2.DeadLetter(reason="not JSON", stage="ingest", payload=b"\xff\x00\x1b[2J"),
        usage_pb2.DeadLetter(reason="sent again", stage="retried", partition=0, offset=1),
    ]
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for number, letter in enumerate(letters):
            letter.failed_at_micros = now_micros + number
            await producer.send_and_wait(topic, letter.SerializeToString(), partition=0)
    finally:
        await producer.stop()


def test_letters_are_listed_the_newest_first_with_why_and_where(world: World) -> None:
    said = world.part("letters/")

    assert said.index("not JSON") < said.index("not an entry") < said.index("no tenant")
    assert "ship not an entry 25 20" in said  # Sent again: in a year of this century.
    assert "no tenant" not in world.part("letters/", stage="ship")
    assert "No dead letter is like that" in world.part("letters/", reason="nothing like it")


def test_a_letters_content_is_shown_and_obeyed_by_nobody(world: World) -> None:
    script, binary = world.get("letters/0:1/"), world.get("letters/0:2/")

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in script
    assert SCRIPT.decode() not in script
    assert "ff00 1b5b324a" in binary
    assert "\x1b" not in binary


def test_a_letter_that_holds_an_event_is_read_as_one(world: World) -> None:
    said = world.part("letters/0:0/")

    assert '"event_id": "e-7"' in said
    assert "aforo-meter dlq retry 0:0" in said


def test_a_place_without_a_letter_is_told(world: World) -> None:
    assert "there is no dead letter at 0:99" in world.part("letters/0:99/")
    assert world.client.get("/admin/letters/nowhere/").status_code == 404
