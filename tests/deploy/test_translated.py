"""What control planes' code made of our resources has all of what we asked them for.

A plane may accept a patch and apply it nowhere; and the lab waits longer for a check than is said.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from tests.deploy.control_planes import MADE_BY, made_of, translation
from tests.deploy.patches import has, nodes, patches, plain, unapplied
from tests.deploy.rendering import ROOT, Document

PLANES: Final = ("istio", "envoy-gateway")
# What policies say in words of their own, as Envoy is told it.
CHECK: Final[Document] = {
    "grpc_service": {"timeout": "0.25s"},
    "failure_mode_allow": True,
    "failure_mode_allow_header_add": True,
    "validate_mutations": True,
    "decoder_header_mutation_rules": {"disallow_all": True},
    "disallowed_headers": {"patterns": [{"exact": "cookie", "ignore_case": True}]},
    "metadata_context_namespaces": ["envoy.filters.http.jwt_authn"],
    "stat_prefix": "aforo",
}
MANAGER: Final[Document] = {
    "access_log_options": {"access_log_flush_interval": "30s"},
    "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
    "normalize_path": True,
    "merge_slashes": True,
    "use_remote_address": True,
}
NOBODY_ELSE_SAYS: Final = (
    {"remove_on_match": {"key_matcher": {"prefix": "x-aforo-"}}},  # Envoy has names in lower case.
    {"remove": "x-envoy-auth-failure-mode-allowed"},
)
# How soon a receiver that went away without a word is given up, and a hanging authz.
KEEPALIVE: Final = {"interval": "5s", "timeout": "1s"}
# By what Envoy's outlier detection would take an endpoint out: each is on where nothing is said.
ENFORCED: Final = (
    "enforcing_consecutive_5xx",
    "enforcing_consecutive_gateway_failure",
    "enforcing_success_rate",
)
BUFFER_BYTES: Final = 8 * 1024 * 1024


@pytest.fixture(params=PLANES)
def plane(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def made(plane: str) -> Document:
    found: Document = plain(translation(plane))
    return found


def filters(made: Document) -> Iterator[Document]:
    yield from (each for each in nodes(made) if isinstance(each, dict) and "typed_config" in each)


def of_type(made: Document, ending: str) -> list[Document]:
    found = [each["typed_config"] for each in filters(made)]
    return [each for each in found if each.get("@type", "").endswith(ending)]


def test_it_was_made_of_the_overlay_as_it_is(plane: str) -> None:
    told = f"make {MADE_BY[plane]}, and commit the result"

    assert translation(plane)["made_of"] == made_of(plane), told


def test_every_patch_was_applied(plane: str, made: Document) -> None:
    assert len([*patches(plane)]) > 5
    assert unapplied(plane, made) == []


def test_a_patch_that_was_not_applied_is_missed(plane: str, made: Document) -> None:
    (check,) = of_type(made, ".ExtAuthz")
    del check["validate_mutations"]

    assert unapplied(plane, made) != []


def test_the_check_is_as_the_policies_say(made: Document) -> None:
    (check,) = of_type(made, ".ExtAuthz")

    assert {name: part for name, part in CHECK.items() if not has(check.get(name), part)} == {}
    assert check["status_on_error"]["code"] in {503, "ServiceUnavailable"}


def test_requests_are_read_as_the_policies_say(made: Document) -> None:
    (manager,) = managers(made)

    assert {name: part for name, part in MANAGER.items() if not has(manager.get(name), part)} == {}
    (hygiene,) = manager["early_header_mutation_extensions"]
    said = hygiene["typed_config"]["mutations"]
    assert all(any(has(each, wanted) for each in said) for wanted in NOBODY_ELSE_SAYS)


def test_callers_are_told_no_more_than_they_may(made: Document) -> None:
    removed = [each["response_headers_to_remove"] for each in nodes(made) if has_removal(each)]

    assert removed
    assert all({"x-aforo-tenant", "x-margin-guard"} <= set(each) for each in removed)


def has_removal(node: Any) -> bool:
    return isinstance(node, dict) and "response_headers_to_remove" in node


def test_an_answer_of_a_model_is_held_whole(made: Document) -> None:
    held = [each.get("per_connection_buffer_limit_bytes") for each in made["listeners"]]

    assert BUFFER_BYTES in held


def test_aforo_is_asked_for_its_health_as_by_our_own_configuration(made: Document) -> None:
    """And as soon: a cluster that is not used yet would be asked once a minute."""
    own = plain(yaml.safe_load((ROOT / "envoy" / "aforo.yaml").read_text()))

    for name, of_theirs in (("aforo_authz", "authz|extauth"), ("aforo_als", "ship|accesslog")):
        (ours,) = (each for each in own["static_resources"]["clusters"] if each["name"] == name)
        (theirs,) = (each for each in made["clusters"] if re.search(of_theirs, each["name"]))
        assert theirs["health_checks"] == ours["health_checks"]
        judged = theirs.get("outlier_detection")
        takes_out = judged is not None and any(judged.get(kind) != 0 for kind in ENFORCED)
        assert not takes_out
        assert theirs["ignore_health_on_host_removal"]
        balancing = theirs["common_lb_config"]
        assert balancing["update_merge_window"] == ours["common_lb_config"]["update_merge_window"]
        assert not balancing["healthy_panic_threshold"].get("value")


def test_a_check_that_reached_nobody_is_asked_again(made: Document) -> None:
    (check,) = of_type(made, ".ExtAuthz")
    retry = check["grpc_service"]["retry_policy"]

    assert retry["num_retries"] == 2
    assert set(retry["retry_on"].split(",")) == {"connect-failure", "refused-stream"}


def test_a_call_may_take_long_and_ends_in_silence(plane: str, made: Document) -> None:
    """A model's answer takes minutes, and a call that never ends is never charged."""
    routes = [
        each["route"]
        for node in nodes(made["routes"])
        if isinstance(node, dict) and isinstance(node.get("routes"), list)
        for each in node["routes"]
        if "route" in each
    ]
    (manager,) = managers(made)
    # Istio says it of all that the gateway does, Envoy Gateway of each route.
    silent = [manager] if plane == "istio" else routes
    name = "stream_idle_timeout" if plane == "istio" else "idle_timeout"

    assert routes
    assert {route["timeout"] for route in routes} == {"0s"}
    assert {each.get(name) for each in silent} == {"900s"}


def managers(made: Document) -> list[Document]:
    return [
        each
        for each in of_type(made, ".HttpConnectionManager")
        if any("ExtAuthz" in str(part) for part in each["http_filters"])
    ]


def test_who_goes_away_without_a_word_is_noticed(made: Document) -> None:
    (ship,) = (each for each in made["clusters"] if re.search(r"ship|accesslog", each["name"]))
    (authz,) = (each for each in made["clusters"] if re.search("authz|extauth", each["name"]))

    assert any(has(node, {"connection_keepalive": KEEPALIVE}) for node in nodes(ship))
    assert any(isinstance(n, dict) and "connection_keepalive" in n for n in nodes(authz))
    for each in (ship, authz):
        assert each["connect_timeout"] == "0.2s"
    (limits,) = authz["circuit_breakers"]["thresholds"]
    assert (limits["max_requests"], limits["max_retries"]) == (10000, 10000)
