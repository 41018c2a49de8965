"""How many events ingest takes a second: batches of 1,000 over HTTP → acknowledged by the broker.

One process of ours, a client with some connections, and the broker share the machine.
"""

import asyncio
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import aiohttp
import psutil
import redis

from aforo_meter import topics
from aforo_proto import metering_pb2, policy_pb2
from lab.ports import free_port
from lab.servers import KafkaServer, Program, RedisServer, ask_tcp, python_module

KEY = "bench-ingest-key"
EVENTS = 1000
TENANTS = 50
CONNECTIONS = 4
WARM_UP_S = 2.0
MEASURED_S = 8.0


def run(measured_s: float = MEASURED_S) -> dict[str, Any]:
    """Measure, and return `ingest_eps` with what belongs to it."""
    with KafkaServer() as kafka, RedisServer() as read_model:
        fill(read_model.url)
        asyncio.run(_create(kafka.bootstrap))
        port = free_port()
        with ingest_program(port, kafka, read_model) as program:
            events, seconds, cpu_s = asyncio.run(_measure(port, program, measured_s))
            rss_mb = psutil.Process(program.pid).memory_info().rss / 2**20
    return {
        "ingest_eps": round(events / seconds),
        "ingest_cpu_us": round(1e6 * cpu_s / events, 1),
        "ingest_rss_mb": round(rss_mb, 1),
    }


def fill(url: str) -> None:
    """Write what sync would: a key, tenants, and that it is complete."""
    key = metering_pb2.IngestKey(key_id="bench", scopes=[metering_pb2.INGEST_SCOPE_USAGE_INGEST])
    with redis.Redis.from_url(url) as client:
        name = hashlib.sha256(KEY.encode()).hexdigest()
        client.set(f"aforo:v1:ingest:{name}", key.SerializeToString())
        for tenant in tenants():
            policy = policy_pb2.Policy(tenant_id=tenant, subscription_id="sub-1")
            client.set(f"aforo:v1:{{{tenant}}}:policy", policy.SerializeToString())
        client.set("aforo:v1:sync", policy_pb2.SyncState().SerializeToString())


def tenants() -> list[str]:
    return [f"tenant-{number}" for number in range(TENANTS)]


def ingest_program(port: int, kafka: KafkaServer, read_model: RedisServer) -> Program:
    return python_module(
        "ingest",
        "aforo_meter",
        "ingest",
        env={
            "AFORO_METER_INGEST_LISTEN": f"127.0.0.1:{port}",
            "AFORO_METER_INGEST_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "AFORO_METER_INGEST_KAFKA_IDEMPOTENCE": "false",  # The lab's broker has none.
            "AFORO_METER_INGEST_REDIS_URL": read_model.url,
        },
        ready=lambda: b" 200 " in ask_tcp(port, b"GET /readyz HTTP/1.0\r\n\r\n", bytes_max=64),
    )


async def _create(bootstrap: str) -> None:
    async for _ in topics.create(bootstrap, ["aforo.usage.v1"], partitions=8, replication=1):
        pass


async def _measure(port: int, program: Program, measured_s: float) -> tuple[int, float, float]:
    """Return events taken, in how many seconds, for how much CPU of ours."""
    process = psutil.Process(program.pid)
    url = f"http://127.0.0.1:{port}/v1/ingest/batch"
    numbers = itertools.count()
    async with aiohttp.ClientSession(headers={"X-API-Key": KEY}) as client:
        await _load(client, url, numbers, WARM_UP_S)
        before, started_s = process.cpu_times(), time.perf_counter()
        events = await _load(client, url, numbers, measured_s)
        seconds, after = time.perf_counter() - started_s, process.cpu_times()
    return events, seconds, after.user + after.system - before.user - before.system


async def _load(
    client: aiohttp.ClientSession, url: str, numbers: Iterator[int], seconds: float
) -> int:
    end_s = time.perf_counter() + seconds
    template = _template()
    taken = 0

    async def connection() -> None:
        nonlocal taken
        while time.perf_counter() < end_s:
            # The text of a batch with other keys each time: the client's work is not what counts.
            body = template.replace(b"@@", b"%d" % next(numbers))
            headers = {"content-type": "application/json"}
            async with client.post(url, data=body, headers=headers) as answer:
                told = await answer.json()
                assert answer.status == 202, told
                assert told["data"]["accepted"] == EVENTS, told
                taken += EVENTS

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return taken


def _template() -> bytes:
    """Return a batch as the SDK for agents sends it, with a mark in each key."""
    run_id = uuid.uuid4().hex
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    names = tenants()
    events = [
        {
            "customerId": names[number % TENANTS],
            "metricName": "ai_agent.capability_invocations",
            "quantity": 1,
            "occurredAt": now,
            "idempotencyKey": f"agent:{run_id}:@@:{number}",
            "productType": "AI_AGENT",
            "agentId": f"agent-{number % 7}",
            "sessionId": f"session-{number % 31}",
            "executionDurationMs": 42,
            "executionStatus": "SUCCESS",
            "metadata": {
                "sdkLanguage": "python",
                "sdkVersion": "0.3.2",
                "productId": "prod-1",
                "inputTokens": 1200,
                "outputTokens": 340,
                "totalTokens": 1540,
                "model": "gpt-4o",
                "capability_name": "search",
            },
        }
        for number in range(EVENTS)
    ]
    return json.dumps({"events": events}).encode()


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
