"""Ledgers to write to; and event loops.

A test that says so runs on asyncio's own loop and on uvloop, as in production.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from aforo_meter.ledger_sql import SqlLedger
from tests.contract.ledger_lab import LedgerFile

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


@pytest.fixture
def file(empty_ledger: Path, tmp_path: Path) -> LedgerFile:
    return LedgerFile(Path(shutil.copy(empty_ledger, tmp_path / "ledger.db")))


@pytest.fixture(params=["sqlite"])
async def ledger(file: LedgerFile) -> AsyncIterator[SqlLedger]:
    async with SqlLedger(file.url, busy_timeout_ms=200) as opened:
        yield opened
