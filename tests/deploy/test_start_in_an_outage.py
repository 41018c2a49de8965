"""Every process of the base, with its manifest's command and probes, while all servers are away.

A process that had nothing to answer its startup probe with would be killed again and again.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab.ports import free_port
from lab.servers import ask_tcp, eventually, python_module
from tests.deploy.rendering import Document, containers_of, pods, rendered
from tests.deploy.test_settings import variables

pytestmark = [pytest.mark.contract, pytest.mark.slow]

OVERLAY = "prod"
READY_NEVERTHELESS = {"ship"}  # It has room for what Envoy sends (docs/operations.md).
# What a process that waits says of it, where it says so in a metric.
WAITING = {
    "consume": rb'aforo_consume_waiting\{for="the ledger"\} 1.0',
    "deliver": rb"aforo_deliver_outbox_errors_total [1-9]",
    "sync": rb"aforo_sync_waiting 1.0",
}
# And in its log, with what leads there.
SAID = {
    "consume": r"postgresql://aforo@127.0.0.1:\d+/aforo: .*\"event\": \"waiting\"",
    "deliver": r"postgresql://aforo@127.0.0.1:\d+/aforo: .*\"event\": \"waiting\"",
    "sync": r"\(AFORO_ADMIN_DATABASE_URL\) can't be used.*waiting for the catalog's database",
}


def containers() -> dict[str, Document]:
    return {
        container["name"]: container
        for _, pod in pods(rendered(OVERLAY))
        for container in containers_of(pod)
        if "startupProbe" in container and container["command"][0].startswith("aforo-")
    }


CONTAINERS = containers()


def placed(container: Document, server_port: int, home: Path) -> tuple[dict[str, str], int]:
    """Return a container's variables on this machine, all servers at one port, and its probes'."""
    given = variables(container, rendered(OVERLAY))
    by_number: dict[int, int] = {}
    for name, value in given.items():
        if name.endswith("_LISTEN"):
            port = by_number.setdefault(int(value.rpartition(":")[2]), free_port())
            given[name] = f"127.0.0.1:{port}"
        elif name.endswith("_REDIS_URL"):
            given[name] = f"redis://:s3cr3t@127.0.0.1:{server_port}/0"
        elif name.endswith(("_LEDGER_URL", "_DATABASE_URL")):
            given[name] = f"postgresql://aforo:s3cr3t@127.0.0.1:{server_port}/aforo"
        elif name.endswith("_KAFKA_BOOTSTRAP"):
            given[name] = f"127.0.0.1:{server_port}"
        elif name.endswith("_SPOOL_DIR"):
            given[name] = str(home / "spool")
    numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
    return given, by_number[numbers[container["startupProbe"]["httpGet"]["port"]]]


@contextmanager
def servers_away(how: str) -> Iterator[int]:
    """Yield a port that refuses connections, or takes them and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if how == "silent":
            server.listen(1000)
        yield server.getsockname()[1]


def answer(port: int, path: str) -> bytes:
    request = f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode()
    return ask_tcp(port, request, bytes_max=1_000_000)


@pytest.mark.parametrize("how", ["refusing", "silent"])
@pytest.mark.parametrize("name", CONTAINERS)
async def test_it_lives_is_not_ready_and_ends_when_asked(
    name: str, how: str, tmp_path: Path
) -> None:
    container = CONTAINERS[name]
    with ExitStack() as stack:
        env, port = placed(container, stack.enter_context(servers_away(how)), tmp_path)
        program, *arguments = container["command"]
        process = python_module(
            name,
            program.replace("-", "_"),
            *arguments,
            env=env,
            log_dir=tmp_path,
            ready=lambda: b" 200 " in answer(port, "/livez")[:20],
        )
        stack.enter_context(process)
        # A word of its waiting comes with the first attempt that fails.
        await eventually(lambda: re.search(WAITING.get(name, b""), answer(port, "/metrics")))
        assert b" 200 " in answer(port, "/livez")[:20]
        if name not in READY_NEVERTHELESS:
            await eventually(lambda: b" 503 " in answer(port, "/readyz")[:20])
        assert re.search(SAID.get(name, ""), process.log_text())

        assert process.stop() == 0
    assert "s3cr3t" not in process.log_text()
    assert "Traceback" not in process.log_text()


def test_all_of_the_base_are_played() -> None:
    assert {*CONTAINERS} == {"authz", "ship", "ingest", "consume", "deliver", "sync", "admin"}
    assert not [name for name in os.environ if re.match("AFORO_(ADMIN|AUTHZ|METER)", name)]
