"""All of Aforo on one machine: real servers, every process, and stand-ins for what is the user's.

The demo, the end-to-end tests and the benchmarks start this; Aforo's processes run as a stranger
would run them, with settings in variables.
"""

import base64
import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lab.envoy import Address, EnvoyServer
from lab.patience import PATIENT_AUTHZ, PATIENT_INGEST, patient, patient_with_log
from lab.ports import free_port
from lab.postgres import PostgresServer
from lab.servers import (
    HANG_S,
    ROOT,
    KafkaProgram,
    KafkaServer,
    Program,
    RedisServer,
    ServerStartError,
    ask_tcp,
    python_module,
    scratch_dir,
)

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"aforo-lab-webhook-signing").decode()
PARTITIONS = 8
SHIPS = ("a", "b")


class StackCommandError(Exception):
    """A command that prepares the stack failed; the message has its output."""


@dataclass
class Options:
    """What differs between a demo, a test and a benchmark."""

    catalog: Path  # Followed; with `control` only what the control database begins with.
    home: Path = field(default_factory=lambda: scratch_dir("stack"))
    transport: str = "ngh2"
    ingress_port: int | None = None  # None: any free one.
    envoy_concurrency: int = 1
    authz_env: Mapping[str, str] = field(default_factory=dict)
    sync_env: Mapping[str, str] = field(default_factory=dict)
    ship_env: Mapping[str, str] = field(default_factory=dict)
    ingest_env: Mapping[str, str] = field(default_factory=dict)
    consume_env: Mapping[str, str] = field(default_factory=dict)
    deliver_env: Mapping[str, str] = field(default_factory=dict)
    redis: RedisServer | None = None  # None: one that asks nobody who he is. Not yet started.
    kafka: KafkaProgram | None = None  # None: the lab's own, in memory only. Not yet started.
    database: PostgresServer | None = None  # None: the ledger is a file. Not yet started.
    prepare: Callable[[], None] = lambda: None  # Once ledger and topics are there.
    authz_service: int | None = None  # Where Envoy asks, if not at authz itself: a port.
    envoy_edit: Callable[[dict[str, Any]], None] | None = None
    envoy_config: Path = ROOT / "envoy" / "aforo.yaml"
    tcp: Collection[str] = ()  # Which of authz, als-a and als-b are at a port, not at a socket.
    control: bool = False  # The catalog in a database, followed by sync and served as the admin.
    patient: bool = False  # Whoever decides, logs or takes in usage is waited for, dead ones aside.
    gateway: bool = True  # False: only what follows Kafka. Nothing decides, and nothing is served.


