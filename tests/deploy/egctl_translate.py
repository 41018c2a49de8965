"""What Envoy Gateway's own translator makes of the overlay, in a real Envoy and beside our guess.

    make egctl-translate

It needs Go. Each resource must be accepted, Envoy must take what comes of it, and what tests run
(`control_planes.py`) must be in it. Settings that it has beyond that are printed.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

from lab.servers import envoy_binary
from tests.contract.envoy_lab import cluster, manager
from tests.deploy.control_planes import as_envoy_gateway
from tests.deploy.rendering import ROOT, Document, rendered, title

GATEWAY: Final = "gateway/aforo"
LISTENER: Final = "gateway/aforo/http"
# What a cluster gives a Service, and what somebody else's HTTPRoute leads to.
ADDRESS: Final = "10.96.0.1"
API: Final[Document] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"namespace": "gateway", "name": "api"},
    "spec": {"clusterIP": ADDRESS, "ports": [{"name": "http", "port": 8080}]},
}
# Of our guess: names that are ours, and the lab's one route and addresses.
OURS: Final = frozenset({"name", "cluster_name", "stat_prefix", "route_config", "load_assignment"})
CODES: Final = {"ServiceUnavailable": 503}


def main(arguments: Sequence[str]) -> int:
    (program,) = arguments
    told = translated(program, with_services(rendered("envoy-gateway")))
    faults = [*refusals(told)]
    (dump,) = (each["configs"] for name, each in told["xds"].items() if name == GATEWAY)
    real = as_file(dump)
    faults += envoy_complaints(real)
    guess = yaml.safe_load((ROOT / "envoy" / "aforo.yaml").read_text())
    as_envoy_gateway(guess, rendered("envoy-gateway"))
    missing, more = compared(guess, real)
    for line in more:
        sys.stdout.write(f"beyond what tests run: {line}\n")
    for line in (*faults, *missing):
        sys.stderr.write(f"{line}\n")
    return 1 if faults or missing else 0


def with_services(documents: Sequence[Document]) -> list[Document]:
    """Add the Services that a cluster would have, with addresses."""
    (ship,) = (deepcopy(each) for each in rendered("prod") if title(each) == "Service ship")
    ship["spec"]["clusterIP"] = ADDRESS
    aforo = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "aforo"}}
    return [*documents, aforo, ship, API]


def translated(program: str, documents: Sequence[Document]) -> Document:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "resources.yaml")
        path.write_text(yaml.safe_dump_all(documents))
        done = subprocess.run(
            [
                *(program, "x", "translate", "--from", "gateway-api", "--to", "gateway-api,xds"),
                *("--output", "json", "--file", str(path)),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        sys.exit(f"egctl refused the overlay: {done.stderr}")
    found: Document = json.loads(done.stdout)
    return found


def refusals(told: Any) -> Iterator[str]:
    """Yield what any resource's status says that is not `True`."""
    if isinstance(told, list):
        for each in told:
            yield from refusals(each)
    elif isinstance(told, dict):
        for name, part in told.items():
            if name == "xds":
                continue
            if name == "status":
                about = f"{told.get('kind', '?')} {told.get('metadata', {}).get('name', '?')}"
                yield from (f"{about}: {each}" for each in _untrue(part))
            else:
                yield from refusals(part)


def _untrue(status: Any) -> Iterator[str]:
    if isinstance(status, list):
        for each in status:
            yield from _untrue(each)
    elif isinstance(status, dict):
        if "type" in status and status.get("status") not in {None, "True"}:
            yield f"{status['type']} is {status['status']}: {status.get('message', '')}"
        for part in status.values():
            yield from _untrue(part)


def as_file(dump: Sequence[Document]) -> Document:
    """Return a configuration that Envoy reads from a file: nobody there to ask for the rest."""
    listeners = [each["listener"] for each in _resources(dump, "activeState")]
    routes = {each["name"]: each for each in _resources(dump, "routeConfig")}
    endpoints = {each["clusterName"]: each for each in _resources(dump, "endpointConfig")}
    clusters = list(_resources(dump, "cluster"))
    for each in (*listeners, *routes.values(), *endpoints.values(), *clusters):
        each.pop("@type")
    for listener in listeners:
        hcm = listener["defaultFilterChain"]["filters"][0]["typedConfig"]
        hcm["routeConfig"] = routes[hcm.pop("rds")["routeConfigName"]]
    for each in clusters:
        found = each.pop("edsClusterConfig", None)
        if found is not None:
            each["loadAssignment"] = endpoints[found["serviceName"]]
            each["type"] = "STATIC"
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _resources(dump: Sequence[Document], kind: str) -> Iterator[Document]:
    for config in dump:
        for entries in config.values():
            if isinstance(entries, list):
                yield from (each[kind] for each in entries if kind in each)


def envoy_complaints(document: Document) -> list[str]:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "envoy.json")
        path.write_text(json.dumps(document))
        done = subprocess.run(
            [str(envoy_binary()), "--mode", "validate", "-c", str(path), "--log-level", "error"],
            check=False,
            capture_output=True,
            text=True,
        )
    return [] if done.returncode == 0 else [f"Envoy refuses it: {done.stderr}"]


def compared(guess: Document, real: Document) -> tuple[list[str], list[str]]:
    """Return what tests run and Envoy Gateway does not make, and what it makes beyond that."""
    told = plain(real["static_resources"])
    (listener,) = (each for each in told["listeners"] if each["name"] == LISTENER)
    (assumed,) = plain(guess)["static_resources"]["listeners"]
    chain = "default_filter_chain"
    hcm = listener[chain]["filters"][0]["typed_config"]
    (route,) = hcm["route_config"]["virtual_hosts"][0]["routes"]
    (our_route,) = plain(manager(guess))["route_config"]["virtual_hosts"][0]["routes"]
    limit = "per_connection_buffer_limit_bytes"
    pairs = [
        ("listener", {limit: assumed[limit]}, {limit: listener[limit]}),
        ("manager", plain(manager(guess)), hcm),
        ("route", {k: our_route[k] for k in our_route if k not in {"match", "route"}}, route),
    ]
    for ours, part in (("aforo_authz", "securitypolicy"), ("aforo_als", "accesslog")):
        (theirs,) = (each for each in told["clusters"] if part in each["name"])
        pairs.append((ours, plain(cluster(guess, ours)), theirs))
    missing: list[str] = []
    more: list[str] = []
    for name, left, right in pairs:
        missing += beyond(name, left, right)
        more += beyond(name, right, left)
    return missing, more


def plain(value: Any) -> Any:
    """Return a value as protobuf's JSON spells it in snake case, without what says nothing."""
    if isinstance(value, dict):
        return {
            _snake(name): plain(part)
            for name, part in value.items()
            if part is not False and part is not None
        }
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?s", value):
        return f"{float(value[:-1]):g}s"
    return CODES.get(value, value) if isinstance(value, str) else value


def _snake(name: str) -> str:
    # Names of filters and types are no fields.
    if not re.fullmatch(r"[a-z][A-Za-z0-9]*", name):
        return name
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def beyond(at: str, left: Any, right: Any) -> Iterator[str]:
    """Yield what is in one and not in the other."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name, part in left.items():
            if name in OURS and "http_filters" not in at and "mutations" not in at:
                continue
            if name not in right:
                yield f"{at}.{name} = {json.dumps(part)[:200]}"
            elif name != "cluster_name":
                yield from beyond(f"{at}.{name}", part, right[name])
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from beyond(f"{at}[{number}]", one, other)
    elif left != right:
        yield f"{at} = {json.dumps(left)[:200]}, not {json.dumps(right)[:200]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
