"""/livez and /readyz of the pages, as Kubernetes asks them: without TLS, by an address."""

import asyncio
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from lab.http_client import HttpClient
from lab.ports import free_port
from lab.servers import HANG_S
from tests.contract.test_control_pages import SECRET, serving
from tests.contract.test_control_process import control, filled

__all__ = ["control", "filled"]  # Fixtures.

pytestmark = [pytest.mark.contract, pytest.mark.slow]

# As overlay prod sets them: a name that no probe asks by, and TLS, which no probe speaks.
PROD = {
    "AFORO_ADMIN_SECRET_KEY": SECRET,
    "AFORO_ADMIN_HTTPS": "true",
    "AFORO_ADMIN_HOSTS": "aforo.example.com",
}


async def answers(address: str) -> dict[str, tuple[int, str]]:
    """Return status and text of what is asked by the address alone."""
    found = {}
    async with HttpClient(address.removesuffix("/admin/")) as client:
        for path in ("/livez", "/readyz", "/readyz/", "/admin/login/"):
            answer = await client.get(path)
            found[path] = answer.status, answer.body.decode()
    return found


async def test_who_reads_the_database_is_ready_whatever_browsers_must_say(
    filled: Mapping[str, str],
    tmp_path: Path,
) -> None:
    with serving({**filled, **PROD}, tmp_path) as (address, _):
        async with asyncio.timeout(HANG_S):  # The first look of a process takes longest.
            while (told := await answers(address))["/readyz"][0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    assert told["/livez"] == (200, "alive\n")
    assert told["/readyz"] == (200, "ready\n")
    # Nothing else got an exception.
    assert {told["/readyz/"][0], told["/admin/login/"][0]} <= {301, 400}


async def test_a_database_that_was_never_migrated_is_alive_and_not_ready(tmp_path: Path) -> None:
    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    with serving({**PROD, "AFORO_ADMIN_DATABASE_URL": empty}, tmp_path) as (address, program):
        told = await answers(address)
        lines = [json.loads(line) for line in program.log_lines()]

    assert told["/livez"][0] == 200
    assert told["/readyz"] == (503, "the catalog's database can't be read: see the log\n")
    (said,) = (line for line in lines if "not ready" in line["event"])
    assert said["error"] == "OperationalError"


async def test_a_database_that_is_silent_is_not_waited_for(
    tmp_path: Path,
) -> None:
    """Nor is another connection made for each probe while the first one hangs."""
    port = free_port()
    # Else a slow machine could see it given up, and tried again.
    url = f"postgresql://aforo:secret@127.0.0.1:{port}/aforo?connect_timeout=60"
    with socket.create_server(("127.0.0.1", port)) as silent:
        silent.settimeout(60)
        with serving({**PROD, "AFORO_ADMIN_DATABASE_URL": url}, tmp_path) as (address, program):
            began_s = time.monotonic()
            first = await answers(address)
            second = await answers(address)
            took_s = time.monotonic() - began_s
            asked, _ = silent.accept()
            silent.settimeout(0.2)
            with asked, pytest.raises(TimeoutError):
                silent.accept()
            assert "no answer" in program.log_text()

    assert first["/livez"][0] == second["/livez"][0] == 200
    assert first["/readyz"][0] == second["/readyz"][0] == 503
    assert took_s < 30
