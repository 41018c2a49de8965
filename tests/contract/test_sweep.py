"""Every kind of call through a real Envoy: the expected event beside the one that reached Kafka.

`make sweep` prints the table.
"""

from __future__ import annotations  # The types of the lab are written as strings.

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import aiohttp
import pytest
import pytest_asyncio

from aforo_meter.domain.outcomes import GRPC, ExecutionStatus
from lab.servers import KafkaServer, eventually
from tests.contract.sweep_lab import (
    CASE,
    LIMIT,
    LIMITS,
    SweepLab,
    decision_id_of,
    expected,
    side_by_side,
    sweep_lab,
    told,
)

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

Event: TypeAlias = dict[str, object]
Case: TypeAlias = Callable[[SweepLab, str], Awaitable[list[Event]]]  # Sends, and says what to see.

USED = {"input": 11, "cached": 40, "cache_creation": 7, "output": 20, "reasoning": 5, "tool": 3}
# OpenAI tells of no cache creation and no tools, Anthropic of no reasoning and no tools, Gemini of
# no cache creation: what a provider has no word for is in the total that it belongs to.
OPENAI = {"input": 21, "cached_input": 40, "output": 20, "reasoning": 5}
ANTHROPIC = {"input": 14, "cached_input": 40, "cache_creation": 7, "output": 25}
GEMINI = {"input": 18, "cached_input": 40, "tool": 3, "output": 20, "reasoning": 5}

HTTP_ROWS = {
    ExecutionStatus.SUCCESS: [200, 201, 204, 301, 302, 304, 399],
    ExecutionStatus.TIMEOUT: [408, 504],
    ExecutionStatus.CANCELLED: [499],
    ExecutionStatus.VALIDATION_FAILED: [400, 422],
    ExecutionStatus.BLOCKED: [401, 403, 429],
    ExecutionStatus.ERROR: [402, 404, 409, 418, 500, 502, 503, 599],
}
SESSION, MCP = "lab-session", "MCP_SERVER"
REFUSED_UPSTREAM = {401, 403, 429}  # No usage by the built-in rules.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(kafka_server: KafkaServer) -> AsyncIterator[SweepLab]:
    async with sweep_lab(kafka_server.bootstrap) as running:
        yield running


def calls(request_bytes: int, response_bytes: int, **others: float) -> dict[str, float]:
    return {
        "api.calls": 1,
        "bytes.request": request_bytes,
        "bytes.response": response_bytes,
        **others,
    }


def http_status(status: int, executed: str) -> Case:
    async def send(lab: SweepLab, case: str) -> list[Event]:
        answer = await lab.client.get(f"/status/{status}", headers={CASE: case})
        assert answer.status == status
        measures = {} if status in REFUSED_UPSTREAM else calls(0, len(answer.body))
        others = {"method": "GET", "path": "/status/:id", "status": status}
        return [expected(measures, executed, **others)]

    return send


def grpc_status(code: int, method: str, messages: int = 1) -> Case:
    async def send(lab: SweepLab, case: str) -> list[Event]:
        got, answers = await lab.grpc_call(case, method, b"ping", status=code, messages=messages)
        assert got == code
        framed = 5 + len(b"ping")  # A message of gRPC goes behind five bytes of its own.
        return [
            expected(
                calls(framed, framed * len(answers)),
                GRPC.get(code, ExecutionStatus.ERROR).value,
                route="grpc",
                method="POST",
                path=f"/lab.Lab/{method}",
            )
        ]

    return send


def model_call(
    path: str, model: str, provider: str, route: str, tokens: Mapping[str, int], *, stream: bool
) -> Case:
    async def send(lab: SweepLab, case: str) -> list[Event]:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        sent = json.dumps(body | {"stream": stream, "x_lab_usage": USED}).encode()
        headers = {CASE: case, "content-type": "application/json"}
        answer = await lab.client.send("POST", path, headers=headers, body=sent)
        assert answer.status == 200, answer.text
        kind = answer.header("content-type") or ""
        assert kind.startswith("text/event-stream") is stream
        measured = {f"llm.{kind}_tokens": units for kind, units in tokens.items()}
        return [
            expected(
                calls(len(sent), len(answer.body), **measured),
                route=route,
                method="POST",
                path=path,
                provider=provider,
                model=MODELS.get(model, model),
            )
        ]

    return send


