"""What a control plane makes of our resources, as its documentation has it, for our Envoy.

No control plane runs here. What is here was written after what their own tests expect them to
make: Istio's of its builders of policies and access logs, Envoy Gateway's of its translator. All
that these resources say comes from them; what a plane adds on its own stands here. Names of
clusters are ours, and their endpoints' addresses the lab's. Filters of a plane's own build of
Envoy (its statistics and metadata) are left out: none of them reads or changes what we do.
"""

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Final

from tests.contract.envoy_lab import cluster, http_filters, manager
from tests.deploy.rendering import Document

TYPE: Final = "type.googleapis.com/envoy."
EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
RBAC: Final = "envoy.filters.http.rbac"
ROUTER: Final = "envoy.filters.http.router"
MANAGER: Final = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# How Envoy Gateway names the filter of a SecurityPolicy.
GATEWAY_FILTER: Final = f"{EXT_AUTHZ}/securitypolicy/gateway/aforo"


def as_istio(
    document: Document, resources: Sequence[Document], providers: dict[str, Document]
) -> None:
    """Make what istiod makes of a mesh's providers and of the resources that name them.

    A policy becomes two filters: one marks the requests that it is about, and the check is for
    marked ones. Then come the patches of the EnvoyFilter.
    """
    by_kind = {each["kind"]: each["spec"] for each in resources}
    (logger,) = by_kind["Telemetry"]["accessLogging"][0]["providers"]
    (rule,) = by_kind["AuthorizationPolicy"]["rules"]
    named = by_kind["AuthorizationPolicy"]["provider"]["name"]
    provider = providers[named]["envoyExtAuthzGrpc"]
    check = _check(provider["timeout"], fail_open=provider["failOpen"])
    check["typed_config"] |= {
        "status_on_error": {"code": int(provider["statusOnError"])},
        "filter_enabled_metadata": {
            "filter": RBAC,
            "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": f"istio-ext-authz-{named}"}},
        },
    }
    als = providers[logger["name"]]["envoyHttpAls"]
    _plain(
        document,
        filters=[
            _marks(rule, named),
            check,
            _typed(ROUTER, "extensions.filters.http.router.v3.Router"),
        ],
        log=_access_log(
            als["logName"],
            request=als["additionalRequestHeadersToLog"],
            response=als["additionalResponseHeadersToLog"],
            trailers=als["additionalResponseTrailersToLog"],
        ),
    )
    rules = [each["spec"] for each in resources if each["kind"] == "DestinationRule"]
    for name, service in (("aforo_authz", provider["service"]), ("aforo_als", als["service"])):
        (told,) = (each["trafficPolicy"] for each in rules if each["host"] == service)
        _replace(cluster(document, name), _istio_cluster(told))
    _patch(document, by_kind["EnvoyFilter"]["configPatches"])


def _marks(rule: Document, provider: str) -> Document:
    """Return the filter that says which requests a policy is about."""
    assert rule == {}, "a path that is exempt is so at every upstream"
    about = {"and_rules": {"rules": [{"any": True}]}}
    marks = _typed(RBAC, "extensions.filters.http.rbac.v3.RBAC")
    anybody = {"and_ids": {"ids": [{"any": True}]}}
    policy = {"permissions": [about], "principals": [anybody]}
    marks["typed_config"] |= {
        "shadow_rules": {
            "action": "DENY",
            "policies": {
                f"istio-ext-authz-{provider}-ns[istio-ingress]-policy[aforo]-rule[0]": policy
            },
        },
        "shadow_rules_stat_prefix": "istio_ext_authz_",
    }
    return marks


