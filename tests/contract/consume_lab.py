"""A consume process with a topic of its own, a stand-in for sync, and what came of it."""

import asyncio
import itertools
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from aforo_meter import topics
from aforo_proto import contract_pb2, margin_pb2, policy_pb2, usage_pb2
from aforo_proto.contract_pb2 import Contract, PriceEntry, PriceList
from lab.ports import free_port
from lab.servers import HANG_S, Program, RedisServer, ask_tcp, eventually, python_module
from tests.alert_schemas import check
from tests.contract.ledgers import AuditedLedger, LedgerFile

DOLLAR = 1_000_000_000
SECOND_MICROS = 1_000_000
READY = b"GET /readyz HTTP/1.1\r\n\r\n"
# Tansu waits 3 s before it assigns partitions; a killed member is missed for its session.
SESSION_MS = 1500

_numbers = itertools.count(1)


def now_micros() -> int:
    return time.time_ns() // 1000


@dataclass
class Catalog:
    """What sync would write, at its simplest: everything, each time."""

    redis: redis.Redis
    contracts: dict[str, Contract] = field(default_factory=dict)
    policies: dict[str, policy_pb2.Policy] = field(default_factory=dict)
    prices: list[PriceEntry] = field(default_factory=list)
    version: int = 0

    def sync(self) -> None:
        self.version += 1
        book = contract_pb2.PriceBook(
            version=f"b{self.version}", currency="USD", own=[PriceList(entries=self.prices)]
        )
        self.redis.set("aforo:v1:pricebook", book.SerializeToString())
        for tenant, contract in self.contracts.items():
            contract.catalog_version = f"v{self.version}"
            self.redis.set(f"aforo:v1:{{{tenant}}}:contract", contract.SerializeToString())
        for tenant, policy in self.policies.items():
            self.redis.set(f"aforo:v1:{{{tenant}}}:policy", policy.SerializeToString())
        state = policy_pb2.SyncState(catalog_version=f"v{self.version}")
        self.redis.set("aforo:v1:sync", state.SerializeToString())

    def contract(
        self,
        tenant: str,
        *,
        fee_nanos: int = 10 * DOLLAR,
        subscription: str = "sub-1",
        anchor_micros: int = 1_767_225_600 * SECOND_MICROS,  # 2026-01-01
    ) -> None:
        self.contracts[tenant] = Contract(
            tenant_id=tenant,
            subscription_id=subscription,
            plan_id="pro",
            currency="USD",
            committed_fee_nanos=fee_nanos,
            cadence=contract_pb2.CADENCE_MONTH,
            anchor_micros=anchor_micros,
            thresholds=contract_pb2.Thresholds(
                warn_below_bp=2000, throttle_below_bp=1000, hysteresis_bp=100, source="default"
            ),
        )

    def price(self, meter: str, nanos: int, *, price_id: str = "") -> None:
        """Say what a unit costs."""
        self.prices.append(
            PriceEntry(
                price_id=price_id or f"{meter}@{nanos}",
                meter=meter,
                price_nanos=nanos,
                per_units=1,
                source="catalog",
            )
        )