MODELS = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}


def mcp(
    body: object,
    *,
    sent_session: str = "",
    status: int = 200,
    counted: Mapping[str, float] | None = None,
    **others: object,
) -> Case:
    async def send(lab: SweepLab, case: str) -> list[Event]:
        headers = {CASE: case, "content-type": "application/json"}
        headers |= {"accept": "application/json, text/event-stream"}
        headers |= {"mcp-session-id": sent_session} if sent_session else {}
        sent = json.dumps(body).encode()
        answer = await lab.client.send("POST", "/mcp", headers=headers, body=sent)
        assert answer.status == status
        executed = "VALIDATION_FAILED" if status == 400 else "SUCCESS"
        where = {"route": "mcp", "method": "POST", "path": "/mcp", "status": status}
        measures = calls(len(sent), len(answer.body), **(counted or {}))
        return [expected(measures, executed, **{"product": MCP, **where, **others})]

    return send


def mcp_without_body(method: str, **others: object) -> Case:
    async def send(lab: SweepLab, case: str) -> list[Event]:
        headers = {CASE: case, "mcp-session-id": SESSION}
        answer = await lab.client.send(method, "/mcp", headers=headers)
        where = {"route": "mcp", "method": method, "path": "/mcp"}
        named = {"session": SESSION, "product": MCP}
        return [expected(calls(0, len(answer.body)), **where, **named, **others)]

    return send


async def websocket(lab: SweepLab, case: str) -> list[Event]:
    async with lab.websocket(case) as socket:
        for text in ("one", "two", "three"):
            await socket.send_str(text)
            assert await socket.receive_str() == text
    # Frames of a client have a head of 6 bytes, a server's of 2; each side closes with a code.
    sent, received = 3 * 6 + 11 + (6 + 2), 3 * 2 + 11 + (2 + 2)
    where = {"route": "websocket", "method": "GET", "path": "/ws", "status": 101}
    return [expected(calls(sent, received), None, **where)]


async def put(lab: SweepLab, case: str) -> list[Event]:
    """An object of 4.2 MB is 4.2 MB."""
    body = b"x" * 4_200_000
    answer = await lab.client.send("PUT", "/bucket/photo", headers={CASE: case}, body=body)
    assert answer.json()["body_bytes"] == 4_200_000
    measures = calls(4_200_000, len(answer.body))
    return [expected(measures, method="PUT", path="/bucket/photo")]


async def retried(lab: SweepLab, case: str) -> list[Event]:
    """Three attempts at the upstream are one call."""
    answer = await lab.client.get("/flaky/3", headers={CASE: case})
    assert (answer.status, lab.envoy.api.tally.hits["/flaky/3"]) == (200, 3)
    where = {"route": "retried", "method": "GET", "path": "/flaky/:id"}
    return [expected(calls(0, len(answer.body)), **where)]


async def redirected(lab: SweepLab, case: str) -> list[Event]:
    """Two entries, two checks, one call."""
    answer = await lab.client.get("/redirect/things", headers={CASE: case})
    assert answer.status == 200
    # Both entries show the new path and its route.
    where = {"method": "GET", "path": "/things"}
    return [
        expected({}, status=302, **where),
        expected(calls(0, len(answer.body)), **where),
    ]


async def replayed(lab: SweepLab, case: str) -> list[Event]:
    """A client that sends a request twice, under one x-request-id, made two calls."""
    headers = {CASE: case, "x-request-id": "11111111-2222-3333-4444-555555555555"}
    first = await lab.client.get("/things", headers=headers)
    second = await lab.client.get("/things", headers=headers)
    where = {"method": "GET", "path": "/things"}
    return [expected(calls(0, len(answer.body)), **where) for answer in (first, second)]


def reported(metric: str, quantity: str, counted: Mapping[str, float]) -> Case:
    async def send(lab: SweepLab, case: str) -> list[Event]:
        said = json.dumps({"x-aforo-metric": metric, "x-aforo-quantity": quantity})
        headers = {
            CASE: case,
            "x-lab-response-headers": said,
            # Of a request they are nobody's word.
            "x-aforo-metric": "fake.meter",
            "x-aforo-quantity": "1000",
        }
        answer = await lab.client.get("/reports/42", headers=headers)
        measures = {**calls(0, len(answer.body)), **counted}
        return [expected(measures, method="GET", path="/reports/:id")]

    return send