def _istio_cluster(policy: Document) -> Document:
    pool, outliers = policy["connectionPool"], policy["outlierDetection"]
    tcp, http = pool["tcp"], pool.get("http", {})
    keepalive = tcp["tcpKeepalive"]
    return {
        "connect_timeout": tcp["connectTimeout"],
        "lb_policy": "LEAST_REQUEST",
        "upstream_connection_options": {
            "tcp_keepalive": {
                "keepalive_probes": keepalive["probes"],
                "keepalive_time": int(keepalive["time"].removesuffix("s")),
                "keepalive_interval": int(keepalive["interval"].removesuffix("s")),
            }
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    **dict.fromkeys(("max_connections", "max_pending_requests"), 4294967295),
                    "max_requests": http.get("http2MaxRequests", 4294967295),
                    "max_retries": http.get("maxRetries", 4294967295),
                    "track_remaining": True,
                }
            ]
        },
        "outlier_detection": {
            "consecutive_gateway_failure": outliers["consecutiveGatewayErrors"],
            "enforcing_consecutive_gateway_failure": 100,
            "interval": outliers["interval"],
            "base_ejection_time": outliers["baseEjectionTime"],
            "max_ejection_percent": outliers["maxEjectionPercent"],
        },
    }


def _patch(document: Document, patches: Sequence[Document]) -> None:
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
    """Make what Envoy Gateway makes of EnvoyProxy, the policies, HTTPRoute and patches.

    The check stands in the listener, switched off; routes under the policy switch it on.
    """
    by_kind = {each["kind"]: each["spec"] for each in resources if "spec" in each}
    said = by_kind["SecurityPolicy"]["extAuth"]
    timeout_s = int(said["timeout"].removesuffix("ms")) / 1000
    check = _check(f"{timeout_s}s", fail_open=said["failOpen"])
    check |= {"name": GATEWAY_FILTER, "disabled": True}
    check["typed_config"]["status_on_error"] = {"code": said["statusOnError"]}
    router = _typed(ROUTER, "extensions.filters.http.router.v3.Router")
    router["typed_config"]["suppress_envoy_headers"] = True
    settings = by_kind["EnvoyProxy"]["telemetry"]["accessLog"]["settings"]
    sink = settings[0]["sinks"][0]["als"]
    log = _access_log(
        sink["logName"],
        request=sink["http"]["requestHeaders"],
        response=sink["http"]["responseHeaders"],
        trailers=sink["http"]["responseTrailers"],
    )
    _plain(document, filters=[check, router], log=log)
    hcm = manager(document)
    _hygiene_of(hcm, by_kind["ClientTrafficPolicy"])
    (rule,) = by_kind["HTTPRoute"]["rules"]
    (route,) = hcm["route_config"]["virtual_hosts"][0]["routes"]
    route["response_headers_to_remove"] = rule["filters"][0]["responseHeaderModifier"]["remove"]
    own = {"@type": f"{TYPE}extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"}
    route["typed_per_filter_config"] = {GATEWAY_FILTER: own | {"check_settings": {}}}
    for name in ("aforo_authz", "aforo_als"):
        _replace(cluster(document, name), GATEWAY_CLUSTER)
    (listener,) = document["static_resources"]["listeners"]
    limit = by_kind["ClientTrafficPolicy"]["connection"]["bufferLimit"]
    listener["per_connection_buffer_limit_bytes"] = int(limit.removesuffix("Mi")) * 1024 * 1024
    for each in resources:
        if each["kind"] == "EnvoyPatchPolicy":
            for patch in each["spec"]["jsonPatches"]:
                _json_patch(document, patch["operation"])


# Of a Backend and of a sink that say nothing of it.
GATEWAY_CLUSTER: Final = {
    "connect_timeout": "10s",
    "lb_policy": "LEAST_REQUEST",
    "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
    "common_lb_config": {},
    "per_connection_buffer_limit_bytes": 32768,
}


