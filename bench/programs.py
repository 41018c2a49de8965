"""The programs that are measured, as processes of their own."""

import socket
from pathlib import Path

import psutil

from lab.ports import free_port
from lab.servers import Program, ask_tcp, python_module


def constant(home: Path, listen: str, *, transport: str = "ngh2") -> Program:
    """Return a server that parses what it is asked, and gives a constant answer."""
    return python_module(
        f"constant-{transport}",
        "bench.constant_authz",
        *("--listen", listen, "--transport", transport),
        env={},
        ready=lambda: answers(listen),
        log_dir=home,
    )


def aforo(home: Path, listen: str, redis_url: str, *, transport: str = "ngh2") -> Program:
    """Return Aforo's decision server, with every setting at its default."""
    port = free_port()
    return python_module(
        f"aforo-{transport}-{port}",
        "aforo_authz",
        *("serve", "--transport", transport),
        env={
            "AFORO_AUTHZ_LISTEN": listen,
            "AFORO_AUTHZ_REDIS_URL": redis_url,
            "AFORO_AUTHZ_METRICS_LISTEN": f"127.0.0.1:{port}",
        },
        ready=lambda: b" 200 " in ask_tcp(port, b"GET /readyz HTTP/1.0\r\n\r\n", bytes_max=64),
        log_dir=home,
    )


def answers(listen: str) -> bool:
    """Does anybody listen there?"""
    if listen.startswith("unix:"):
        return Path(listen.removeprefix("unix:")).exists()
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def cpu_s(program: Program | None) -> float:
    """Return the CPU time that a process has used."""
    if program is None:
        return 0.0
    times = psutil.Process(program.pid).cpu_times()
    return float(times.user + times.system)


def rss_mb(program: Program) -> float:
    return float(psutil.Process(program.pid).memory_info().rss) / 1e6