async def blocked(lab: SweepLab, case: str) -> list[Event]:
    answer = await lab.client.get("/things", headers={CASE: case, "x-lab-outcome": "block"})
    assert answer.status == 429
    decided = {"outcome": "BLOCK", "reason": "margin_limit_exceeded"}
    where = {"method": "GET", "path": "/things", "status": 429}
    return [expected({}, "BLOCKED", **decided, **where)]


async def throttled(lab: SweepLab, case: str) -> list[Event]:
    body = {"model": "gpt-4o", "messages": [], "x_lab_usage": {"input": 3, "output": 2}}
    sent = json.dumps(body).encode()
    headers = {CASE: case, "x-lab-outcome": "throttle", "content-type": "application/json"}
    path = "/v1/chat/completions"
    answer = await lab.client.send("POST", path, headers=headers, body=sent)
    tokens = {"llm.input_tokens": 3, "llm.output_tokens": 2}
    return [
        expected(
            calls(len(sent), len(answer.body), **tokens),
            outcome="THROTTLE",
            route="openai_chat_economy",
            method="POST",
            path=path,
            provider="openai",
            model="gpt-4o-mini-2024-07-18",
        )
    ]


async def preflight(lab: SweepLab, case: str) -> list[Event]:
    headers = {CASE: case, "origin": "https://a.example", "access-control-request-method": "POST"}
    await lab.client.send("OPTIONS", "/things", headers=headers)
    return [expected({}, method="OPTIONS", path="/things")]


def tool_call(name: str) -> dict[str, object]:
    params = {"name": name, "arguments": {}, "_meta": {"agent_id": "agent-7"}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
FLASH = "gemini-2.5-flash"
GENERATE = f"/v1beta/models/{FLASH}:generateContent"
GENERATE_STREAM = f"/v1beta/models/{FLASH}:streamGenerateContent"
OPENING = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "lab"}}

CASES: dict[str, Case] = {
    **{
        f"HTTP {status}": http_status(status, executed.value)
        for executed, statuses in HTTP_ROWS.items()
        for status in statuses
    },
    **{f"gRPC unary, status {code}": grpc_status(code, "Unary") for code in range(17)},
    "gRPC stream of 3": grpc_status(0, "Stream", 3),
    "gRPC stream that ends with status 8": grpc_status(8, "Stream", 2),
    **{
        f"{name}, {'streamed' if stream else 'JSON'}": model_call(*call, stream=stream)
        for name, call in {
            "OpenAI chat": (CHAT, "gpt-4o", "openai", "openai_chat", OPENAI),
            "OpenAI responses": (RESPONSES, "gpt-4o", "openai", "openai_responses", OPENAI),
            "Anthropic": (
                MESSAGES,
                "claude-sonnet-4-5",
                "anthropic",
                "anthropic_messages",
                ANTHROPIC,
            ),
        }.items()
        for stream in (False, True)
    },
    "Gemini, JSON": model_call(GENERATE, FLASH, "google", "gemini_generate", GEMINI, stream=False),
    "Gemini, streamed": model_call(
        GENERATE_STREAM, FLASH, "google", "gemini_generate", GEMINI, stream=True
    ),
    "MCP initialize": mcp(
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": OPENING},
        counted={"mcp.sessions": 1},
        session_boundary="START",
        session=SESSION,
    ),
    "MCP notification": mcp(
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        sent_session=SESSION,
        session=SESSION,
        status=202,
    ),
    "MCP tool call": mcp(
        tool_call("get_weather"),
        counted={"mcp.tool_calls": 1},
        sent_session=SESSION,
        session=SESSION,
        tool="get_weather",
        agent="agent-7",
    ),
    "MCP batch, which could hide tools": mcp(
        [tool_call("get_weather"), tool_call("dear")], status=400, product=None
    ),
    "MCP listening": mcp_without_body("GET"),
    "MCP end of session": mcp_without_body("DELETE", session_boundary="END"),
    "WebSocket": websocket,
    "PUT of 4.2 MB": put,
    "tried three times": retried,
    "internal redirect": redirected,
    "replayed": replayed,
    "reported": reported("agent.steps", "2.5", {"agent.steps": 2.5}),
    "reported, of calls, which only we count": reported("api.calls", "7", {}),
    "reported, of bytes, which only we count": reported("bytes.response", "7", {}),
    "reported, of a meter that nobody named": reported("report.pages", "2.5", {}),
    "reported, no quantity": reported("agent.steps", "many", {}),
    "blocked": blocked,
    "throttled": throttled,
    "preflight": preflight,
}