def _hygiene_of(hcm: Document, said: Document) -> None:
    early = said["headers"]["earlyRequestHeaders"]
    kind = "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    mutations: list[Any] = [{"remove": name} for name in early["remove"]]
    for each in early["removeOnMatch"]:
        assert each["type"] == "Prefix"
        matcher = {"prefix": each["value"], "ignore_case": True}
        mutations.append({"remove_on_match": {"key_matcher": matcher}})
    mutation = _typed("envoy.http.early_header_mutation.header_mutation", kind)
    mutation["typed_config"]["mutations"] = mutations
    assert said["path"]["escapedSlashesAction"] == "RejectRequest"
    assert said["headers"]["withUnderscoresAction"] == "RejectRequest"
    hcm |= {
        "early_header_mutation_extensions": [mutation],
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
    }


# The only question that our patches ask: for the filter of a name.
OF_A_NAME: Final = re.compile(r"\[\?\(@\.name=='(.+?)'\)\]")


def _json_patch(document: Document, operation: Document) -> None:
    """Apply an `add` to the listener; Envoy Gateway's has one chain, the default."""
    assert operation["op"] == "add"
    (listener,) = document["static_resources"]["listeners"]
    place: Any = {"default_filter_chain": listener["filter_chains"][0]}
    pointer: str = operation["path"]
    *path, last = [*_parts(operation.get("jsonPath", "$")), *pointer.split("/")[1:]]
    for part in path:
        if isinstance(place, dict):
            place = place[part]
        elif part.isdecimal():
            place = place[int(part)]
        else:
            (place,) = (each for each in place if each["name"] == part)
    value = deepcopy(operation["value"])
    if isinstance(place, list):
        place.insert(int(last), value)
    else:
        place[last] = value


def _parts(json_path: str) -> list[str]:
    """Return the names and indexes of a path; the filter of a name is found by it."""
    before, _, behind = json_path.removeprefix("$").partition("[?")
    found: list[str] = OF_A_NAME.findall(json_path)
    after = behind.partition("]")[2]
    parts: list[str] = re.findall(r"\w+", before)
    return [*parts, *found, *re.findall(r"\w+", after)]


def _plain(document: Document, *, filters: list[Document], log: Document) -> None:
    """Leave of our own configuration the listener's address and the clusters': all is one route."""
    (listener,) = document["static_resources"]["listeners"]
    hcm = {
        "@type": f"{TYPE}{MANAGER}",
        "stat_prefix": "ingress",
        "access_log": [log],
        "route_config": {
            "name": "http",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "api"}}],
                }
            ],
        },
        "http_filters": filters,
    }
    listener.pop("per_connection_buffer_limit_bytes", None)
    listener["filter_chains"][0]["filters"][0]["typed_config"] = hcm


def _typed(name: str, kind: str) -> Document:
    return {"name": name, "typed_config": {"@type": f"{TYPE}{kind}"}}


def _check(timeout: str, *, fail_open: bool) -> Document:
    found = _typed(EXT_AUTHZ, "extensions.filters.http.ext_authz.v3.ExtAuthz")
    found["typed_config"] |= {
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "aforo_authz"}, "timeout": timeout},
        "failure_mode_allow": fail_open,
    }
    return found


def _access_log(
    log_name: str, *, request: list[str], response: list[str], trailers: list[str]
) -> Document:
    """Return a log to ship. Neither plane says when it is flushed: a second is Envoy's own."""
    found = _typed(
        "envoy.access_loggers.http_grpc",
        "extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    )
    found["typed_config"] |= {
        "common_config": {
            "log_name": log_name,
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "aforo_als"}},
        },
        "additional_request_headers_to_log": request,
        "additional_response_headers_to_log": response,
        "additional_response_trailers_to_log": trailers,
    }
    return found


def _replace(ours: Document, settings: Document) -> None:
    """Leave of a cluster its name and addresses: endpoints of one Service, asked by turns."""
    places = ours["load_assignment"]["endpoints"]
    endpoints = [each for place in places for each in place["lb_endpoints"]]
    name = ours["name"]
    ours.clear()
    ours |= {
        "name": name,
        **deepcopy(settings),
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
