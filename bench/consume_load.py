"""What a gateway writes of calls to language models, into Kafka; what rating needs, into Redis."""

import random
import time
import uuid
from collections.abc import Iterator
from typing import Final

import redis
from confluent_kafka import Producer

from aforo_proto import contract_pb2, policy_pb2, usage_pb2

TOPIC: Final = "aforo.usage.v1"
PARTITIONS: Final = 8
TENANTS: Final = 10_000
RATE_PER_S: Final = 20_000  # As which the calls came.
PROBES: Final = 1_000  # Further tenants, of which nothing else is written.
MODELS: Final = (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("openai", "gpt-4.1"))
METERS: Final = (
    *("api.calls", "llm.input_tokens", "llm.cached_input_tokens", "llm.output_tokens"),
    "bytes.response",
)
DOLLAR_NANOS: Final = 1_000_000_000


def tenant_name(number: int) -> str:
    return f"tenant-{number:05d}"


def events(count: int, *, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Return keys and values of calls, each with a tenant drawn from all with equal chances.

    Equal chances are the worst case: no tenant has many events in one batch. They come one after
    the other, up to now, all in this hour.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret.
    now_micros = time.time_ns() // 1000
    hour_s = now_micros // 3_600_000_000 * 3600
    since_micros = max(hour_s * 1_000_000, now_micros - count * 1_000_000 // RATE_PER_S)
    for number in range(count):
        at_micros = since_micros + (now_micros - since_micros) * number // count
        yield event(chance.randrange(TENANTS), chance, at_micros=at_micros, hour_s=hour_s)


def event(
    number: int, chance: random.Random, *, at_micros: int, hour_s: int
) -> tuple[bytes, bytes]:
    tenant_id = tenant_name(number)
    provider, model = MODELS[number % len(MODELS)]
    made = usage_pb2.UsageEvent(
        event_id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        source="envoy:gateway-1",
        tenant_id=tenant_id,
        subscription_id="sub-1",
        features=["chat"],
        occurred_at_micros=at_micros,
        received_at_micros=at_micros,
        decision_id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        decided_hour_s=hour_s,
        outcome=usage_pb2.OUTCOME_ALLOW,
        reason="allowed",
        dimensions=usage_pb2.Dimensions(
            provider=provider,
            model=model,
            route="chat",
            method="POST",
            status=200,
            path="/v1/chat/completions",
            execution_status=usage_pb2.EXECUTION_STATUS_SUCCESS,
        ),
        measures=[
            usage_pb2.Measure(meter=meter, units=units)
            for meter, units in zip(METERS, _units(chance), strict=True)
        ],
    )
    return tenant_id.encode(), made.SerializeToString()


def _units(chance: random.Random) -> tuple[int, ...]:
    return (
        1,
        chance.randrange(200, 3000),
        chance.randrange(1, 1000),
        chance.randrange(20, 900),
        chance.randrange(500, 6000),
    )


def producer(bootstrap: str, *, linger_ms: int) -> Producer:
    """Return one that places events as Kafka's own clients do."""
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": 1_000_000,
        }
    )


def produce(bootstrap: str, some: Iterator[tuple[bytes, bytes]]) -> None:
    """Write events, and wait until the broker has them."""
    own = producer(bootstrap, linger_ms=20)
    for key, value in some:
        own.produce(TOPIC, value, key)
        own.poll(0)
    left = own.flush(120)
    assert left == 0, f"{left} events are not with the broker"


def fill(redis_url: str) -> None:
    """Write what sync would: a contract for each tenant, and a price for each meter."""
    with redis.Redis.from_url(redis_url) as client:
        book = contract_pb2.PriceBook(
            version="b1",
            currency="USD",
            own=[
                contract_pb2.PriceList(
                    entries=[
                        contract_pb2.PriceEntry(
                            price_id=f"{meter}@1",
                            meter=meter,
                            price_nanos=3_000_000,
                            per_units=1_000_000,
                            source="bench",
                        )
                        for meter in METERS
                    ]
                )
            ],
        )
        pipeline = client.pipeline(transaction=False)
        pipeline.set("aforo:v1:pricebook", book.SerializeToString())
        for number in range(TENANTS + PROBES):
            contract = _contract(tenant_name(number))
            pipeline.set(
                f"aforo:v1:{{{contract.tenant_id}}}:contract", contract.SerializeToString()
            )
        state = policy_pb2.SyncState(catalog_version="v1")
        pipeline.set("aforo:v1:sync", state.SerializeToString())
        pipeline.execute()


def _contract(tenant_id: str) -> contract_pb2.Contract:
    return contract_pb2.Contract(
        tenant_id=tenant_id,
        subscription_id="sub-1",
        plan_id="pro",
        currency="USD",
        committed_fee_nanos=1000 * DOLLAR_NANOS,
        cadence=contract_pb2.CADENCE_MONTH,
        anchor_micros=1_767_225_600_000_000,  # 2026-01-01
        thresholds=contract_pb2.Thresholds(
            warn_below_bp=2000, throttle_below_bp=1000, hysteresis_bp=100, source="default"
        ),
        catalog_version="v1",
    )
