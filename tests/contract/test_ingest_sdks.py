"""The seven published SDKs, unchanged: whatever happens to server and network, all counts once."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio
from aiohttp import web

from lab.servers import ROOT, KafkaServer
from tests.conftest import KafkaAt
from tests.contract.fault_proxy import FaultProxy, nothing, slow, too_many, unavailable
from tests.contract.ingest_lab import IngestLab, event, ingest_lab

pytestmark = [
    pytest.mark.contract,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

EVENTS = 120
METERS: Mapping[str, Mapping[str, int]] = {
    "base": {"api.calls": EVENTS},
    "agent": {
        "agent.steps": EVENTS // 2,
        "agent.capability_calls": EVENTS // 2,
        "llm.input_tokens": 10 * EVENTS // 2,
        "llm.output_tokens": EVENTS // 2,
    },
    "mcp": {"mcp.tool_calls": EVENTS},
    "grpc": {"grpc.calls": EVENTS},
    "graphql": {"graphql.operations": EVENTS},
    "ws": {"websocket.messages": EVENTS},
    "mqtt": {"mqtt.messages": EVENTS},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[IngestLab]:
    home = tmp_path_factory.mktemp("ingest-sdks")
    async with ingest_lab(kafka_server.bootstrap, home) as made:
        yield made


async def report(lab: IngestLab, proxy: FaultProxy, sdk: str, tenant: str) -> int:
    """Let an application report its usage, and return how many events its SDK gave up."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.sdk_client"),
        *(sdk, proxy.url, lab.key, tenant, str(EVENTS)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await program.communicate()
    assert program.returncode == 0, errors.decode()
    dropped: int = json.loads(out)["dropped"]
    assert not dropped, errors.decode()
    return dropped


async def all_report(lab: IngestLab, proxy: FaultProxy, fault: str) -> None:
    """Let all applications report at once, and compare with what the ledger has."""
    tenants = {sdk: lab.tenant(f"{sdk}-{fault}") for sdk in METERS}
    await asyncio.gather(*(report(lab, proxy, sdk, tenant) for sdk, tenant in tenants.items()))
    # A tenant's events are in order: once this one is in the ledger, all before are.
    marks = [event(tenant, metricName="bytes.request") for tenant in tenants.values()]
    assert (await lab.batch(*marks)).counts == (len(marks), 0, 0)
    for sdk, tenant in tenants.items():
        await lab.meters_are(tenant, {**METERS[sdk], "bytes.request": 1})


async def test_all_of_them_work_as_they_are(lab: IngestLab) -> None:
    async with FaultProxy(lab.url, nothing).serving() as proxy:
        await all_report(lab, proxy, "sound")


async def test_what_was_answered_429_counts_once(lab: IngestLab) -> None:
    async with FaultProxy(lab.url, too_many).serving() as proxy:
        await all_report(lab, proxy, "429")


async def test_what_was_stored_and_answered_503_counts_once(lab: IngestLab) -> None:
    async with FaultProxy(lab.url, unavailable).serving() as proxy:
        await all_report(lab, proxy, "503")


async def test_what_was_stored_and_answered_too_late_counts_once(lab: IngestLab) -> None:
    async with FaultProxy(lab.url, slow).serving() as proxy:
        await all_report(lab, proxy, "slow")


async def test_a_server_that_is_killed_in_the_middle_loses_nothing_and_counts_once(
    lab: IngestLab,
) -> None:
    """It dies after it has stored a request and before the client hears of it, three times."""
    kills = 0
    restarts: list[asyncio.Task[object]] = []

    async def restart(proxy: FaultProxy) -> None:
        await asyncio.to_thread(lab.program.start)
        proxy.up.set()

    async def killed(proxy: FaultProxy, body: bytes, _: int) -> web.Response | None:
        nonlocal kills
        number = proxy.requests
        answer = await proxy.forward(body)
        if number in {5, 12, 20} and proxy.up.is_set():
            proxy.up.clear()
            kills += 1
            lab.program.kill()
            restarts.append(asyncio.create_task(restart(proxy)))
            return None
        return answer

    async with FaultProxy(lab.url, killed).serving() as proxy:
        await all_report(lab, proxy, "kill")
        await asyncio.gather(*restarts)

    assert kills >= 1
