"""What control planes' own code makes of our resources, for our Envoy.

No control plane runs here. `translated/` holds what the code of Istio and of Envoy Gateway wrote
when it was given the overlays (`make istio-translate`, `make egctl-translate`); a test tells when
an overlay has changed since. Of it, what the lab can't have is replaced: what is asked for over xDS
stands in the file, addresses are the lab's, and clusters have our names. Filters of Istio's own
build of Envoy (its metadata and ALPN) are left out: they neither read nor change what we do.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.contract.envoy_lab import cluster
from tests.deploy.rendering import ROOT, Document, rendered

MADE_BY: Final = {"istio": "istio-translate", "envoy-gateway": "egctl-translate"}
TRANSLATED: Final = Path(__file__).parent / "translated"
MESH: Final = ROOT / "k8s" / "overlays" / "istio" / "mesh-config.yaml"
# How planes name the clusters that we know under these names.
CLUSTERS: Final[Mapping[str, str]] = {
    r"outbound\|9191\|\|authz\..*|securitypolicy/.*": "aforo_authz",
    r"outbound\|9192\|\|ship\..*|accesslog_als_.*": "aforo_als",
    r"outbound\|8080\|\|api\..*|httproute/.*": "api",
}
# What comes over xDS, or names the build of Envoy that has it.
NOT_HERE: Final = frozenset({"eds_cluster_config", "transport_socket_matches", "filters"})


def as_istio(document: Document) -> None:
    """Make what istiod makes of a mesh's configuration and of overlay `istio`."""
    _put(document, translation("istio"))


def as_envoy_gateway(document: Document) -> None:
    """Make what Envoy Gateway makes of overlay `envoy-gateway`."""
    _put(document, translation("envoy-gateway"))


def translation(name: str) -> Document:
    """Return `listeners`, `clusters`, `routes`, and the digest of what they were `made_of`."""
    return deepcopy(_read(name))


@cache
def _read(name: str) -> Document:
    found: Document = json.loads((TRANSLATED / f"{name}.json").read_text())
    return found


def mesh_config() -> Document:
    found: Document = yaml.safe_load(MESH.read_text())["meshConfig"]
    return found


def made_of(name: str) -> str:
    """Return the digest of what a translation depends on: resources, and the plane's version.

    Versions of images say nothing there.
    """
    told: list[Any] = [*rendered(name), _versions(name)]
    if name == "istio":
        told += [mesh_config(), (Path(__file__).parent / "istio" / "main.go").read_text()]
    text = re.sub(r'"image": "[^"]*"', '"image": ""', json.dumps(told, sort_keys=True))
    return hashlib.sha256(text.encode()).hexdigest()


def _versions(name: str) -> list[str]:
    variable = {"istio": "ISTIO", "envoy-gateway": "EGCTL"}[name]
    return re.findall(rf"^{variable} := .*", (ROOT / "Makefile").read_text(), re.MULTILINE)


def write(name: str, listeners: Any, clusters: Any, routes: Any) -> None:
    """Keep a translation, in snake case, as `control_planes` reads it."""
    parts = {"listeners": listeners, "clusters": clusters, "routes": routes}
    TRANSLATED.mkdir(exist_ok=True)
    text = json.dumps({"made_of": made_of(name), **snake(parts)}, indent=1, sort_keys=True)
    (TRANSLATED / f"{name}.json").write_text(text + "\n")


def snake(value: Any) -> Any:
    """Return a message with its fields as they stand in the definitions, which Envoy takes too."""
    if isinstance(value, dict):
        return {_snake(name): snake(part) for name, part in value.items()}
    return [snake(part) for part in value] if isinstance(value, list) else value


def _snake(name: str) -> str:
    # Names of filters and types are no fields.
    if not re.fullmatch(r"[a-z][A-Za-z0-9]*", name):
        return name
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _put(document: Document, made: Document) -> None:
    """Replace the lab's listener and clusters by a plane's, at the lab's addresses."""
    (listener,) = document["static_resources"]["listeners"]
    theirs = _with_our_names(made)
    (told,) = (each for each in theirs["listeners"] if _is_of_callers(each))
    chain = told.pop("default_filter_chain", None) or told["filter_chains"][0]
    hcm = chain["filters"][0]["typed_config"]
    named = hcm.pop("rds")["route_config_name"]
    (hcm["route_config"],) = (each for each in theirs["routes"] if each["name"] == named)
    hcm["http_filters"] = [each for each in hcm["http_filters"] if not _is_istios(each)]
    kept = {name: listener[name] for name in ("name", "address")}
    listener.clear()
    listener |= told | kept | {"filter_chains": [chain]}
    for name in ("api", "aforo_authz", "aforo_als"):
        (settings,) = (each for each in theirs["clusters"] if each["name"] == name)
        _replace(cluster(document, name), settings)


def _is_of_callers(listener: Document) -> bool:
    chains = listener.get("filter_chains", [listener.get("default_filter_chain", {})])
    return "rds" in chains[0]["filters"][0]["typed_config"]


def _is_istios(http_filter: Document) -> bool:
    name: str = http_filter["name"]
    return name.startswith("istio.")


def _with_our_names(made: Document) -> Document:
    ours = {
        each["name"]: name
        for each in made["clusters"]
        for pattern, name in CLUSTERS.items()
        if re.fullmatch(pattern, each["name"])
    }
    return {part: _renamed(made[part], ours) for part in ("listeners", "clusters", "routes")}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _renamed(part, names) for name, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def _replace(ours: Document, settings: Document) -> None:
    """Leave of a cluster its addresses: endpoints of one Service, asked by turns."""
    places = ours["load_assignment"]["endpoints"]
    endpoints = [each for place in places for each in place["lb_endpoints"]]
    name = ours["name"]
    ours.clear()
    ours |= {key: part for key, part in settings.items() if key not in NOT_HERE}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
    ours |= {"type": "STATIC", "load_assignment": assignment}