@pytest.mark.parametrize("case", CASES)
async def test_the_event_is_what_was_expected(lab: SweepLab, case: str) -> None:
    wanted = await CASES[case](lab, case)
    await eventually(lambda: len(lab.events(case)) >= len(wanted))
    received = sorted((told(event) for event in lab.events(case)), key=lambda one: -ends_first(one))

    print(side_by_side(case, wanted, received))  # noqa: T201 - the table of `make sweep`.
    assert received == wanted


def ends_first(event: Event) -> int:
    """Of the two halves of a redirect the one that goes on comes first."""
    return 1 if event.get("status") == 302 else 0


async def test_a_call_that_nobody_decided_is_visible_and_nobodys(lab: SweepLab) -> None:
    answer = await lab.client.get("/undecided", headers={"x-lab-outcome": "unavailable"})
    assert answer.status == 200

    def arrived() -> list[Any]:
        return [one for one in lab.ship.events if one.dimensions.path == "/undecided"]

    await eventually(arrived)
    (event,) = arrived()
    assert told(event) == {
        "outcome": "NOT_DECIDED",
        "source": "envoy:aforo-envoy",
        "route": "api",
        "method": "GET",
        "path": "/undecided",
        "status": 200,
        "execution_status": "SUCCESS",
        "measures": {"api.calls": 1, "bytes.response": len(answer.body)},
    }


async def test_every_event_has_an_id_of_its_own_and_its_times(lab: SweepLab) -> None:
    again = ("HTTP 200", "throttled")  # Other cases may have been played by another worker.
    seen = len(lab.ship.events)
    wanted = sum([len(await CASES[case](lab, case)) for case in again])
    await eventually(lambda: len(lab.ship.events) >= seen + wanted)
    events = lab.ship.events

    assert len({event.event_id for event in events}) == len(events)
    for event in events:
        assert 0 < event.occurred_at_micros < event.received_at_micros
    assert not lab.ship.dead_letters
    assert {decision_id_of(case) for case in again} <= {event.decision_id for event in events}


