"""Processes that are replaced as Kubernetes replaces them, by what their manifests say.

A Deployment here has one pod, `maxSurge` 1 and `maxUnavailable` 0: the next process is ready
before the old one is told to end. A StatefulSet replaces one pod after the other, from the last,
each in its place. A Service leads new connections to the pod that is ready, and leaves alone those
that exist. In a cluster some hear of that later, which is what preStop waits for; here all hear of
it at once, so that its wait is short.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from lab.ports import free_port
from lab.servers import HANG_S, ROOT, Program, ask_tcp
from tests.contract.tcp_proxy import TcpProxy

PRE_STOP_S = 0.5
METRICS, LISTEN = "_METRICS_LISTEN", "_LISTEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a workload of k8s/base says of its pods' ends."""

    surges: bool  # The next pod comes before the old one goes.
    grace_s: float  # From SIGTERM to SIGKILL: what preStop leaves of it.
    drains: Mapping[str, str]  # Settings of how long a process may drain.


def manifest_of(name: str) -> Manifest:
    folder = ROOT / "k8s" / "base" / name
    (path,) = [*folder.glob("deployment.yaml"), *folder.glob("statefulset.yaml")]
    workload: dict[str, Any] = yaml.safe_load(path.read_text())
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    waits = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    strategy = workload["spec"].get("strategy", {}).get("rollingUpdate", {})
    return Manifest(
        surges=strategy == {"maxUnavailable": 0, "maxSurge": 1},
        grace_s=pod["terminationGracePeriodSeconds"] - waits,
        drains={
            each["name"]: each["value"]
            for each in container["env"]
            if each["name"].endswith("_DRAIN_S")
        },
    )


@dataclass(kw_only=True)
class Ends:
    """How processes ended, and what was wrong with it."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    async def end(self, workload: str, program: Program, *, grace_s: float) -> None:
        """End a process as the kubelet does; note what it made of that."""
        await asyncio.sleep(PRE_STOP_S)
        started_s = time.monotonic()
        code = await asyncio.to_thread(program.stop)
        took_s = time.monotonic() - started_s
        self.seconds.setdefault(workload, []).append(took_s)
        if took_s > grace_s:
            self.problems.append(f"{program.name} took {took_s:.1f} s of {grace_s:.0f}")
        said = program.log_since_start()
        if code != 0:
            self.problems.append(f"{program.name} ended with {code}: {program.log_tail(3)}")
        elif "Traceback" in said or '"level": "error"' in said:
            self.problems.append(f"{program.name} has errors in its log {program.log_path}")


async def nothing() -> None:
    """Wait for nothing."""


@dataclass(kw_only=True)
class Workload:
    """The pods of a Deployment or StatefulSet, and how they are replaced.

    Args:
        name: Of its folder in k8s/base.
        pods: The processes that run.
        service: What leads to its only pod, if somebody connects to it.
        settled: Waits until who talks to it has found it well again.
    """

    name: str
    pods: list[Program]
    ends: Ends
    service: TcpProxy | None = None
    settled: Callable[[], Awaitable[None]] = nothing
    generation: int = 1

    async def roll(self) -> None:
        manifest = manifest_of(self.name)
        if manifest.surges:
            await self._surge(manifest)
        else:
            await self._in_turn(manifest)
        await self.settled()

    async def _surge(self, manifest: Manifest) -> None:
        self.generation += 1
        (old,) = self.pods
        new, port = successor(old, f"{self.name}-{self.generation}")
        self.pods = [new]
        await asyncio.to_thread(new.start)
        if self.service is not None:
            assert port is not None, f"{self.name} listens nowhere"
            self.service.lead_to(port)
        await self.ends.end(self.name, old, grace_s=manifest.grace_s)

    async def _in_turn(self, manifest: Manifest) -> None:
        for pod in reversed(self.pods):
            await self.ends.end(self.name, pod, grace_s=manifest.grace_s)
            await asyncio.to_thread(pod.start)
            await self.settled()

    async def stop(self) -> None:
        for pod in self.pods:
            await asyncio.to_thread(pod.stop)


def successor(old: Program, name: str) -> tuple[Program, int | None]:
    """Return the same process with addresses of its own, and where it listens if that is a port.

    At a UNIX socket it listens at the same one: it takes over.
    """
    env = dict(old.env)
    ports: dict[str, int] = {}
    for variable in [one for one in env if one.endswith(LISTEN) and not is_socket(env[one])]:
        kind = METRICS if variable.endswith(METRICS) else LISTEN
        ports[kind] = free_port()
        env[variable] = f"127.0.0.1:{ports[kind]}"
    asked = ports.get(METRICS, ports.get(LISTEN, 0))
    request = b"GET /readyz HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n"
    new = Program(
        name,
        old.command,
        env=env,
        ready=lambda: b" 200 " in ask_tcp(asked, request, bytes_max=64),
        log_dir=old.log_path.parent,
        cwd=ROOT,
    )
    return new, ports.get(LISTEN)


def is_socket(listen: str) -> bool:
    return listen.startswith("unix:")


@dataclass(kw_only=True)
class Caller:
    """Sends one request after the other at a steady pace, and counts what came of them."""

    send: Callable[[int], Awaitable[int]]  # The n-th; returns the status.
    every_s: float
    sent: int = 0
    failures: list[str] = field(default_factory=list)

    async def run(self, stop: asyncio.Event, *, good: Sequence[int]) -> None:
        while not stop.is_set():
            try:
                status = await asyncio.wait_for(self.send(self.sent), HANG_S)
            except Exception as error:  # noqa: BLE001 - whatever it is, the request failed.
                self.failures.append(f"{self.sent}: {type(error).__name__} {error}")
            else:
                if status not in good:
                    self.failures.append(f"{self.sent}: {status}")
            self.sent += 1
            await asyncio.sleep(self.every_s)
