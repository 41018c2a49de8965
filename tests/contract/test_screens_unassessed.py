"""Months of the overview hold what contracts bring in periods that nobody could assess."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aforo_admin import simulation_text
from aforo_admin.domain.scenario import Scenario
from aforo_admin.read_model import build
from aforo_admin.screens import overview_reading, unassessed
from aforo_admin.simulating import Ground, simulate
from aforo_meter.domain.periods import datetime_of, micros_of
from aforo_meter.domain.rating import Rated
from aforo_meter.ledger import Partition
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.ledger_lab import batch, used
from tests.contract.screens_lab import EXAMPLE, NOW, PRICES, World, empty_world, fill, terms

pytestmark = [pytest.mark.contract, pytest.mark.slow]

IMPORTED = Partition("aforo.usage.v1", 7)
MODEL = build(EXAMPLE, datetime_of(NOW))


@pytest.fixture
def world(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, redis_url: str
) -> Iterator[World]:
    with empty_world(database, request, tmp_path, redis_url) as made:
        fill(made)
        yield made


def calls(tenant_id: str, count: int, month: int, subscription: str | None = None) -> Rated:
    """Return usage of a month that is long over."""
    at_micros = micros_of(datetime(2026, month, 10, tzinfo=UTC))
    held = terms(MODEL, tenant_id)
    return used(
        f"{tenant_id}-{month}-{subscription}",
        count,
        tenant=tenant_id,
        subscription=subscription or held.subscription_id,
        period=held.period_at(at_micros),
        at_micros=at_micros,
        prices=PRICES,
    )


def arrive(world: World, *events: Rated) -> None:
    """Let usage arrive as an import does: in the ledger it has a cost, and no revenue yet."""

    async def write() -> None:
        async with SqlLedger(world.ledger.url) as ledger:
            await ledger.apply(batch(events, partition=IMPORTED, now_micros=NOW))

    asyncio.run(write())
    missing = world.ledger.rows("SELECT COUNT(*) FROM margin_state WHERE revenue_nanos IS NULL")
    assert missing == [(len({(each.tenant_id, each.period) for each in events}),)]


def test_a_fee_counts_in_a_period_that_was_over_before_its_usage_arrived(world: World) -> None:
    """globex pays 500 a month; its period from 31 May has 1,000 calls at 0.0004."""
    assert "2026-05" not in world.part("overview/")

    arrive(world, calls("globex", 1000, 6))

    said = world.part("overview/")
    assert "2026-05 500.00 0.40 99.92 %" in said
    assert "Revenue, USD 36,500.00" in said  # Of running periods, as ever.


def test_usage_counts_by_the_card_in_the_price_book_s_currency(world: World) -> None:
    """umbrella's August: 40,000 calls beyond 1,000 are 10 + 15 EUR, at 1.09; June's are its least.

    In June, 20 EUR.
    """
    arrive(world, calls("umbrella", 41_000, 8), calls("umbrella", 10, 6))

    said = world.part("overview/")
    assert "2026-08 27.25 16.40 39.81 %" in said
    assert "2026-06 21.80" in said


@pytest.mark.parametrize(
    ("tenant", "month", "count", "revenue", "cogs"),
    [("globex", 6, 1000, "500.00", "0.40"), ("umbrella", 8, 41_000, "27.25", "16.40")],
)
def test_a_what_if_reckons_as_the_overview_does(
    world: World, tenant: str, month: int, count: int, revenue: str, cogs: str
) -> None:
    """By a fee, of which no hour is read, and by a rate card. globex's period is from 31 May."""
    arrive(world, calls(tenant, count, month))
    began = month - 1 if tenant == "globex" else month
    ground = Ground(catalog=EXAMPLE, ledger_url=world.ledger.url, now=datetime_of(NOW))
    asked = Scenario(month=f"2026-{began:02}", tenants=(tenant,))

    found = simulate(asked, ground)

    (one,) = found.outcomes
    assert one.recorded == one.replayed == one.acted
    assert one.is_reckoned
    sums = (one.recorded.revenue_nanos, one.recorded.cogs_nanos)
    assert [f"{nanos / 1e9:.2f}" for nanos in sums] == [revenue, cogs]
    assert f"2026-{began:02} {revenue} {cogs}" in world.part("overview/")
    # Command, page and REST tell the same.
    (remark,) = simulation_text.remarks(found)
    assert remark.startswith(f"{tenant}: never assessed, since usage arrived when")
    assert remark in simulation_text.comparison_text(found)
    assert simulation_text.comparison_written(found)["remarks"] == [remark]
    assert simulation_text.comparison_written(found)["tenants"][0]["assessed"] is False
    page = world.client.post("/admin/what-if/", {"month": asked.month, "tenants": tenant})
    assert f"{remark}." in page.content.decode()
    assert f"{revenue} {found.currency}" in page.content.decode()


def test_a_subscription_that_no_contract_knows_brings_nothing(world: World) -> None:
    arrive(world, calls("globex", 1000, 6, "long-gone"))

    assert "2026-05 0.00 0.40 undefined" in world.part("overview/")


def test_what_a_page_has_no_time_for_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two periods fit; the third, the earliest, is left out."""
    for module in (overview_reading, unassessed):
        monkeypatch.setattr(module, "PERIODS_MAX", 2)
    arrive(world, *(calls("globex", 1000, month) for month in (6, 7, 8)))

    said = world.part("overview/")

    assert "revenue of more than 2 periods" in said
    assert "2026-06 500.00" in said
    assert "2026-07 500.00" in said
    assert "2026-05 0.00" in said