@pytest.mark.parametrize(
    ("path", "model", "provider", "bytes_per_token"),
    [
        (CHAT, "gpt-4o", "openai", 205),
        (MESSAGES, "claude-sonnet-4-5", "anthropic", 120),
        (GENERATE_STREAM, FLASH, "google", 329),
    ],
)
async def test_a_client_that_hangs_up_pays_an_estimate(
    lab: SweepLab, path: str, model: str, provider: str, bytes_per_token: int
) -> None:
    case = f"hung up: {provider}"
    prompt = "What is left of a margin? " * 20
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True}
    body |= {"contents": [{"role": "user", "parts": [{"text": prompt}]}], "x_lab_words": 50}
    body |= {"x_lab_gap_ms": 100}
    pieces = lab.client.stream(path, body, headers={CASE: case})
    for _ in range(5):
        await anext(pieces)
    await pieces.aclose()
    await eventually(lambda: lab.events(case))
    (event,) = lab.events(case)
    measures = {one.meter: one.units for one in event.measures}
    print(side_by_side(case, [], [told(event)]))  # noqa: T201 - the table of `make sweep`.

    assert (event.aborted, event.estimated) == (True, True)
    assert told(event)["execution_status"] == "CANCELLED"
    assert (event.dimensions.provider, event.dimensions.model) == (provider, model)
    assert measures["api.calls"] == 1
    assert measures["llm.output_tokens"] == -(-measures["bytes.response"] // bytes_per_token)
    assert measures["llm.output_tokens"] >= 3
    # Four bytes a token of the body, as Envoy estimates it: the prompt, what is around it,
    # and what the route's script added.
    assert len(prompt) // 4 <= measures["llm.input_tokens"] <= measures["bytes.request"] // 4 + 15


@pytest.mark.parametrize(
    ("how", "gap_ms", "executed"),
    [
        ("the upstream breaks off", 20, "SUCCESS"),
        ("idle_timeout", 10_000, "TIMEOUT"),
        ("per_try_idle_timeout", 10_000, "TIMEOUT"),
        ("timeout", 100, "TIMEOUT"),
        ("max_stream_duration", 100, "TIMEOUT"),
    ],
)
async def test_an_answer_that_is_cut_short_costs_an_estimate(
    lab: SweepLab, how: str, gap_ms: int, executed: str
) -> None:
    body: dict[str, Any] = {"model": "gpt-4o", "stream": True}
    body |= {"messages": [{"role": "user", "content": "x" * 200}]}
    body |= {"x_lab_words": 50, "x_lab_gap_ms": gap_ms}
    if how not in LIMITS:
        body["x_lab_breaks_after"] = 5
    received = 0

    async def read() -> None:
        nonlocal received
        async for piece in lab.client.stream(CHAT, body, headers={CASE: how, LIMIT: how}):
            received += len(piece)

    with pytest.raises(aiohttp.ClientPayloadError):
        await read()
    await eventually(lambda: lab.events(how))
    (event,) = lab.events(how)
    print(side_by_side(how, [], [told(event)]))  # noqa: T201 - the table of `make sweep`.
    measures = {one.meter: one.units for one in event.measures}

    assert (event.estimated, event.aborted) == (True, False)
    assert told(event)["execution_status"] == executed
    assert (event.dimensions.provider, event.dimensions.model) == ("openai", "gpt-4o")
    assert measures["api.calls"] == 1
    assert measures["bytes.response"] == received > 0
    assert measures["llm.output_tokens"] == -(-received // 205)
    # Four bytes a token of the body, as Envoy estimates it.
    assert 200 // 4 <= measures["llm.input_tokens"] <= measures["bytes.request"] // 4 + 15


def has_ended(lab: SweepLab, case: str) -> bool:
    return any(not event.interim for event in lab.events(case))


async def test_long_calls_are_told_of_as_they_go_on(kafka_server: KafkaServer) -> None:
    async with sweep_lab(kafka_server.bootstrap, flush="0.2s", INTERIM_EVERY_MS="200") as lab:
        slow = {"model": "gpt-4o", "messages": [], "stream": True, "x_lab_usage": USED}
        slow |= {"x_lab_words": 20, "x_lab_gap_ms": 100}
        answer = await lab.client.post(CHAT, slow, headers={CASE: "events"})
        code, messages = await lab.grpc_call(
            "gRPC", "Stream", b"ping", **{"messages": 20, "gap-ms": 100}
        )
        async with lab.websocket("WebSocket") as socket:
            for _ in range(20):
                await socket.send_str("x" * 50)
                await socket.receive_str()
                await asyncio.sleep(0.1)
        for case in ("events", "gRPC", "WebSocket"):
            await eventually(functools.partial(has_ended, lab, case))
        found = {case: lab.events(case) for case in ("events", "gRPC", "WebSocket")}

    totals = {"events": len(answer.body), "gRPC": 9 * len(messages), "WebSocket": 20 * 52 + 4}
    assert code == 0
    for case, events in found.items():
        (end,) = [event for event in events if not event.interim]
        under_way = [event for event in events if event.interim]
        sizes = [told(event)["measures"].get("bytes.response", 0) for event in under_way]  # type: ignore[attr-defined]
        print(side_by_side(case, [], [told(event) for event in events]))  # noqa: T201
        assert sizes, case
        assert all(size <= totals[case] for size in sizes), "totals so far"
        assert all("api.calls" not in told(event)["measures"] for event in under_way)  # type: ignore[operator]
        assert end.continued
        assert told(end)["measures"]["bytes.response"] == totals[case]  # type: ignore[index]
        assert told(end)["measures"]["api.calls"] == 1  # type: ignore[index]
