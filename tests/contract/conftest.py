"""Ledgers to write to; and event loops.

A test that says so runs on asyncio's own loop and on uvloop, as in production.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from aforo_meter.ledger_sql import SqlLedger
from tests.contract.control_lab import (  # noqa: F401 - fixtures.
    database,
    empty_control_file,
    sqlite_database,
)
from tests.contract.ledgers import AuditedLedger, LedgerFile, Ledgers, ledgers_of

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 - the hook's
    item: pytest.Item,
) -> Mapping[str, LoopFactory]:
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    marker = item.get_closest_marker("asyncio")
    if marker is not None and "loop_factories" in marker.kwargs:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    LedgerFile.create(path)
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def ledgers(
    request: pytest.FixtureRequest, empty_ledger: Path, tmp_path: Path
) -> Iterator[Ledgers]:
    """Places for ledgers: the test runs with each of the two databases."""
    with ledgers_of(request, empty_ledger, tmp_path) as found:
        yield found


@pytest.fixture
def file(ledgers: Ledgers) -> AuditedLedger:
    return ledgers.new()


@pytest.fixture
async def ledger(file: AuditedLedger) -> AsyncIterator[SqlLedger]:
    async with SqlLedger(file.url, busy_timeout_ms=200) as opened:
        yield opened
