"""What callers make the gateway of `envoy-sidecar` hold stays within its container's memory."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from lab.envoy import EnvoyServer
from lab.ports import free_port
from lab.servers import HANG_S, scratch_dir
from lab.upstream import FakeLlm
from tests.deploy.envoy_config import TARGET
from tests.deploy.overlay_lab import without_stats
from tests.deploy.rendering import containers_of, pod_of, rendered
from tests.deploy.semantics import amount

MEBIBYTE: Final = 1024 * 1024
# Measured, and written in envoy/README.md: an idle Envoy, and a call of nearly 8 MiB.
IDLE_MIB, CALL_MIB, CALLS = 67, 8.6, 54
FLOOD: Final = 160  # More than the container has room for: 67 + 160 × 8.6 MiB are 1,443.
HELD_BYTES: Final = 8 * MEBIBYTE - 100_000


def limit_bytes() -> float:
    (found,) = (
        container["resources"]["limits"]["memory"]
        for document in rendered("envoy-sidecar")
        if (pod := pod_of(document))
        for container in containers_of(pod)
        if container["name"] == "envoy"
    )
    return amount(found)


def manager() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TARGET.read_text())["overload_manager"]
    return found


def heap_bytes() -> int:
    (found,) = (
        each["typed_config"]["max_heap_size_bytes"]
        for each in manager()["resource_monitors"]
        if each["name"] == "envoy.resource_monitors.fixed_heap"
    )
    return int(found)


def thresholds() -> dict[str, float]:
    """Return from which part of the heap on each thing is done."""
    found = {}
    for each in (*manager()["actions"], *manager()["loadshed_points"]):
        (trigger,) = each["triggers"]
        assert trigger["name"] == "envoy.resource_monitors.fixed_heap"
        value = trigger.get("threshold", {}).get("value")
        found[each["name"].rpartition(".")[2]] = value or trigger["scaled"]["scaling_threshold"]
    return found


def test_the_heap_is_three_quarters_of_the_limit_and_has_room_for_the_stated_calls() -> None:
    assert heap_bytes() == 0.75 * limit_bytes()
    reset_from = thresholds()["reset_high_memory_stream"] * heap_bytes() / MEBIBYTE
    calls = (reset_from - IDLE_MIB) / CALL_MIB

    assert CALLS <= calls < CALLS + 1


def test_who_holds_most_is_met_before_everybody_else() -> None:
    found = thresholds()

    assert found["http1_server_abort_dispatch"] == found["reset_high_memory_stream"]
    assert found["shrink_heap"] < found["reset_high_memory_stream"]
    assert found["reset_high_memory_stream"] < found["stop_accepting_requests"]
    assert found["stop_accepting_requests"] < found["stop_accepting_connections"] < 1


@contextlib.asynccontextmanager
async def envoy() -> AsyncIterator[EnvoyServer]:
    """Run the overlay's Envoy; nobody decides, so that all calls pass."""
    home = scratch_dir("memory")

    def edit(document: dict[str, Any]) -> None:
        without_stats(document)
        for cluster in document["static_resources"]["clusters"]:
            cluster["type"] = "STATIC"

    async with FakeLlm() as upstream:
        clusters = {name: [upstream.port] for name in ("api", "grpc", "llm", "llm_economy")}
        away = {"aforo_authz": [home / "n"], "aforo_als": [home / "n", home / "n"]}
        server = EnvoyServer(
            TARGET,
            listeners={"ingress": free_port()},
            clusters={**clusters, **away},
            edit=edit,
            log_dir=home,
        )
        await asyncio.to_thread(server.start)
        try:
            yield server
        finally:
            server.stop()


async def hold(port: int, path: str, held: list[asyncio.StreamWriter]) -> None:
    """Send a call but for its last byte, until Envoy has it or cuts us off."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    held.append(writer)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {HELD_BYTES}\r\n\r\n"
    writer.write(head.encode() + b'{"model":"')
    left = HELD_BYTES - 11
    with contextlib.suppress(ConnectionError):
        while left:
            part = min(left, 256 * 1024)
            writer.write(b"x" * part)
            await writer.drain()
            left -= part


async def answers(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.readline()
    writer.transport.abort()
    return answer == b"HTTP/1.1 200 OK\r\n"


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (each for each in status.splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_calls_that_never_end_do_not_end_the_gateway(path: str) -> None:
    held: list[asyncio.StreamWriter] = []
    async with envoy() as server:
        port = server.port("ingress")
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*(hold(port, path, held) for _ in range(FLOOD)))
            for attempt in itertools.count():  # What was cut may not be free yet.
                if await answers(port):
                    break
                await asyncio.sleep(min(1.0, attempt / 10))
        peak = peak_bytes(server.pid)
        for writer in held:
            writer.transport.abort()

    assert peak < limit_bytes()
