"""What is known of a round of kills from outside: disk, Kafka, ledger, and the table of losses.

How many entries reached a receiver is not taken from the receiver's word. A ship numbers what it
reads by its place in its spool, and the numbers go on over restarts; they are read from its files
while it is dead. Its own counter, asked right before each kill, must not say more.
"""

import hashlib
import json
import re
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from aforo_meter.records import Record
from aforo_meter.segments import Segment, whole
from aforo_proto.usage_pb2 import UsageEvent
from lab.servers import ask_tcp
from lab.stack import PARTITIONS, Stack, run_aforo

USAGE, DEAD_LETTERS = "aforo.usage.v1", "aforo.usage.dlq.v1"
IDLE_MS = 1000
METRICS = b"GET /metrics HTTP/1.0\r\n\r\n"


class Identity(NamedTuple):
    """An event, whose it is, and when it occurred if a gateway says so: what the ledger goes by."""

    tenant_id: str
    event_id: str
    second: int | None

    @classmethod
    def of(cls, event: UsageEvent) -> Self:
        from_gateway = event.source.startswith("envoy:")
        second = event.occurred_at_micros // 1_000_000 if from_gateway else None
        return cls(event.tenant_id, event.event_id, second)


def identity(value: bytes) -> Identity:
    return Identity.of(UsageEvent.FromString(value))


@dataclass(kw_only=True)
class ShipWitness:
    """What one ship had read, over all its lives."""

    spool: Path
    metrics_port: int
    read: int = 0  # By the numbers on disk.
    said: int = 0  # By its own counter; what it read after it was asked is not in it.
    found: set[Identity] = field(default_factory=set)  # On its disk while it was dead.
    problems: list[str] = field(default_factory=list)
    _began: int = 0  # The number of the next record when this life began.
    _now_said: int = 0

    def ask(self) -> None:
        """Ask the running process how many entries it has read."""
        self._now_said = sum(
            int(value)
            for value in self._metric(r'aforo_ship_entries_total\{as="[a-z_]+"\} (\d+)\.0')
        )

    def look(self) -> None:
        """Count what is on the disk of a process that is dead, or has nothing to do."""
        end, records = on_disk(self.spool)
        # A process that read nothing may have let go of its last file before it noted how far
        # Kafka was: then numbers begin again where its checkpoint says.
        grown = max(0, end - self._began)
        if self._now_said > grown:
            self.problems.append(f"{self.spool.name}: read {self._now_said}, on disk {grown}")
        self.read += grown
        self.said += self._now_said
        self.found.update(identity(one.value) for one in records if one.topic == USAGE)
        self._began, self._now_said = end, 0

    def held(self) -> int | None:
        """Return how many records wait; None if it does not answer."""
        values = self._metric(r"aforo_ship_buffer_records (\d+)\.0")
        return int(values[0]) if values else None

    def _metric(self, pattern: str) -> list[str]:
        page = ask_tcp(self.metrics_port, METRICS, bytes_max=1 << 20).decode()
        return re.findall(f"(?m)^{pattern}$", page)


def on_disk(spool: Path) -> tuple[int, list[Record]]:
    """Return the number that the next record would get, and the records that are there."""
    records: list[Record] = []
    end = 0
    checkpoint = spool / "checkpoint"
    if checkpoint.exists():
        end = int(checkpoint.read_text().split()[0])
    for path in sorted(spool.glob("*.spool")):
        segment = Segment(path, int(path.stem), path.stat().st_size)
        offset, count = 0, 0
        while piece := whole(segment, offset):
            records += [record for record, _ in piece]
            count += len(piece)
            offset = piece[-1][1]
        end = max(end, segment.first + count)
    return end, records


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaContent:
    """All that is in the topics."""

    ends: dict[int, int]  # The usage topic's, by partition, of those that hold something.
    events: Counter[Identity]  # How often each is there: retries repeat.
    paths: dict[str, set[str]]  # Which paths, by tenant.
    dead_letters: int


async def read_kafka(bootstrap: str) -> KafkaContent:
    """Read both topics until nothing comes: of their ends the lab's broker says other than it has.

    Whoever wants to be sure compares with the ledger's positions, or looks twice.
    """
    events: Counter[Identity] = Counter()
    paths: dict[str, set[str]] = {}
    ends: dict[int, int] = {}
    dead_letters = 0
    places = [
        TopicPartition(topic, number)
        for topic in (USAGE, DEAD_LETTERS)
        for number in range(PARTITIONS)
    ]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign(places)
        while batches := await consumer.getmany(timeout_ms=IDLE_MS):
            for place, records in batches.items():
                if place.topic == DEAD_LETTERS:
                    dead_letters += len(records)
                    continue
                ends[place.partition] = records[-1].offset + 1
                for record in records:
                    event = UsageEvent.FromString(record.value)
                    events[Identity.of(event)] += 1
                    paths.setdefault(event.tenant_id, set()).add(event.dimensions.path)
    finally:
        await consumer.stop()
    return KafkaContent(ends=ends, events=events, paths=paths, dead_letters=dead_letters)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerContent:
    calls: dict[str, int]
    seen: frozenset[bytes]  # Keys of events: see `key_of`.
    positions: dict[int, int]


def key_of(identity: Identity) -> bytes:
    """Return by what the ledger knows an event again."""
    text = f"{identity.tenant_id}\0{identity.event_id}"
    time = b"" if identity.second is None else identity.second.to_bytes(4, "big")
    return time + hashlib.blake2b(text.encode(), digest_size=16 - len(time)).digest()


def read_ledger(path: Path) -> LedgerContent:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        calls = connection.execute(
            "SELECT tenant_id, SUM(quantity_micros) FROM charge WHERE meter = 'api.calls'"
            " GROUP BY tenant_id"
        ).fetchall()
        seen = connection.execute("SELECT event_key FROM seen_event").fetchall()
        positions = connection.execute(
            "SELECT partition, next_offset FROM position WHERE topic = ?", (USAGE,)
        ).fetchall()
    return LedgerContent(
        calls={tenant_id: micros // 1_000_000 for tenant_id, micros in calls},
        seen=frozenset(key for (key,) in seen),
        positions=dict(positions),
    )


def read_envoy(admin_port: int) -> tuple[int, int]:
    """Return how many entries Envoy says that it wrote to a receiver, and that it dropped.

    Written to one that is away counts as written: it is no more than a bound for what was read.
    """
    request = b"GET /stats?filter=grpc_access_log HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    page = ask_tcp(admin_port, request, bytes_max=1 << 20).decode()
    counts = {name: int(value) for name, value in re.findall(r"(logs_\w+): (\d+)", page)}
    return counts.get("logs_written", 0), counts.get("logs_dropped", 0)


class Told(NamedTuple):
    """What the completeness table says of a tenant."""

    decided: int
    missing: int


def read_completeness(stack: Stack) -> dict[str, Told]:
    text = run_aforo(
        *("aforo_meter", "completeness", "--ledger-url", stack.ledger_url, "--open", "--json")
    )
    found: dict[str, Told] = {}
    for row in json.loads(text)["hours"]:
        before = found.get(row["tenant_id"], Told(0, 0))
        found[row["tenant_id"]] = Told(
            before.decided + row["decided"], before.missing + row["missing"]
        )
    return found
