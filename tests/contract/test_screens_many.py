"""The admin's pages with 10,000 tenants: what they ask does not grow with those."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.pages import QUERIES_MAX, clients, counted
from bench.pages_load import Load, fill
from tests.contract.screens_lab import NOW, World, empty_world

pytestmark = [
    pytest.mark.contract,
    pytest.mark.slow,
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

MANY = Load(tenants=10_000, hours=1, intervention_hours=12, now_micros=NOW)
SOME = Load(tenants=120, hours=1, intervention_hours=2, now_micros=NOW)


@pytest.fixture
def world(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, redis_url: str
) -> Iterator[World]:
    with empty_world(database, request, tmp_path, redis_url) as made:
        yield made


def test_no_page_asks_thirty_questions_however_many_tenants_there_are(world: World) -> None:
    fill(MANY, ledger_url=world.ledger.url, redis_url=world.places.redis_url)
    asked = {}
    for client, addresses in clients().items():
        for address in addresses:
            with counted() as statements:
                answer = client.get(address)
            asked[address] = len(statements)

            assert answer.status_code == 200, address
            assert 'class="missing"' not in answer.content.decode(), address
    assert max(asked.values()) <= QUERIES_MAX, asked
    assert min(asked.values()) > 0, asked


def test_lists_go_on_page_by_page(world: World) -> None:
    fill(SOME, ledger_url=world.ledger.url, redis_url=world.places.redis_url)
    seen: list[str] = []
    for skip in ("0", "50", "100"):
        page = world.part("margins/", skip=skip)
        seen += [word for word in page.split() if word in set(SOME.names())]

    assert sorted(seen) == list(SOME.names())
    assert "Before More As of" in world.part("margins/", skip="50")
    assert world.part("sessions/", skip="110").count("s-1") == 10
    oldest = world.ledger.rows("SELECT MIN(outbox_id) FROM outbox")[0][0]
    assert world.get("deliveries/", before=str(oldest + 2)).count("/admin/deliveries/msg_") == 2
