"""What a control plane makes of our resources, as its documentation has it, on our Envoy.

Only what these resources say is new. Listeners, routes and clusters are `envoy/aforo.yaml`'s,
without its hygiene, filters and settings, which a control plane does not know.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Final

from tests.contract.envoy_lab import ext_authz, http_filters, manager
from tests.deploy.rendering import Document

EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
ROUTER: Final = "envoy.filters.http.router"
# How Envoy Gateway names the filter of a SecurityPolicy.
GATEWAY_FILTER: Final = f"{EXT_AUTHZ}/securitypolicy/gateway/aforo"
KEPT: Final = ("@type", "stat_prefix", "access_log", "route_config", "http_filters")


def bare(document: Document) -> None:
    """Leave of a configuration what is not Aforo's doing: one check, the log, the routes."""
    hcm = manager(document)
    for name in [name for name in hcm if name not in KEPT]:
        del hcm[name]
    del hcm["route_config"]["response_headers_to_remove"]
    for route in hcm["route_config"]["virtual_hosts"][0]["routes"]:
        kept = route.pop("typed_per_filter_config", {}).get(EXT_AUTHZ)
        if kept:
            route["typed_per_filter_config"] = {EXT_AUTHZ: kept}
    hcm["http_filters"] = [
        each for each in hcm["http_filters"] if each["name"] in {EXT_AUTHZ, ROUTER}
    ]
    check = ext_authz(document)
    asked = {"envoy_grpc": {"cluster_name": "aforo_authz"}}
    kind = check["@type"]
    check.clear()
    check.update({"@type": kind, "transport_api_version": "V3", "grpc_service": asked})


def as_istio(document: Document, provider: Document, patches: Sequence[Document]) -> None:
    """Make the check of an extension provider, then put an EnvoyFilter's patches where they go."""
    bare(document)
    check = ext_authz(document)
    check["grpc_service"]["timeout"] = provider["timeout"]
    check["failure_mode_allow"] = provider["failOpen"]
    check["status_on_error"] = {"code": int(provider["statusOnError"])}
    (listener,) = document["static_resources"]["listeners"]
    for each in patches:
        patch = deepcopy(each["patch"])
        if each["applyTo"] == "LISTENER":
            merge(listener, patch["value"])
        elif each["applyTo"] == "NETWORK_FILTER":
            merge(listener["filter_chains"][0]["filters"][0], patch["value"])
        elif each["applyTo"] == "ROUTE_CONFIGURATION":
            merge(manager(document)["route_config"], patch["value"])
        else:
            _patch_filter(document, each, patch)


def _patch_filter(document: Document, each: Document, patch: Document) -> None:
    assert each["applyTo"] == "HTTP_FILTER", each["applyTo"]
    name = each["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"]
    filters = http_filters(document)
    (at,) = (index for index, one in enumerate(filters) if one["name"] == name)
    if patch["operation"] == "MERGE":
        merge(filters[at], patch["value"])
    else:
        assert patch["operation"] == "INSERT_BEFORE", patch["operation"]
        filters.insert(at, patch["value"])


def merge(into: Document, value: Document) -> None:
    """Merge as protobuf does: messages into each other, lists one after the other."""
    for name, part in value.items():
        old = into.get(name)
        if isinstance(old, dict) and isinstance(part, dict):
            merge(old, part)
        elif isinstance(old, list) and isinstance(part, list):
            old.extend(part)
        else:
            into[name] = part


def as_envoy_gateway(document: Document, resources: Sequence[Document]) -> None:
    """Make what SecurityPolicy, ClientTrafficPolicy, HTTPRoute and EnvoyPatchPolicy say."""
    bare(document)
    by_kind = {each["kind"]: each["spec"] for each in resources if "spec" in each}
    _check_of(document, by_kind["SecurityPolicy"]["extAuth"])
    _hygiene_of(manager(document), by_kind["ClientTrafficPolicy"])
    (rule,) = by_kind["HTTPRoute"]["rules"]
    manager(document)["route_config"]["response_headers_to_remove"] = rule["filters"][0][
        "responseHeaderModifier"
    ]["remove"]
    for patch in by_kind["EnvoyPatchPolicy"]["jsonPatches"]:
        _json_patch(document, patch["operation"])


def _check_of(document: Document, said: Document) -> None:
    check = ext_authz(document)
    check["grpc_service"]["timeout"] = f"{int(said['timeout'].removesuffix('ms')) / 1000}s"
    check["failure_mode_allow"] = said["failOpen"]
    check["status_on_error"] = {"code": said["statusOnError"]}
    for each in http_filters(document):
        if each["name"] == EXT_AUTHZ:
            each["name"] = GATEWAY_FILTER
    for route in manager(document)["route_config"]["virtual_hosts"][0]["routes"]:
        own = route.get("typed_per_filter_config", {})
        if EXT_AUTHZ in own:
            own[GATEWAY_FILTER] = own.pop(EXT_AUTHZ)


def _hygiene_of(hcm: Document, said: Document) -> None:
    early = said["headers"]["earlyRequestHeaders"]
    kind = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    mutations: list[Any] = [{"remove": name} for name in early["remove"]]
    for each in early["removeOnMatch"]:
        assert each["type"] == "Prefix"
        matcher = {"prefix": each["value"], "ignore_case": True}
        mutations.append({"remove_on_match": {"key_matcher": matcher}})
    hcm["early_header_mutation_extensions"] = [
        {
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {"@type": f"type.googleapis.com/{kind}", "mutations": mutations},
        }
    ]
    assert said["path"]["escapedSlashesAction"] == "RejectRequest"
    hcm |= {
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
    }


def _json_patch(document: Document, operation: Document) -> None:
    """Apply an `add` to the listener; Envoy Gateway's has one chain, the default."""
    assert operation["op"] == "add"
    (listener,) = document["static_resources"]["listeners"]
    place: Any = {"default_filter_chain": listener["filter_chains"][0]}
    *path, last = operation["path"].strip("/").split("/")
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place.insert(int(last), operation["value"])