@dataclass(kw_only=True)
class ConsumeLab:
    """One installation: topics, Redis, ledger, and a process that is not started yet."""

    bootstrap: str
    topic: str
    dead_letter_topic: str
    redis_server: RedisServer
    redis: redis.Redis
    catalog: Catalog
    ledger: AuditedLedger
    program: Program
    metrics_port: int
    producer: Any
    home: Path
    sent: list[usage_pb2.UsageEvent] = field(default_factory=list)

    async def start(self) -> None:
        await asyncio.to_thread(self.program.start)

    def another(self, name: str, **env: str) -> Program:
        """Return a further member of the same group."""
        return consume_program(self, name, **env)

    async def send(
        self,
        tenant: str,
        units: int = 1,
        *,
        meter: str = "api.calls",
        **fields: Any,  # noqa: ANN401 - of UsageEvent
    ) -> usage_pb2.UsageEvent:
        """Send one event and wait until Kafka has it."""
        event = usage_event(tenant, units, meter=meter, **fields)
        await self.send_again(event)
        return event

    async def send_many(self, events: Iterable[usage_pb2.UsageEvent]) -> None:
        sends = [await self._send(event) for event in events]
        await asyncio.gather(*sends)

    async def send_again(self, event: usage_pb2.UsageEvent) -> None:
        await (await self._send(event))

    async def send_raw(self, value: bytes | None, *, key: bytes = b"acme") -> None:
        await self.producer.send_and_wait(self.topic, value, key=key)

    async def _send(self, event: usage_pb2.UsageEvent) -> Any:  # noqa: ANN401
        self.sent.append(event)
        return await self.producer.send(
            self.topic, event.SerializeToString(), key=event.tenant_id.encode()
        )

    def margin(self, tenant: str) -> margin_pb2.Margin:
        """Return what Redis has, an empty message if nothing."""
        value: Any = self.redis.get(f"aforo:v1:{{{tenant}}}:margin")
        return margin_pb2.Margin.FromString(value or b"")

    async def margin_is(
        self, tenant: str, good: Callable[[margin_pb2.Margin], bool], *, within_s: float = HANG_S
    ) -> margin_pb2.Margin:
        found: list[margin_pb2.Margin] = []

        def look() -> bool:
            found[:] = [self.margin(tenant)]
            return good(found[0])

        try:
            await eventually(look, within_s=within_s, every_s=0.01)
        except TimeoutError:
            raise AssertionError(f"{found[0]}\n{self.program.log_tail()}") from None
        return found[0]

    async def units_are(
        self, tenant: str, expected: dict[str, int], within_s: float = HANG_S
    ) -> None:
        """Wait until the ledger has these units by price id."""
        try:
            await eventually(lambda: self.ledger.units(tenant) == expected, within_s=within_s)
        except TimeoutError:
            found = self.ledger.units(tenant)
            raise AssertionError(f"{found} != {expected}\n{self.program.log_tail()}") from None

    async def knows_the_catalog(self, witness: str = "warm-up") -> None:
        """Sync, and wait until the consumer has read all of it.

        Args:
            witness: A tenant with usage, whose fee is changed for it. Twice: one look reads prices
                before contracts, so the first change may be seen beside older prices.
        """
        contract = self.catalog.contracts[witness]
        for _ in range(2):
            contract.committed_fee_nanos += DOLLAR
            fee_nanos = contract.committed_fee_nanos
            self.catalog.sync()
            await self.margin_is(witness, lambda margin, f=fee_nanos: margin.revenue_nanos == f)  # type: ignore[misc]

    def outbox(self, tenant: str) -> list[dict[str, Any]]:
        """Return a tenant's alerts; each is as docs/alerts.md says."""
        rows = self.ledger.rows(
            "SELECT payload FROM outbox WHERE tenant_id = ? ORDER BY outbox_id", tenant
        )
        messages = [json.loads(payload) for (payload,) in rows]
        for message in messages:
            check(message)
        return messages

    def alerts(self, tenant: str, kind: str) -> list[dict[str, Any]]:
        """Return what a tenant's alerts of one kind say."""
        return [message["data"] for message in self.outbox(tenant) if message["type"] == kind]

    def log_lines(self, event: str, program: Program | None = None) -> list[dict[str, Any]]:
        lines = (program or self.program).log_lines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if event in line["event"]]

    async def dead_letters(self, count: int) -> list[usage_pb2.DeadLetter]:
        """Return the dead letters once there are so many."""
        consumer = AIOKafkaConsumer(
            self.dead_letter_topic,
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            found: list[usage_pb2.DeadLetter] = []
            async with asyncio.timeout(HANG_S):
                while len(found) < count:
                    record = await consumer.getone()
                    found.append(usage_pb2.DeadLetter.FromString(record.value))
            # They have no key, so they lie in any partition.
            return sorted(found, key=lambda letter: (letter.partition, letter.offset))
        finally:
            await consumer.stop()

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        return sum(await self.samples(name))

    async def metric_is(self, name: str, value: float) -> None:
        """Wait until the sum of a metric's samples is this: it follows what it counts."""
        async with asyncio.timeout(HANG_S):
            while await self.metric(name) != value:  # noqa: ASYNC110 - of another process.
                await asyncio.sleep(0.05)

    async def samples_are(self, name: str, count: int) -> None:
        """Wait until a metric has so many samples."""
        async with asyncio.timeout(HANG_S):
            while len(await self.samples(name)) != count:  # noqa: ASYNC110 - of another process.
                await asyncio.sleep(0.1)

    async def samples(self, name: str) -> list[float]:
        text = await asyncio.to_thread(
            lambda: ask_all(self.metrics_port, b"GET /metrics HTTP/1.1\r\n\r\n")
        )
        return [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        ]

    def stop(self) -> None:
        self.program.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)


