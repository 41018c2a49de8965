"""Revenue under a running consumer: overage, time, currencies, and a price that can't be read."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aforo_meter.domain.periods import Cadence, billing_period
from aforo_proto import contract_pb2, margin_pb2
from aforo_proto.contract_pb2 import RateComponent, UnitPrice
from lab.servers import KafkaServer, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import (
    DOLLAR,
    SECOND_MICROS,
    ConsumeLab,
    consume_lab,
    now_micros,
)

DAY_S = 86_400
pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ConsumeLab]:
    home = tmp_path_factory.mktemp("revenue")
    async with consume_lab(kafka_server.bootstrap, home, accrue_every_s="1") as made:
        made.catalog.price("api.calls", DOLLAR)
        made.catalog.contract("warm-up")
        made.catalog.sync()
        await made.start()
        await made.send("warm-up")
        await made.margin_is("warm-up", lambda margin: margin.cogs_nanos > 0)
        yield made


def contracted(
    lab: ConsumeLab,
    tenant: str,
    *,
    fee: int,
    per_call: int = 0,
    included: int = 0,
    **phase: object,
) -> contract_pb2.Contract:
    """Return a contract with one phase, whose amounts are dollars."""
    lab.catalog.contract(tenant, fee_nanos=fee * DOLLAR)
    contract = lab.catalog.contracts[tenant]
    calls = RateComponent(
        component_id="calls",
        meter="api.calls",
        per_unit=UnitPrice(price_nanos=per_call * DOLLAR, per_units=1),
        included_units=included,
    )
    cards = [contract_pb2.RateCard(components=[calls])] if per_call else []
    contract.phases.add(
        source="plan:pro",
        currency=contract.currency,
        committed_fee_nanos=fee * DOLLAR,
        rate_cards=cards,
        **phase,
    )
    return contract


async def test_overage_raises_revenue_and_frees_a_tenant_that_the_fee_alone_would_not(
    lab: ConsumeLab,
) -> None:
    contracted(lab, "over", fee=10, per_call=3, included=10)
    lab.catalog.sync()
    await lab.send("over", 10)
    await lab.margin_is("over", lambda margin: margin.level == margin_pb2.LEVEL_THROTTLE)

    await lab.send("over", 10)
    margin = await lab.margin_is("over", lambda margin: margin.level == margin_pb2.LEVEL_NONE)

    assert (margin.revenue_nanos, margin.cogs_nanos) == (40 * DOLLAR, 20 * DOLLAR)
    assert [m["data"]["direction"] for m in lab.outbox("over")] == ["worse", "better"]


async def test_an_accruing_fee_frees_with_time_alone(lab: ConsumeLab) -> None:
    fee = 2_678_400  # A dollar a second, or a bit more where the month is not of 31 days.
    contract = contracted(lab, "accrues", fee=fee)
    contract.basis = contract_pb2.REVENUE_BASIS_ACCRUED
    # A day counts at least: of a younger period time alone would change nothing.
    contract.anchor_micros = now_micros() - (DAY_S + 2) * SECOND_MICROS
    contract.thresholds.CopyFrom(contract_pb2.Thresholds(source="default"))  # All floors are 0 %.
    lab.catalog.sync()
    period = billing_period(contract.anchor_micros, Cadence.MONTH, now_micros())
    passed_micros = (DAY_S + 12) * SECOND_MICROS  # What has accrued ten seconds from now.
    cost = fee * passed_micros // (period.end_micros - period.start_micros)
    await lab.send("accrues", cost)
    before = await lab.margin_is("accrues", lambda margin: margin.cogs_nanos > 0)

    after = await lab.margin_is("accrues", lambda margin: margin.level == margin_pb2.LEVEL_NONE)

    assert before.level == margin_pb2.LEVEL_BLOCK
    assert after.cogs_nanos == before.cogs_nanos == cost * DOLLAR
    assert after.revenue_nanos > before.revenue_nanos
    assert after.as_of_micros > before.as_of_micros


async def test_a_contract_in_another_currency_has_its_margin_at_the_periods_rate(
    lab: ConsumeLab,
) -> None:
    contract = contracted(lab, "euros", fee=10, prepaid_nanos=5 * DOLLAR)
    contract.currency = contract.phases[0].currency = "EUR"
    contract.exchange_rates.add(currency="EUR", to_currency="USD", rate_nanos=1_100_000_000)
    lab.catalog.sync()
    await lab.send("euros", 1)

    margin = await lab.margin_is("euros", lambda margin: margin.cogs_nanos == DOLLAR)

    assert (margin.currency, margin.revenue_nanos) == ("USD", 11 * DOLLAR)
    assert (margin.contract_currency, margin.contract_revenue_nanos) == ("EUR", 10 * DOLLAR)
    assert margin.prepaid_left_nanos == 5 * DOLLAR


async def test_without_an_exchange_rate_charges_go_on_and_there_is_no_margin(
    lab: ConsumeLab,
) -> None:
    contract = contracted(lab, "no-rate", fee=10)
    contract.currency = contract.phases[0].currency = "EUR"
    lab.catalog.sync()
    await lab.send("no-rate", 3)

    await lab.units_are("no-rate", {"api.calls@1000000000": 3})
    await eventually(lambda: lab.log_lines("no exchange rate"))
    assert lab.redis.get("aforo:v1:{no-rate}:margin") is None


async def test_usage_is_charged_to_the_subscription_that_covers_its_time(lab: ConsumeLab) -> None:
    changed_micros = now_micros() - 3 * 3600 * SECOND_MICROS
    before = contracted(lab, "changed", fee=300)
    before.ended_at_micros = changed_micros
    lab.catalog.contract("changed", subscription="sub-2", anchor_micros=changed_micros)
    after = lab.catalog.contracts["changed"]
    after.phases.add(
        effective_from_micros=changed_micros, currency="USD", committed_fee_nanos=900 * DOLLAR
    )
    after.former.append(before)
    lab.catalog.sync()

    for units, at_micros, named in [
        (1, changed_micros - 1, ""),
        (2, changed_micros - 7200 * SECOND_MICROS, ""),  # An hour that is the former one's alone.
        (4, changed_micros - 1, "sub-1"),
        (8, changed_micros, "sub-1"),  # Decided before, and late by a moment.
        (16, changed_micros + 7200 * SECOND_MICROS, ""),
    ]:
        await lab.send("changed", units, occurred_at_micros=at_micros, subscription_id=named)
    await lab.margin_is("changed", lambda margin: margin.cogs_nanos == 24 * DOLLAR)
    await lab.units_are("changed", {"api.calls@1000000000": 31})

    cogs: dict[str, int] = {}
    for (tenant, subscription, _), nanos in lab.ledger.kept_cogs().items():
        if tenant == "changed":
            cogs[subscription] = cogs.get(subscription, 0) + nanos
    assert cogs == {"sub-1": 7 * DOLLAR, "sub-2": 24 * DOLLAR}
