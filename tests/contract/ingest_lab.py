"""An ingest process between clients of its own, Redis, Kafka, and a consumer with its ledger."""

import asyncio
import hashlib
import io
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from aforo_proto import metering_pb2, policy_pb2
from lab.patience import PATIENT_INGEST
from lab.ports import free_port
from lab.servers import HANG_S, Program, ask_tcp, eventually, python_module
from tests.contract.consume_lab import ConsumeLab, ask_all, consume_lab

INSTALLATION = "inst-1"
INGEST = metering_pb2.INGEST_SCOPE_USAGE_INGEST
QUOTAS = metering_pb2.INGEST_SCOPE_QUOTAS_READ
CORRECT = metering_pb2.INGEST_SCOPE_USAGE_CORRECT
READY = b"GET /readyz HTTP/1.0\r\n\r\n"
UNIT = 1_000_000


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - of the server
        return json.loads(self.body)

    @property
    def data(self) -> dict[str, Any]:
        told = self.json
        assert told["success"] is True, told
        assert "meta" in told
        data: dict[str, Any] = told["data"]
        return data

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return accepted, duplicates, failed."""
        data = self.data
        assert self.status == 202
        assert len(data["errors"]) == data["failed"]
        return data["accepted"], data["duplicates"], data["failed"]

    @property
    def problem(self) -> str:
        """Return the detail of an error; every error has this form."""
        assert self.headers["content-type"] == "application/problem+json", self
        told = self.json
        assert told["status"] == self.status
        detail: str = told["detail"]
        return detail


@dataclass(kw_only=True)
class IngestLab:
    consume: ConsumeLab
    program: Program
    port: int
    metrics_port: int
    client: aiohttp.ClientSession
    key: str = "the-key-of-the-lab"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def allow(
        self,
        secret: str,
        *,
        scopes: Sequence[metering_pb2.IngestScope.ValueType] = (INGEST, QUOTAS),
        **fields: Any,  # noqa: ANN401 - of IngestKey
    ) -> None:
        """Write a key as sync would."""
        key = metering_pb2.IngestKey(
            **({"key_id": f"id-{secret}", "installation": INSTALLATION} | fields), scopes=scopes
        )
        self.consume.redis.set(key_name(secret), key.SerializeToString())

    def tenant(self, name: str, **fields: Any) -> str:  # noqa: ANN401 - of Policy
        """Add a tenant as sync would, and return its name."""
        self.consume.catalog.contract(name)
        self.consume.catalog.policies[name] = policy_pb2.Policy(
            **({"tenant_id": name, "subscription_id": "sub-1", "plan_id": "pro"} | fields)
        )
        self.consume.catalog.sync()
        return name

    async def post(
        self,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        data: Any = None,  # noqa: ANN401 - what aiohttp takes
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"X-API-Key": self.key if key is None else key, "Content-Type": "application/json"}
        sent |= headers or {}
        if data is None:
            data = json.dumps(body).encode()
        if isinstance(data, bytes):
            data = io.BytesIO(data)  # aiohttp wants large ones so.
        given = {name: value for name, value in sent.items() if value}
        async with self.client.post(self.url + path, data=data, headers=given) as answer:
            lower = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, lower, await answer.read())

    async def batch(self, *events: Mapping[str, Any], key: str | None = None) -> Answer:
        return await self.post("/v1/ingest/batch", {"events": list(events)}, key=key)

    def meters(self, tenant: str) -> dict[str, int]:
        """Return what the ledger has of a tenant, in whole units by meter."""
        found: Counter[str] = Counter()
        query = "SELECT meter, quantity_micros FROM charge WHERE tenant_id = ?"
        for meter, micros in self.consume.ledger.rows(query, tenant):
            assert micros % UNIT == 0
            found[meter] += micros // UNIT
        return dict(found)

    async def meters_are(
        self, tenant: str, expected: Mapping[str, int], *, within_s: float = HANG_S
    ) -> None:
        """Wait until the ledger has this; what it has more of would show by then or soon."""
        try:
            await eventually(lambda: self.meters(tenant) == expected, within_s=within_s)
        except TimeoutError:
            tail = self.program.log_tail()
            raise AssertionError(f"{tenant}: {self.meters(tenant)} != {expected}\n{tail}") from None

    async def metric(self, name: str) -> float:
        text = await asyncio.to_thread(
            lambda: ask_all(self.metrics_port, b"GET /metrics HTTP/1.1\r\n\r\n")
        )
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        )


def key_name(secret: str) -> str:
    return f"aforo:v1:ingest:{hashlib.sha256(secret.encode()).hexdigest()}"


def event(tenant: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - of an event
    """Return a sound event with a key of its own. A field that is None is left out."""
    whole = {
        "customerId": tenant,
        "metricName": "api_calls",
        "quantity": 1,
        "occurredAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "idempotencyKey": uuid.uuid4().hex,
    } | fields
    return {name: value for name, value in whole.items() if value is not None}


def ingest_program(
    lab: ConsumeLab, port: int, metrics_port: int, *, name: str = "ingest", **env: str
) -> Program:
    return python_module(
        name,
        "aforo_meter",
        "ingest",
        env={
            "AFORO_METER_INGEST_LISTEN": f"127.0.0.1:{port}",
            "AFORO_METER_INGEST_KAFKA_BOOTSTRAP": lab.bootstrap,
            "AFORO_METER_INGEST_KAFKA_TOPIC": lab.topic,
            "AFORO_METER_INGEST_KAFKA_IDEMPOTENCE": "false",
            "AFORO_METER_INGEST_REDIS_URL": lab.redis_server.url,
            "AFORO_METER_INGEST_LEDGER_URL": lab.ledger.url,
            "AFORO_METER_INGEST_METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
            **PATIENT_INGEST,
            **{f"AFORO_METER_INGEST_{key.upper()}": value for key, value in env.items()},
        },
        ready=lambda: b" 200 " in ask_tcp(port, READY, bytes_max=64),
        log_dir=lab.home,
    )


@asynccontextmanager
async def ingest_lab(
    bootstrap: str, home: Path, *, consuming: bool = True, **env: str
) -> AsyncIterator[IngestLab]:
    """Start everything, and end it all afterwards."""
    async with consume_lab(bootstrap, home) as consume, aiohttp.ClientSession() as client:
        port, metrics_port = free_port(), free_port()
        lab = IngestLab(
            consume=consume,
            program=ingest_program(consume, port, metrics_port, **env),
            port=port,
            metrics_port=metrics_port,
            client=client,
        )
        lab.allow(lab.key)
        lab.tenant("warm-up")
        try:
            await asyncio.to_thread(lab.program.start)
            if consuming:
                await consume.start()
            yield lab
        finally:
            await asyncio.to_thread(lab.program.stop)
