"""A tenant's November in a real ledger and a real Redis: what people then ask about."""

from dataclasses import replace

import redis

from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.prices import NEGOTIATED_SOURCE, OWN_SOURCE, PriceEntry
from aforo_meter.domain.rating import Rated, ToldAgain
from aforo_meter.domain.usage import API_CALLS, LLM_INPUT, LLM_OUTPUT, Outcome
from aforo_meter.ledger_sql import SqlLedger
from aforo_proto import contract_pb2, margin_pb2, policy_pb2
from tests.contract.consume_lab import Catalog
from tests.contract.ledger_lab import DOLLAR, NOW, START, batch, price, used, watch, watched

SECOND = 1_000_000
FLOORS = Thresholds(hysteresis_bp=200, source="tenant:acme, plan:pro")
PRICES = (
    replace(
        price("genai:openai/gpt-4o", nanos=5 * DOLLAR // 2, meter=LLM_INPUT),
        per_units=1_000_000,
        source="genai-prices 0.2.3",
    ),
    replace(
        price("negotiated:acme/openai/gpt-4o", nanos=8 * DOLLAR, meter=LLM_OUTPUT),
        per_units=1_000_000,
        source=NEGOTIATED_SOURCE,
        effective_from_micros=START,
    ),
    replace(price("catalog/*/*/api.calls", nanos=50_000, meter=API_CALLS), source=OWN_SOURCE),
)
LARGE = replace(
    price("genai:openai/gpt-4o/large", nanos=5 * DOLLAR, meter=LLM_INPUT),
    per_units=1_000_000,
    tier_input_tokens_from=128_000,
    source="genai-prices 0.2.3",
)


async def fill(ledger: SqlLedger) -> None:
    """Write acme's first hundred hours: 9.25 dollars of a fee of 10, and usage without a price.

    input    1,200,000 at 2.50 a million    3.00
    input      300,000 at 5.00 a million    1.50
    output     500,000 at 8.00 a million    4.00, of which 100,000 are estimated
    calls       15,000 at 0.00005 each      0.75
                                            9.25
    """
    early, late = START + 10 * HOUR_MICROS, NOW - 2 * HOUR_MICROS
    estimated = ToldAgain(decision_id="d" * 32, interim=False, estimated=True)
    events = [
        _used("e1", 1_200_000, LLM_INPUT, early),
        _used("e2", 300_000, LLM_INPUT, late, prices=(LARGE,)),
        _used("e3", 400_000, LLM_OUTPUT, early),
        _used("e4", 100_000, LLM_OUTPUT, late, call=estimated),
        used("e5", 15_000, prices=PRICES, at_micros=early),
        used("e6", 40, prices=(), meter="gpu.ms", at_micros=late),
        *(used(f"b{n}", 0, at_micros=late, outcome=Outcome.BLOCK) for n in range(3)),
    ]
    watches = watched(replace(watch(), thresholds=FLOORS))
    await ledger.apply(batch(events, watches=watches))


def _used(
    event_id: str,
    units: int,
    meter: str,
    at_micros: int,
    *,
    prices: tuple[PriceEntry, ...] = PRICES,
    call: ToldAgain | None = None,
) -> Rated:
    return used(
        event_id,
        units,
        prices=prices,
        meter=meter,
        at_micros=at_micros,
        provider="openai",
        model="gpt-4o",
        call=call,
        from_gateway=call is not None,
    )


def publish(client: redis.Redis, *, override: bool = True, fee_nanos: int = 10 * DOLLAR) -> Catalog:
    """Write what sync and consume would have written, at fixed times."""
    catalog = Catalog(client)
    catalog.contract("acme", fee_nanos=fee_nanos)
    catalog.contracts["acme"].thresholds.CopyFrom(
        contract_pb2.Thresholds(
            warn_below_bp=FLOORS.warn_below_bp,
            throttle_below_bp=FLOORS.throttle_below_bp,
            block_below_bp=FLOORS.block_below_bp,
            hysteresis_bp=FLOORS.hysteresis_bp,
            source=FLOORS.source,
        )
    )
    policy = policy_pb2.Policy(tenant_id="acme", subscription_id="sub-1", plan_id="pro")
    if override:
        policy.margin_override.CopyFrom(
            policy_pb2.MarginOverride(
                level_max=margin_pb2.LEVEL_WARN,
                until_micros=NOW + 38 * HOUR_MICROS,
                reason="they have paid for more",
                author="kim",
            )
        )
    catalog.policies["acme"] = policy
    catalog.sync()
    state = policy_pb2.SyncState(catalog_version="v1", completed_at_micros=NOW - 14 * SECOND)
    client.set("aforo:v1:sync", state.SerializeToString())
    margin = margin_pb2.Margin(
        tenant_id="acme",
        level=margin_pb2.LEVEL_THROTTLE,
        as_of_micros=NOW - 60 * SECOND,
        partition=3,
    )
    client.set("aforo:v1:{acme}:margin", margin.SerializeToString())
    beat = margin_pb2.ConsumeState(as_of_micros=NOW - SECOND)
    client.set("aforo:v1:consumed:3", beat.SerializeToString())
    return catalog