def usage_event(
    tenant: str,
    units: int = 1,
    *,
    meter: str = "api.calls",
    **fields: Any,  # noqa: ANN401 - of UsageEvent
) -> usage_pb2.UsageEvent:
    defaults: dict[str, Any] = {
        "event_id": str(uuid.uuid4()),
        "source": "envoy:lab",
        "tenant_id": tenant,
        "subscription_id": "sub-1" if tenant else "",
        "features": ["api"],
        "occurred_at_micros": now_micros(),
        "outcome": usage_pb2.OUTCOME_ALLOW,
        "reason": "allowed",
        "measures": [usage_pb2.Measure(meter=meter, units=units)] if units else [],
    }
    return usage_pb2.UsageEvent(**(defaults | fields))


def consume_program(lab: ConsumeLab, name: str, **env: str) -> Program:
    port = lab.metrics_port if name == "consume" else free_port()
    return python_module(
        name,
        "aforo_meter",
        "consume",
        env={
            "AFORO_METER_CONSUME_KAFKA_BOOTSTRAP": lab.bootstrap,
            "AFORO_METER_CONSUME_KAFKA_TOPIC": lab.topic,
            "AFORO_METER_CONSUME_DEAD_LETTER_TOPIC": lab.dead_letter_topic,
            "AFORO_METER_CONSUME_GROUP": f"group-of-{lab.topic}",
            "AFORO_METER_CONSUME_REDIS_URL": lab.redis_server.url,
            "AFORO_METER_CONSUME_LEDGER_URL": lab.ledger.url,
            "AFORO_METER_CONSUME_SESSION_TIMEOUT_MS": str(SESSION_MS),
            "AFORO_METER_CONSUME_METRICS_LISTEN": f"127.0.0.1:{port}",
            **{f"AFORO_METER_CONSUME_{key.upper()}": value for key, value in env.items()},
        },
        ready=lambda: is_ready(port),
        log_dir=lab.home,
    )


@asynccontextmanager
async def consume_lab(
    bootstrap: str,
    home: Path,
    *,
    partitions: int = 2,
    ledger: AuditedLedger | None = None,
    **env: str,
) -> AsyncIterator[ConsumeLab]:
    """Make everything but the running process, and end it all afterwards."""
    number = next(_numbers)
    names = [f"usage-{number}-{uuid.uuid4().hex[:6]}", f"dlq-{number}-{uuid.uuid4().hex[:6]}"]
    async for _ in topics.create(bootstrap, names, partitions=partitions, replication=1):
        pass
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    with RedisServer(log_dir=home) as server, redis.Redis.from_url(server.url) as client:
        lab = ConsumeLab(
            bootstrap=bootstrap,
            topic=names[0],
            dead_letter_topic=names[1],
            redis_server=server,
            redis=client,
            catalog=Catalog(client),
            ledger=LedgerFile.create(home / "ledger.db") if ledger is None else ledger,
            program=Program("none", []),
            metrics_port=free_port(),
            producer=producer,
            home=home,
        )
        lab.program = consume_program(lab, "consume", **env)
        try:
            yield lab
        finally:
            await asyncio.to_thread(lab.stop)
            await producer.stop()


def ask_all(port: int, request: bytes) -> str:
    """Return the whole answer of a server that closes after it."""
    with socket.create_connection(("127.0.0.1", port), HANG_S) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def is_ready(port: int) -> bool:
    return b" 200 " in ask_tcp(port, READY, bytes_max=64)
