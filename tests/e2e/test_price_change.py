"""A provider raises a price in mid-period: from the catalog's file to what a receiver is told."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aforo_proto import margin_pb2, usage_pb2
from lab.servers import KafkaServer, Program, eventually, python_module
from tests.alert_schemas import check
from tests.conftest import KafkaAt
from tests.contract.consume_lab import DOLLAR, ConsumeLab, consume_lab
from tests.contract.outbox_lab import SECRET, ReceiverLab

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

METER = "llm.input_tokens"
# The published price of these tokens is $2.50 a million.
CATALOG = """
version: 1
currency: USD
features: [{id: chat, title: Chat}]
routes: [{path: /v1/chat/completions, features: [chat]}]
plans:
  pro: {title: Pro, committed_fee: 10, features: [chat]}
tenants:
  acme:
    name: Acme
    subscription: {id: sub-1, plan: pro, state: active, started_at: 2026-01-01}
  idle:
    name: Idle
    subscription: {id: sub-2, plan: pro, state: active, started_at: 2026-01-01}
costs:
  - {meter: api.calls, price: 0, per: 1M, from: 2026-01-01}
"""


@dataclass
class World:
    lab: ConsumeLab
    catalog: Path
    signed: ReceiverLab
    slack: ReceiverLab

    def raise_price(self) -> None:
        """Enter a price that is twice as high, from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = f"meter: {METER}, provider: openai, model: gpt-4o, price: 5.00, per: 1M"
        self.catalog.write_text(f"{self.catalog.read_text()}  - {{{entry}, from: {now}}}\n")

    async def use(self, tokens: int) -> None:
        gpt_4o = usage_pb2.Dimensions(provider="openai", model="gpt-4o")
        await self.lab.send("acme", tokens, meter=METER, dimensions=gpt_4o)


def deliver(lab: ConsumeLab, endpoints: Path, slack_url: str) -> Program:
    env = {
        "AFORO_METER_DELIVER_LEDGER_URL": lab.ledger.url,
        "AFORO_METER_DELIVER_ENDPOINTS": str(endpoints),
        "AFORO_METER_DELIVER_ALLOW_PRIVATE_ADDRESSES": "true",
        "FINANCE_SECRET": SECRET,
        "SLACK_URL": slack_url,
    }
    return python_module("deliver", "aforo_meter", "deliver", env=env, log_dir=lab.home)


@pytest.fixture
async def world(kafka_server: KafkaServer | KafkaAt, tmp_path: Path) -> AsyncIterator[World]:
    catalog, endpoints = tmp_path / "catalog.yaml", tmp_path / "endpoints.yaml"
    catalog.write_text(CATALOG)
    async with AsyncExitStack() as stack:
        signed, slack = ReceiverLab(), ReceiverLab(signed=False)
        for receiver in (signed, slack):
            await stack.enter_async_context(receiver.server)
        endpoints.write_text(
            "endpoints:\n"
            f"  - {{id: finance, url: '{signed.url}', secrets: [{{env: FINANCE_SECRET}}]}}\n"
            "  - {id: chat, url: {env: SLACK_URL}, format: slack, kinds: [price.changed]}\n"
        )
        lab = await stack.enter_async_context(consume_lab(kafka_server.bootstrap, tmp_path))
        env = {
            "AFORO_ADMIN_CATALOG": str(catalog),
            "AFORO_ADMIN_REDIS_URL": lab.redis_server.url,
        }
        stack.enter_context(python_module("sync", "aforo_admin", "sync", env=env, log_dir=tmp_path))
        stack.enter_context(deliver(lab, endpoints, slack.url))
        await eventually(lambda: lab.redis.exists("aforo:v1:sync"))
        await lab.start()
        yield World(lab, catalog, signed, slack)


async def test_a_raised_price_costs_from_the_next_event_on_and_is_told_with_its_margins(
    world: World,
) -> None:
    """$10 of revenue. 2.8 M tokens at $2.50 a million: $7.00, 30 %; at $5.00: $14.00, −40 %.

    Another 300,000 at $5.00 are $1.50: $8.50, 15 %, a warning. At $2.50 they would have been none.
    """
    lab = world.lab
    await world.use(2_800_000)
    await lab.margin_is("acme", lambda margin: margin.cogs_nanos == 7 * DOLLAR)

    world.raise_price()
    await eventually(lambda: len(lab.alerts("acme", "price.changed")) == 1)
    await world.use(300_000)
    margin = await lab.margin_is("acme", lambda margin: margin.level == margin_pb2.LEVEL_WARN)
    assert margin.cogs_nanos == 8_500_000_000
    (told,) = lab.alerts("acme", "price.changed")
    assert (told["tenant"], told["provider"], told["model"]) == ("acme", "openai", "gpt-4o")
    assert told["state"] == "in_force"
    by_meter = {change["meter"]: change for change in told["changes"]}
    assert list(by_meter) == [METER]
    assert [one["price_nanos"] for one in by_meter[METER]["before"]] == [2_500_000_000]
    assert [one["price_nanos"] for one in by_meter[METER]["after"]] == [5_000_000_000]
    assert by_meter[METER]["after"][0]["source"] == "catalog"
    assert told["before"]["gross_margin_ratio"] == "0.3000"
    assert told["after"]["gross_margin_ratio"] == "-0.4000"
    assert (told["before"]["level"], told["after"]["level"]) == ("none", "block")
    assert lab.outbox("idle") == []

    await eventually(lambda: len(world.signed.ids) == 2 and len(world.slack.requests) == 1)
    for body in world.signed.bodies:
        check(body)
    kinds = [body["type"] for body in world.signed.bodies]
    assert kinds == ["price.changed", "margin.level_changed"]
    (text,) = [body["text"] for body in world.slack.bodies]
    assert "new price of openai gpt-4o" in text
    assert f"{METER} $2.50 per 1,000,000 → $5.00 per 1,000,000" in text
    assert "$7.00 of $10.00 spent, margin 30.00 %" in text
    assert "$14.00 of $10.00 spent, margin −40.00 %" in text
