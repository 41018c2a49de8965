"""What a real Envoy logs, and what ship makes of it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aforo_proto.usage_pb2 import (
    EXECUTION_STATUS_CANCELLED,
    OUTCOME_ALLOW,
    OUTCOME_BLOCK,
    OUTCOME_NOT_DECIDED,
    OUTCOME_THROTTLE,
    UsageEvent,
)
from lab.http_client import HttpClient
from lab.servers import HANG_S, KafkaServer, eventually
from tests.contract.gateway_lab import GatewayLab, gateway_lab, manager_of
from tests.contract.ship_lab import ship_lab

pytestmark = pytest.mark.contract

USED = {"input": 11, "cached": 40, "cache_creation": 7, "output": 20, "reasoning": 5}
# OpenAI counts cache creation as input; Anthropic counts thinking as output.
OPENAI = {"input": 18, "cached_input": 40, "output": 20, "reasoning": 5}
ANTHROPIC = {"input": 11, "cached_input": 40, "cache_creation": 7, "output": 25}


def measures_of(event: UsageEvent) -> dict[str, int]:
    return {one.meter: one.units for one in event.measures}


def tokens_of(event: UsageEvent) -> dict[str, int]:
    return {
        meter.removeprefix("llm.").removesuffix("_tokens"): units
        for meter, units in measures_of(event).items()
        if meter.startswith("llm.")
    }


def body_of(*, model: str, stream: bool = False) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": stream,
        "stream_options": {"include_usage": True},
        "x_lab_usage": USED,
    }


async def test_tokens_arrive_as_each_provider_counts_them(kafka_server: KafkaServer) -> None:
    calls = {
        "/v1/chat/completions": ("gpt-4o", "openai", OPENAI),
        "/v1/responses": ("gpt-4o", "openai", OPENAI),
        "/v1/messages": ("claude-sonnet-4-5", "anthropic", ANTHROPIC),
    }
    async with gateway_lab(kafka_server.bootstrap) as lab:
        for path, (model, _, _) in calls.items():
            for stream in (False, True):
                answer = await lab.client.post(path, body_of(model=model, stream=stream))
                assert answer.status == 200
        events = await lab.ship.arrived(6)

    for path, (model, provider, tokens) in calls.items():
        own = [one for one in events if one.dimensions.route == f"route{path.replace('/', '-')}"]
        assert len(own) == 2, "JSON and streamed"
        for event in own:
            assert tokens_of(event) == tokens
            assert event.dimensions.provider == provider
            assert event.dimensions.model.startswith(model)
            assert measures_of(event)["api.calls"] == 1
            assert not event.estimated


def rule(key: str, *path: str, number: bool = True) -> dict[str, Any]:
    """Return a rule of `json_to_metadata` that notes a field of the answer in our namespace."""
    return {
        "selectors": [{"key": name} for name in path],
        "on_present": {
            "metadata_namespace": "aforo.usage",
            "key": key,
            "type": "NUMBER" if number else "STRING",
        },
    }


IN_BODIES = [
    rule("model", "model", number=False),
    rule("input_tokens", "usage", "prompt_tokens"),
    rule("cached_tokens", "usage", "prompt_tokens_details", "cached_tokens"),
    rule("output_tokens", "usage", "completion_tokens"),
    rule("reasoning_tokens", "usage", "completion_tokens_details", "reasoning_tokens"),
    rule("input_tokens", "usage", "input_tokens"),
    rule("cache_read_input_tokens", "usage", "cache_read_input_tokens"),
    rule("cache_creation_input_tokens", "usage", "cache_creation_input_tokens"),
    rule("output_tokens", "usage", "output_tokens"),
]
IN_ANTHROPICS_FIRST_EVENT = [
    rule("model", "message", "model", number=False),
    *(
        rule(key, "message", "usage", key)
        for key in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    ),
]


def without_the_token_filter(document: dict[str, Any]) -> None:
    """Read tokens as builds do that have no `ai_protocol_manager`, such as Istio's."""
    extensions = "type.googleapis.com/envoy.extensions."
    filters = manager_of(document)["http_filters"]
    (host,) = manager_of(document)["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        route.pop("typed_per_filter_config", None)
    parser = {
        "name": "envoy.content_parsers.json",
        "typed_config": {
            "@type": f"{extensions}content_parsers.json.v3.JsonContentParser",
            "rules": [{"rule": one} for one in [*IN_BODIES, *IN_ANTHROPICS_FIRST_EVENT]],
        },
    }
    filters[-2:-1] = [
        {
            "name": "envoy.filters.http.sse_to_metadata",
            "typed_config": {
                "@type": f"{extensions}filters.http.sse_to_metadata.v3.SseToMetadata",
                "response_rules": {"max_event_size": 1048576, "content_parser": parser},
            },
        },
        {
            "name": "envoy.filters.http.json_to_metadata",
            "typed_config": {
                "@type": f"{extensions}filters.http.json_to_metadata.v3.JsonToMetadata",
                "response_rules": {
                    "allow_content_types": ["application/json"],
                    "rules": IN_BODIES,
                },
            },
        },
    ]


async def test_tokens_are_the_same_without_envoys_token_filter(kafka_server: KafkaServer) -> None:
    calls = {
        "/v1/chat/completions": ("gpt-4o", OPENAI),
        "/v1/messages": ("claude-sonnet-4-5", ANTHROPIC),
    }
    async with gateway_lab(kafka_server.bootstrap, edit=without_the_token_filter) as lab:
        for path, (model, _) in calls.items():
            for stream in (False, True):
                answer = await lab.client.post(path, body_of(model=model, stream=stream))
                assert answer.status == 200
        events = await lab.ship.arrived(4)

    for path, (model, tokens) in calls.items():
        own = [event for event in events if event.dimensions.path == path]
        assert [tokens_of(event) for event in own] == [tokens, tokens], "JSON and streamed"
        assert all(event.dimensions.model.startswith(model) for event in own)


async def test_a_call_is_attributed_and_measured(kafka_server: KafkaServer) -> None:
    async with gateway_lab(kafka_server.bootstrap) as lab:
        answer = await lab.client.send(
            "POST", "/things?x=1", headers={"x-api-key": "globex"}, body=b"twelve bytes"
        )
        (event,) = await lab.ship.arrived(1)

    assert (event.tenant_id, event.subscription_id) == ("globex", "sub-globex")
    assert list(event.features) == ["api", "chat"]
    assert event.outcome == OUTCOME_ALLOW
    assert event.decision_id == "d" * 32
    assert event.source == "envoy:gateway-lab"
    assert (event.dimensions.method, event.dimensions.status) == ("POST", 200)
    assert event.dimensions.route == "echo"
    assert measures_of(event) == {
        "api.calls": 1,
        "bytes.request": 12,
        "bytes.response": len(answer.body),
    }


async def test_nothing_that_a_client_sends_changes_who_pays_or_how_often(
    kafka_server: KafkaServer,
) -> None:
    spoofed = {
        "x-api-key": "globex",
        "x-tenant-id": "victim",
        "x-customer-id": "victim",
        "x-aforo-tenant": "victim",
        "x-aforo-decision": "block",
        "x-aforo-metric": "api.calls",
        "x-aforo-quantity": "0",
        "x-request-id": "11111111-2222-3333-4444-555555555555",
        "uid": "11111111-2222-3333-4444-555555555555",
    }
    async with gateway_lab(kafka_server.bootstrap) as lab:
        for _ in range(3):
            answer = await lab.client.get("/?tenant=victim", headers=spoofed)
            assert answer.status == 200
        events = await lab.ship.arrived(3)

    assert {event.tenant_id for event in events} == {"globex"}
    assert len({event.event_id for event in events}) == 3
    assert all(event.event_id != spoofed["x-request-id"] for event in events)
    assert [measures_of(event)["api.calls"] for event in events] == [1, 1, 1]
    assert not any(b"victim" in event.SerializeToString() for event in events)


async def test_each_decision_has_its_outcome(kafka_server: KafkaServer) -> None:
    async with gateway_lab(kafka_server.bootstrap) as lab:
        for outcome in ("allow", "throttle", "block", "unavailable"):
            await lab.client.get("/", headers={"x-lab-outcome": outcome})
        # A refused gRPC call has status 200: only Envoy's details tell.
        refused = await lab.client.send(
            "POST",
            "/service/Method",
            headers={"content-type": "application/grpc", "x-lab-outcome": "block"},
        )
        assert refused.status == 200
        events = await lab.ship.arrived(5)
        by_outcome: dict[int, list[UsageEvent]] = {}
        for event in events:
            by_outcome.setdefault(event.outcome, []).append(event)
        calls = lab.upstream.tally.hits.total()

    assert calls == 3
    (allowed,), (throttled,) = by_outcome[OUTCOME_ALLOW], by_outcome[OUTCOME_THROTTLE]
    assert measures_of(allowed)["api.calls"] == measures_of(throttled)["api.calls"] == 1
    blocked = by_outcome[OUTCOME_BLOCK]
    assert sorted(event.dimensions.status for event in blocked) == [200, 429]
    assert {event.reason for event in blocked} == {"margin_limit_exceeded"}
    assert {event.tenant_id for event in blocked} == {"acme"}
    assert not any(event.measures for event in blocked)
    (unattributed,) = by_outcome[OUTCOME_NOT_DECIDED]
    assert unattributed.tenant_id == ""
    assert measures_of(unattributed)["api.calls"] == 1, "it passed, so it must be visible"


async def test_a_call_refused_because_there_was_no_decision_is_no_usage(
    kafka_server: KafkaServer,
) -> None:
    def fail_closed(document: dict[str, Any]) -> None:
        check = manager_of(document)["http_filters"][0]["typed_config"]
        check["failure_mode_allow"] = False
        check["status_on_error"] = {"code": "ServiceUnavailable"}

    async with gateway_lab(kafka_server.bootstrap, edit=fail_closed) as lab:
        answer = await lab.client.get("/", headers={"x-lab-outcome": "unavailable"})
        assert answer.status == 503
        (event,) = await lab.ship.arrived(1)

    assert event.outcome == OUTCOME_NOT_DECIDED
    assert not event.measures


async def test_envoys_shadow_mode_lets_usage_be_usage(kafka_server: KafkaServer) -> None:
    def shadow(document: dict[str, Any]) -> None:
        manager_of(document)["http_filters"][0]["typed_config"]["shadow_mode"] = True

    async with gateway_lab(kafka_server.bootstrap, edit=shadow) as lab:
        answer = await lab.client.get("/", headers={"x-lab-outcome": "block"})
        assert answer.status == 200
        (event,) = await lab.ship.arrived(1)

    assert event.outcome == OUTCOME_ALLOW
    assert event.shadow_reason == "margin_limit_exceeded"
    assert measures_of(event)["api.calls"] == 1


async def test_what_is_no_usage_is_told_apart(kafka_server: KafkaServer) -> None:
    async with gateway_lab(kafka_server.bootstrap) as lab:
        send = lab.client.send
        await send("GET", "/healthz?deep=1")
        for status in (401, 403, 429):
            await send("GET", f"/status/{status}")
        preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
        await send("OPTIONS", "/things", headers=preflight)
        assert (await send("GET", "/status/500")).status == 500
        await send("OPTIONS", "/things")
        events = await lab.ship.arrived(7)
        why = {
            name: lab.ship.metric(f'aforo_ship_unmetered_total{{why="{name}"}}')
            for name in ("path", "status", "preflight")
        }

    assert len([event for event in events if not event.measures]) == 5
    assert all("api.calls" in measures_of(event) for event in events if event.measures)
    assert why == {"path": 1, "status": 3, "preflight": 1}


async def test_a_path_without_a_route_is_nobodys_usage(kafka_server: KafkaServer) -> None:
    def only_models(document: dict[str, Any]) -> None:
        (host,) = manager_of(document)["route_config"]["virtual_hosts"]
        host["routes"] = [one for one in host["routes"] if one["match"].get("prefix") != "/"]

    async with gateway_lab(kafka_server.bootstrap, edit=only_models) as lab:
        assert (await lab.client.get("/wp-login.php")).status == 404
        (event,) = await lab.ship.arrived(1)

    assert (event.tenant_id, event.outcome) == ("", OUTCOME_NOT_DECIDED)
    assert not event.measures


async def test_a_client_that_leaves_a_stream_pays_for_its_call_and_is_noted(
    kafka_server: KafkaServer,
) -> None:
    slow = {**body_of(model="gpt-4o", stream=True), "x_lab_gap_ms": 200, "x_lab_words": 50}
    async with gateway_lab(kafka_server.bootstrap) as lab:
        pieces = lab.client.stream("/v1/chat/completions", slow)
        await anext(pieces)
        await pieces.aclose()
        (event,) = await lab.ship.arrived(1)

    assert event.aborted
    assert event.dimensions.execution_status == EXECUTION_STATUS_CANCELLED
    assert measures_of(event)["api.calls"] == 1
    assert measures_of(event)["bytes.response"] > 0
    assert not tokens_of(event), "no route says that this is a model: nothing is estimated"


async def test_a_call_under_way_is_told_of_before_it_ends(kafka_server: KafkaServer) -> None:
    def periodic(document: dict[str, Any]) -> None:
        options = {"access_log_flush_interval": "0.1s", "flush_access_log_on_new_request": True}
        manager_of(document)["access_log_options"] = options

    slow = {**body_of(model="gpt-4o", stream=True), "x_lab_gap_ms": 100, "x_lab_words": 40}
    async with gateway_lab(kafka_server.bootstrap, edit=periodic, INTERIM_EVERY_MS="100") as lab:
        answer = await lab.client.post("/v1/chat/completions", slow)
        await eventually(lambda: any(not event.interim for event in lab.ship.events))
        events = sorted(lab.ship.events, key=lambda event: event.interim)
        counted = lab.ship.metric('aforo_ship_entries_total{as="interim"}')

    end, *under_way = events
    assert counted == len(under_way) > 2
    assert all(event.interim for event in under_way)
    assert {event.decision_id for event in events} == {"d" * 32}
    assert len({event.event_id for event in events}) == len(events)
    assert all(set(measures_of(one)) <= {"bytes.request", "bytes.response"} for one in under_way)
    sizes = sorted(measures_of(one).get("bytes.response", 0) for one in under_way)
    assert 0 <= sizes[0] < sizes[-1] <= len(answer.body), "totals so far, not differences"
    assert end.continued
    assert measures_of(end)["api.calls"] == 1
    assert measures_of(end)["bytes.response"] == len(answer.body)
    assert tokens_of(end) == OPENAI


async def test_envoys_keepalive_does_not_cost_the_stream(kafka_server: KafkaServer) -> None:
    def eager_keepalive(document: dict[str, Any]) -> None:
        (als,) = [one for one in document["static_resources"]["clusters"] if one["name"] == "als"]
        (options,) = als["typed_extension_protocol_options"].values()
        options["explicit_http_config"]["http2_protocol_options"] = {
            "connection_keepalive": {"interval": "0.05s", "timeout": "20s"}
        }

    async with gateway_lab(kafka_server.bootstrap, edit=eager_keepalive) as lab:
        await lab.client.get("/")
        await lab.ship.arrived(1)
        await asyncio.sleep(2)  # Forty pings in silence: grpc's servers call that abuse after two.
        await lab.client.get("/")
        await lab.ship.arrived(2)
        assert await connections_made(lab) == 1


async def connections_made(lab: GatewayLab) -> int:
    async with HttpClient(f"http://127.0.0.1:{lab.envoy.admin_port}") as admin:
        answer = await admin.get("/stats?filter=^cluster.als.upstream_cx_total$")
    return int(answer.text.rpartition(":")[2])


async def test_a_ship_that_comes_back_is_found_again(kafka_server: KafkaServer) -> None:
    async with gateway_lab(kafka_server.bootstrap) as lab:
        await lab.client.get("/before")
        await lab.ship.arrived(1)
        await asyncio.to_thread(lab.ship.program.kill)
        await lab.ship.start()

        async def call_until_two() -> None:
            while len(lab.ship.events) < 2:
                await lab.client.get("/after")
                await asyncio.sleep(0.1)

        await asyncio.wait_for(call_until_two(), HANG_S)
        await eventually(lambda: lab.ship.metric("aforo_ship_streams") == 1)


async def test_a_ship_that_stops_hands_over_to_its_neighbour_and_nothing_is_lost(
    kafka_server: KafkaServer,
) -> None:
    """Envoy keeps no entries for a receiver that is gone, so the moment of the end matters.

    A neighbour that has just come back is the worst case: for a second after that, Envoy's workers
    do not hear of what its checks find.
    """
    async with (
        ship_lab(kafka_server.bootstrap) as neighbour,
        gateway_lab(
            kafka_server.bootstrap, edit=lambda one: fail_over_to(neighbour.socket_path, one)
        ) as lab,
    ):
        served = 0

        async def call() -> None:
            nonlocal served
            await asyncio.gather(*[lab.client.get("/") for _ in range(10)])
            served += 10
            await asyncio.sleep(0.05)

        await call()
        await lab.ship.arrived(served)
        await neighbour.stop()
        await neighbour.start()
        await eventually(lambda: lab.envoy.sees_healthy("als"))
        stopping = asyncio.create_task(lab.ship.stop())
        while not stopping.done():
            await call()
        for _ in range(10):
            await call()
        await eventually(lambda: len(neighbour.events) + len(lab.ship.events) == served)

        assert await stopping == 0
        assert len(neighbour.events) >= 100, "it has all that came after the end"
        assert len(lab.ship.events) > 10, "the one that ends reads on until Envoy has noticed"


def fail_over_to(path: Path, document: dict[str, Any]) -> None:
    (als,) = [one for one in document["static_resources"]["clusters"] if one["name"] == "als"]
    als["health_checks"] = [
        {
            "timeout": "10s",
            "interval": "0.05s",
            "no_traffic_interval": "0.05s",
            "unhealthy_threshold": 1,
            "healthy_threshold": 1,
            "tcp_health_check": {},
        }
    ]
    als["common_lb_config"] = {"healthy_panic_threshold": {"value": 0}}
    second = {"endpoint": {"address": {"pipe": {"path": str(path)}}}}
    als["load_assignment"]["endpoints"].append({"priority": 1, "lb_endpoints": [second]})
