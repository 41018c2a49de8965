"""The shipped Envoy configuration as a text: what must hold before anything runs."""

import subprocess
from typing import Any

import pytest
import yaml

from lab.envoy import envoy_binary
from tests.contract.envoy_lab import SHIPPED, ext_authz, http_filters, manager

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    return parsed


def routes(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the routes by name, in the order in which Envoy tries them."""
    (host,) = manager(document)["route_config"]["virtual_hosts"]
    return {route["name"]: route for route in host["routes"]}


def test_envoy_accepts_the_file_as_it_is_shipped() -> None:
    done = subprocess.run(
        [str(envoy_binary()), "--mode", "validate", "-c", str(SHIPPED), "--log-level", "error"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout


def test_nothing_reads_or_buffers_a_body_before_the_check(document: dict[str, Any]) -> None:
    names = [one["name"].removeprefix("envoy.filters.http.") for one in http_filters(document)]

    assert names == ["ext_authz", "buffer", "lua", "mcp", "ai_protocol_manager", "router"]


def test_only_the_throttle_header_can_change_the_route_after_the_check(
    document: dict[str, Any],
) -> None:
    check = ext_authz(document)

    assert check["clear_route_cache_headers"] == ["x-aforo-throttle"]
    assert check["decoder_header_mutation_rules"]["disallow_all"] is True
    assert document["static_resources"]["listeners"][0]["name"] == "ingress"


def test_a_throttled_call_has_the_settings_of_the_call_that_it_replaces(
    document: dict[str, Any],
) -> None:
    by_name = routes(document)
    names = list(by_name)
    pairs = [(name, f"{name}_economy") for name in names if f"{name}_economy" in names]

    assert len(pairs) == 4
    for normal, economy in pairs:
        assert names.index(economy) < names.index(normal), "the first route that matches wins"
        matches = [by_name[one]["match"] for one in (normal, economy)]
        assert matches[0] == {key: matches[1][key] for key in matches[1] if key != "headers"}
        for part in ("ext_authz", "buffer", "ai_protocol_manager"):
            key = f"envoy.filters.http.{part}"
            own = [by_name[one]["typed_per_filter_config"] for one in (normal, economy)]
            settings = [each.get(key) for each in own]
            assert settings[0] == settings[1]


def test_every_call_to_a_model_is_one_whose_tokens_envoy_can_read(
    document: dict[str, Any],
) -> None:
    to_models = {
        name: route
        for name, route in routes(document).items()
        if route.get("route", {}).get("cluster") in {"llm", "llm_economy"}
    }

    assert len(to_models) == 8
    for route in to_models.values():
        assert route["match"].keys() & {"path", "safe_regex"}, "a prefix lets through too much"
        assert "accept-encoding" in route["request_headers_to_remove"]
        assert "envoy.filters.http.ai_protocol_manager" in route["typed_per_filter_config"]
        # Which holds bodies of any length: see envoy/README.md, "Memory".
        held = route["typed_per_filter_config"].get("envoy.filters.http.buffer")
        if route["match"].get("path") == "/v1/chat/completions":
            assert held is None, "the script does it"
            assert route["request_body_buffer_limit"] == 32 * 1024 * 1024
        else:
            assert held["buffer"] == {"max_request_bytes": 8 * 1024 * 1024}
