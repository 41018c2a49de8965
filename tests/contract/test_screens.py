"""The admin's pages of figures, over a real catalog, ledger and Redis."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.screens_lab import World, empty_world, fill

pytestmark = [pytest.mark.contract, pytest.mark.slow]

PAGES = (
    *("overview/", "margins/", "interventions/", "prices/", "tester/"),
    *("sessions/", "deliveries/", "letters/", "audit/"),
)


@pytest.fixture
def empty(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, redis_url: str
) -> Iterator[World]:
    with empty_world(database, request, tmp_path, redis_url) as world:
        yield world


@pytest.fixture
def world(empty: World) -> World:
    fill(empty)
    return empty


def text_of(page: str) -> str:
    """Return what a page says, without its markup, in one line."""
    main = page[page.index('id="live"') :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", main))


def test_overview_says_where_all_tenants_stand(world: World) -> None:
    page = text_of(world.get("overview/"))

    assert "block L3 1" in page
