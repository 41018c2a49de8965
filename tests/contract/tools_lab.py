"""The commands that operators run, as processes; and files for them."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aforo_meter import import_state
from tests.contract.consume_lab import ConsumeLab

COLUMNS = ("customerId", "metricName", "quantity", "occurredAt", "idempotencyKey")


@dataclass(frozen=True)
class Ran:
    code: int | None
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.out)


async def started(*arguments: str) -> asyncio.subprocess.Process:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AFORO_METER")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aforo_meter", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )


async def ran(*arguments: str) -> Ran:
    """Run one command to its end."""
    process = await started(*arguments)
    out, err = await process.communicate()
    return Ran(process.returncode, out.decode(), err.decode())


async def imported(lab: ConsumeLab, path: Path, *more: str) -> Ran:
    return await ran("import", str(path), *import_arguments(lab), *more)


def import_arguments(lab: ConsumeLab) -> list[str]:
    where = ["--bootstrap", lab.bootstrap, "--topic", lab.topic]
    return [*where, "--redis-url", lab.redis_server.url]


async def dlq(lab: ConsumeLab, action: str, *more: str) -> Ran:
    where = ["--bootstrap", lab.bootstrap, "--dead-letter-topic", lab.dead_letter_topic]
    if action == "retry":
        where += ["--topic", lab.topic]
    return await ran("dlq", action, *where, *more)


def state_of(path: Path) -> dict[str, Any]:
    """Return where an import stands; empty if it has not begun."""
    place = import_state.path_of(path)
    found: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {}
    return found


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def csv_file(path: Path, tenant: str, numbers: Iterable[int], *, keys: bool = True) -> Path:
    """Write a file of single calls, one a row."""
    now = now_text()
    columns = COLUMNS if keys else COLUMNS[:-1]
    with path.open("w") as file:
        file.write(",".join(columns) + "\n")
        for number in numbers:
            key = f",{tenant}-{number}" if keys else ""
            file.write(f"{tenant},api_calls,1,{now}{key}\n")
    return path