class Stack:
    """Every process of one installation; a context manager that ends them all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.home = options.home
        self.catalog = options.catalog
        self.redis = options.redis or RedisServer(log_dir=self.home)
        self.kafka = options.kafka or KafkaServer(log_dir=self.home)
        self.spools = {which: self.home / f"spool-{which}" for which in SHIPS}
        self.ledger_path = self.home / "ledger.sqlite3"
        self.database = options.database
        self.ledger_url = self.database.url() if self.database else f"sqlite:///{self.ledger_path}"
        self.control_url = f"sqlite:///{self.home / 'control.sqlite3'}"
        listening = ("premium", "economy", "webhooks", "usage", "admin", "nobody")
        self.ports = {name: free_port() for name in listening}
        self.addresses: dict[str, Address] = {
            name: free_port() if name in options.tcp else self.home / f"{name}.sock"
            for name in ("authz", "als-a", "als-b")
        }
        self._exits = contextlib.ExitStack()
        self.upstream = self._stand_in("premium", "lab.upstream", "--name", "premium")
        self.economy = self._stand_in("economy", "lab.upstream", "--name", "economy")
        self.webhooks = self._stand_in("webhooks", "lab.webhook_receiver")
        self.sync = self._aforo("sync", "aforo_admin", "sync", env=self._sync_env())
        self.authz = self._aforo(
            "authz", "aforo_authz", "serve", "--transport", options.transport, env=self._authz_env()
        )
        self.ships = [
            self._aforo(f"ship-{which}", "aforo_meter", "ship", env=self._ship_env(which))
            for which in SHIPS
        ]
        self.consume = self._aforo("consume", "aforo_meter", "consume", env=self._consume_env())
        self.ingest = self._aforo("ingest", "aforo_meter", "ingest", env=self._ingest_env())
        self.deliver = self._aforo("deliver", "aforo_meter", "deliver", env=self._deliver_env())
        self.admin = self._admin()
        self.envoy = self._envoy()

    @property
    def url(self) -> str:
        """Where clients reach the gateway."""
        return f"http://127.0.0.1:{self.envoy.port('ingress')}"

    @property
    def ingest_url(self) -> str:
        """Where usage is reported that does not cross the gateway."""
        return f"http://127.0.0.1:{self.ports['usage']}"

    @property
    def admin_url(self) -> str:
        """Where the admin's pages and its REST API are, if the catalog is in a database."""
        return f"http://127.0.0.1:{self.ports['admin']}"

    @property
    def servers(self) -> list[Program]:
        """What Aforo's processes write to."""
        return [self.redis, self.kafka, *([self.database] if self.database else [])]

    @property
    def programs(self) -> list[Program]:
        """All processes, in the order in which they start."""
        behind = [*self.servers, self.webhooks, self.sync]
        behind += [self.ingest, self.consume, self.deliver]
        behind += [self.admin] if self.options.control else []
        if not self.options.gateway:
            return behind
        return [*behind, self.upstream, self.economy, self.authz, *self.ships, self.envoy]

    def start(self, *, told: Callable[[str], None] = lambda _: None) -> Self:
        """Start everything; `told` hears of each step. On failure all that ran is ended."""
        try:
            self._start(told)
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self, told: Callable[[str], None]) -> None:
        servers = self.servers
        for program in servers:
            told(f"starting {program.name}")
            self._run(program)
        told("creating the ledger and the topics")
        run_aforo("aforo_meter", "migrate", "--ledger-url", self.ledger_url)
        run_aforo(
            *("aforo_meter", "topics", "--bootstrap", self.kafka.bootstrap),
            *("--partitions", str(PARTITIONS)),
        )
        if self.options.control:
            told("creating the control database and applying the catalog")
            env = {"AFORO_ADMIN_DATABASE_URL": self.control_url}
            run_aforo("aforo_admin", "migrate", env=env)
            run_aforo("aforo_admin", "apply", str(self.catalog), env=env)
        self.options.prepare()
        rest = [program for program in self.programs if program not in servers]
        told("starting " + ", ".join(program.name for program in rest))
        for program in rest:
            self._run(program, wait=False)
        for program in rest:
            program.wait_ready()
        if not self.options.gateway:
            return
        # Until its own health checks have found them, Envoy lets requests pass unasked.
        wait_until(lambda: self.envoy.sees_healthy("aforo_authz", "aforo_als"), "Envoy's checks")

    def _run(self, program: Program, *, wait: bool = True) -> None:
        self._exits.callback(program.stop)
        program.start(wait=wait)

    def stop(self) -> None:
        """End everything, clients before servers."""
        self._exits.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _stand_in(self, name: str, module: str, *arguments: str) -> Program:
        port = self.ports[name]
        return python_module(
            name,
            module,
            *("--port", str(port), *arguments),
            env={},
            ready=lambda: b"HTTP/1.1" in ask_tcp(port, PROBE, bytes_max=8),
            log_dir=self.home,
        )

    def _aforo(self, name: str, module: str, *arguments: str, env: Mapping[str, str]) -> Program:
        port = free_port()
        self.ports[name] = port
        (metrics_variable,) = (key for key, value in env.items() if value == METRICS)
        return python_module(
            name,
            module,
            *arguments,
            env={**env, metrics_variable: f"127.0.0.1:{port}"},
            ready=lambda: b" 200 " in ask_tcp(port, READY, bytes_max=64),
            log_dir=self.home,
        )

    def _admin(self) -> Program:
        port = self.ports["admin"]
        return python_module(
            "admin",
            "aforo_admin",
            "serve",
            env={
                "AFORO_ADMIN_DATABASE_URL": self.control_url,
                "AFORO_ADMIN_SECRET_KEY": secrets.token_urlsafe(50),
                "AFORO_ADMIN_LISTEN": f"127.0.0.1:{port}",
                "AFORO_ADMIN_LEDGER_URL": self.ledger_url,
                "AFORO_ADMIN_REDIS_URL": self.redis.url,
                "AFORO_ADMIN_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            },
            ready=lambda: b" 200 " in ask_tcp(port, LOGIN, bytes_max=64),
            log_dir=self.home,
        )

    def _listen(self, name: str) -> str:
        address = self.addresses[name]
        return f"unix:{address}" if isinstance(address, Path) else f"127.0.0.1:{address}"

    def _sync_env(self) -> dict[str, str]:
        return {
            **self._catalog_env(),
            "AFORO_ADMIN_REDIS_URL": self.redis.url,
            "AFORO_ADMIN_METRICS_LISTEN": METRICS,
            **self.options.sync_env,
        }

    def _catalog_env(self) -> dict[str, str]:
        if self.options.control:
            return {"AFORO_ADMIN_DATABASE_URL": self.control_url}
        return {"AFORO_ADMIN_CATALOG": str(self.catalog)}

    def _authz_env(self) -> dict[str, str]:
        return {
            "AFORO_AUTHZ_LISTEN": self._listen("authz"),
            "AFORO_AUTHZ_REDIS_URL": self.redis.url,
            "AFORO_AUTHZ_METRICS_LISTEN": METRICS,
            **self.options.authz_env,
            **(PATIENT_AUTHZ if self.options.patient else {}),
        }

    def _ship_env(self, which: str) -> dict[str, str]:
        return {
            "AFORO_METER_SHIP_LISTEN": self._listen(f"als-{which}"),
            "AFORO_METER_SHIP_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "AFORO_METER_SHIP_KAFKA_IDEMPOTENCE": str(self.kafka.knows_idempotence).lower(),
            "AFORO_METER_SHIP_REDIS_URL": self.redis.url,
            "AFORO_METER_SHIP_SPOOL_DIR": str(self.spools[which]),
            "AFORO_METER_SHIP_METRICS_LISTEN": METRICS,
            **self.options.ship_env,
        }

    def _ingest_env(self) -> dict[str, str]:
        return {
            "AFORO_METER_INGEST_LISTEN": f"127.0.0.1:{self.ports['usage']}",
            "AFORO_METER_INGEST_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "AFORO_METER_INGEST_KAFKA_IDEMPOTENCE": str(self.kafka.knows_idempotence).lower(),
            "AFORO_METER_INGEST_REDIS_URL": self.redis.url,
            "AFORO_METER_INGEST_LEDGER_URL": self.ledger_url,
            "AFORO_METER_INGEST_METRICS_LISTEN": METRICS,
            **self.options.ingest_env,
            **(PATIENT_INGEST if self.options.patient else {}),
        }

    def _consume_env(self) -> dict[str, str]:
        return {
            "AFORO_METER_CONSUME_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "AFORO_METER_CONSUME_REDIS_URL": self.redis.url,
            "AFORO_METER_CONSUME_LEDGER_URL": self.ledger_url,
            "AFORO_METER_CONSUME_METRICS_LISTEN": METRICS,
            **self.options.consume_env,
        }

    def _deliver_env(self) -> dict[str, str]:
        return {
            "AFORO_METER_DELIVER_LEDGER_URL": self.ledger_url,
            "AFORO_METER_DELIVER_WEBHOOK_URL": f"http://127.0.0.1:{self.ports['webhooks']}/hooks",
            "AFORO_METER_DELIVER_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "AFORO_METER_DELIVER_ALLOW_PRIVATE_ADDRESSES": "true",  # The receiver is on loopback.
            "AFORO_METER_DELIVER_METRICS_LISTEN": METRICS,
            **self.options.deliver_env,
        }

    def _envoy(self) -> EnvoyServer:
        return EnvoyServer(
            self.options.envoy_config,
            listeners={"ingress": self.options.ingress_port or free_port()},
            clusters={
                "api": [self.ports["premium"]],
                "grpc": [self.ports["nobody"]],
                "llm": [self.ports["premium"]],
                "llm_economy": [self.ports["economy"]],
                "aforo_authz": [self.options.authz_service or self.addresses["authz"]],
                "aforo_als": [self.addresses["als-a"], self.addresses["als-b"]],
            },
            edit=self._edit_envoy,
            concurrency=self.options.envoy_concurrency,
            log_dir=self.home,
        )

    def _edit_envoy(self, document: dict[str, Any]) -> None:
        if self.options.envoy_edit is not None:
            self.options.envoy_edit(document)
        if self.options.patient:
            patient(document)
            patient_with_log(document)


def wait_until(good: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + HANG_S
    while not good():
        if time.monotonic() > deadline:
            raise ServerStartError(f"{what}: not well after {HANG_S:.0f} s")
        time.sleep(0.02)


METRICS = "(a free port)"
PROBE = b"GET / HTTP/1.0\r\n\r\n"
READY = b"GET /readyz HTTP/1.0\r\n\r\n"
LOGIN = b"GET /admin/login/ HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n"
# A command starts, and does all its work: on shared cores that is long.
COMMAND_S = 3 * HANG_S


def run_aforo(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, within_s: float = COMMAND_S
) -> str:
    """Run one of our commands to its end and return what it printed.

    Raises:
        StackCommandError: It failed, or did not end in time.
    """
    command = " ".join([module, *arguments])
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **(env or {})},
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=within_s,
        )
    except subprocess.TimeoutExpired as error:
        raise StackCommandError(f"{command} did not end within {within_s:g} s") from error
    if done.returncode != 0:
        raise StackCommandError(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def stopped(programs: Sequence[Program]) -> Iterator[None]:
    """Keep some processes stopped while the body runs."""
    for program in programs:
        program.stop()
    try:
        yield
    finally:
        for program in programs:
            program.start()
