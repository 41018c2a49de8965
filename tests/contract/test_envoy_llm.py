"""Model calls through the shipped Envoy configuration: tokens read, bodies edited, sizes borne."""

import asyncio
import gzip
import hashlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.llm_shapes import Usage, anthropic_usage, openai_usage
from lab.upstream import FakeLlm
from tests.contract.envoy_lab import EnvoyLab, authz_metadata, envoy_lab, token_usage

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI = "/v1beta/models/gemini-2.5-pro:generateContent"
COMPLETION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
USAGE = Usage(input=25, cached=50, cache_creation=100, output=15, reasoning=7)
GIVEN = {"input": 25, "cached": 50, "cache_creation": 100, "output": 15, "reasoning": 7}
MEBIBYTE = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[EnvoyLab]:
    async with envoy_lab() as lab:
        yield lab


@pytest.fixture
def lab(running: EnvoyLab) -> EnvoyLab:
    running.forget()
    return running


# --- Tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(
    ("path", "asked", "served", "throttled"),
    [
        (CHAT, "gpt-4o", "gpt-4o-2024-08-06", False),
        (RESPONSES, "gpt-5", "gpt-5-2025-08-07", False),
        (MESSAGES, "claude-opus-4-5", "claude-opus-4-5-20251101", False),
        (CHAT, "gpt-4o", "gpt-4o-mini-2024-07-18", True),
        (RESPONSES, "gpt-5", "gpt-4o-mini-2024-07-18", True),
        (MESSAGES, "claude-opus-4-5", "claude-haiku-4-5-20251001", True),
    ],
)
async def test_the_log_has_the_tokens_beside_the_decision(
    lab: EnvoyLab, path: str, asked: str, served: str, *, throttled: bool, stream: bool
) -> None:
    unique = lab.unique(path)
    body = COMPLETION | {"model": asked, "stream": stream, "x_lab_usage": GIVEN}
    outcome = "throttle" if throttled else "allow"
    await lab.client.post(unique, body, headers={"x-lab-outcome": outcome})

    entry = await lab.log.entry(unique)
    told = (anthropic_usage if path == MESSAGES else openai_usage)(USAGE)
    assert token_usage(entry) == {
        "model": served,
        "input": told.input_total,
        "cached": told.cached,
        "cache_creation": told.cache_creation,
        "output": told.output_total,
        "reasoning": told.reasoning,
        "status": "COMPLETE",
    }
    assert authz_metadata(entry)["tenant"] == "acme"
    assert authz_metadata(entry)["decision"] == outcome


async def test_a_compressed_answer_is_not_asked_for_since_its_tokens_could_not_be_read(
    lab: EnvoyLab,
) -> None:
    await lab.client.post(CHAT, COMPLETION, headers={"accept-encoding": "gzip, br"})

    (reached,) = lab.premium.last
    assert reached.header("accept-encoding") is None


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages"])
async def test_the_callers_key_does_not_reach_a_model(lab: EnvoyLab, path: str) -> None:
    await lab.client.post(path, COMPLETION, headers={"x-api-key": "a-key-of-ours"})

    (reached,) = lab.premium.last
    assert reached.header("x-api-key") is None


async def test_a_stream_that_its_caller_leaves_is_logged_without_tokens(lab: EnvoyLab) -> None:
    unique = lab.unique(CHAT)
    body = COMPLETION | {"stream": True, "x_lab_words": 1000, "x_lab_gap_ms": 20}
    served = lab.premium.tally.total()
    pieces = lab.client.stream(unique, body)
    await anext(pieces)
    await pieces.aclose()

    entry = await lab.log.entry(unique)
    assert token_usage(entry) is None
    assert authz_metadata(entry)["tenant"] == "acme"
    assert lab.premium.tally.total() == served, "an answer that was cut short is not counted"


# --- The usage of OpenAI's streams ----------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}],
    ids=["absent", "false", "null"],
)
@pytest.mark.parametrize("gap_ms", [0, 5], ids=["at-once", "one-by-one"])
async def test_a_stream_is_metered_although_its_caller_does_not_ask_for_the_usage(
    lab: EnvoyLab, options: dict[str, Any], gap_ms: int
) -> None:
    unique = lab.unique(CHAT)
    body = COMPLETION | {"stream": True, "x_lab_usage": GIVEN, "x_lab_gap_ms": gap_ms} | options
    answer = await lab.client.post(unique, body)

    usage = token_usage(await lab.log.entry(unique))
    assert usage is not None
    assert usage["output"] == USAGE.output_total
    # What the caller did not ask for, it does not get: the event with the usage has no choices,
    # and programs that take the first choice of each would stumble over it.
    events = answer.events()
    assert all(event["choices"] for event in events)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_caller_who_asks_for_the_usage_gets_it(lab: EnvoyLab) -> None:
    options = {"stream_options": {"include_usage": True}}
    body = COMPLETION | {"stream": True, "x_lab_usage": GIVEN} | options
    answer = await lab.client.post(CHAT, body)

    assert answer.events()[-1]["usage"]["completion_tokens"] == USAGE.output_total
    (reached,) = lab.premium.last
    assert json.loads(reached.body) == body


async def test_pieces_of_a_stream_are_not_held_back(lab: EnvoyLab) -> None:
    body = COMPLETION | {"stream": True, "x_lab_words": 5, "x_lab_gap_ms": 200}
    pieces = [piece async for piece in lab.client.stream(CHAT, body)]

    assert len(pieces) >= 5


# --- Bodies ---------------------------------------------------------------------------------

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
# Envoy's parser takes no longer ones: test_envoy_reads_names_of_up_to_256_bytes.
keys = st.text().filter(lambda name: len(json.dumps(name)) <= 256)
scalars = st.none() | st.booleans() | numbers | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
names = keys.filter(lambda name: "\\" not in json.dumps(name, ensure_ascii=False))
bodies = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["gpt-4o", 'quote"d']),
        "stream": st.booleans() | st.sampled_from([None, "true", 1]),
        "stream_options": scalars
        | st.lists(scalars, max_size=2)
        | st.fixed_dictionaries({}, optional={"include_usage": values, "more": values}),
        "messages": values,
    },
).flatmap(
    lambda known: st.dictionaries(names, values, max_size=4).flatmap(
        lambda more: st.permutations(list({**more, **known}.items())).map(dict)
    )
)


def as_wished(body: dict[str, Any], *, model: str | None) -> dict[str, Any]:
    """Return what shall reach the upstream: the rule of the script, in Python."""
    wished = dict(body)
    if body.get("stream") is True:
        options = body.get("stream_options")
        wished["stream_options"] = (options if isinstance(options, dict) else {}) | {
            "include_usage": True
        }
    if model is not None:
        wished["model"] = model
    return wished


@settings(
    max_examples=150,
    deadline=None,  # Shared cores: an example may wait.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    body=bodies,
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    throttled=st.booleans(),
)
async def test_a_body_changes_in_what_the_route_wishes_and_in_nothing_else(
    lab: EnvoyLab, body: dict[str, Any], indent: int | None, *, ascii_only: bool, throttled: bool
) -> None:
    lab.forget()
    names_are_plain = not any("\\" in json.dumps(name, ensure_ascii=ascii_only) for name in body)
    text = json.dumps(body, indent=indent, ensure_ascii=ascii_only and names_are_plain)
    headers = {"x-lab-outcome": "throttle" if throttled else "allow"}
    await lab.client.send("POST", CHAT, headers=headers, body=text.encode())

    (reached,) = (lab.economy if throttled else lab.premium).last
    model = "gpt-4o-mini" if throttled else None
    wished = as_wished(body, model=model)
    assert json.loads(reached.body) == wished
    if wished == body:
        assert reached.body == text.encode()


async def test_what_is_not_edited_keeps_its_bytes(lab: EnvoyLab) -> None:
    """The order of a schema's properties is the order in which a model answers."""
    sent = b'{"z":1, "stream":true ,"seed":12345678901234567,"schema":{"b":1.10,"a":"\\u00e9"}}'
    headers = {"content-type": "application/json"}
    await lab.client.send("POST", CHAT, headers=headers, body=sent)

    (reached,) = lab.premium.last
    assert reached.body == b'{"stream_options":{"include_usage":true},' + sent[1:]


@pytest.mark.parametrize(("name_bytes", "status"), [(256, 200), (257, 400)])
async def test_envoy_reads_names_of_up_to_256_bytes(
    lab: EnvoyLab, name_bytes: int, status: int
) -> None:
    answer = await lab.client.send("POST", CHAT, body=json.dumps({"n" * name_bytes: 1}).encode())

    assert answer.status == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"stream=true",
        b'{"stream":true',
        b'{"stream":true,}',
        b'{"stream" true}',
        b'{"stream":}',
        b'{"a":"\\"}',
        b'{"a":[1,2}',
        b'{"\\u0073tream":true}',
        b'{"stream":true,"stream_options":{"include_usage":true},"stream_options":null}',
        b'{"stream":true,"stream_options":{"include_usage":true,"include_usage":false}}',
        b"{" + b",".join(b'"%d":0' % number for number in range(1001)) + b"}",
        gzip.compress(b'{"stream":true}', mtime=0),
    ],
    ids=lambda body: body[:20].decode(errors="replace"),
)
async def test_a_body_in_which_a_stream_could_hide_does_not_reach_a_model(
    lab: EnvoyLab, body: bytes
) -> None:
    answer = await lab.client.send("POST", CHAT, body=body)

    assert answer.status == 400
    if body:
        assert answer.header("content-type") == "application/problem+json"
        assert answer.json()["code"] == "UNREADABLE_BODY"
        assert not lab.premium.last


# --- Sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("outcome", ["allow", "throttle"])
async def test_a_call_of_three_megabytes_is_borne(lab: EnvoyLab, path: str, outcome: str) -> None:
    unique = lab.unique(path)
    content = "x" * (3 * MEBIBYTE)
    messages = [{"role": "user", "content": content}]
    body = COMPLETION | {"messages": messages, "stream": True, "x_lab_usage": GIVEN}
    answer = await lab.client.post(unique, body, headers={"x-lab-outcome": outcome})

    assert answer.status == 200
    (reached,) = _model(lab, outcome).last
    assert json.loads(reached.body)["messages"][0]["content"] == content
    assert token_usage(await lab.log.entry(unique)) is not None


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, GEMINI])
async def test_a_call_above_the_limit_is_refused_and_not_cut(lab: EnvoyLab, path: str) -> None:
    """With a bare socket: clients differ in how they take an answer before they have sent all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.envoy.port("ingress"))
    size = 16 * MEBIBYTE
    writer.write(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n".encode())
    writer.write(b'{"a":"' + b"x" * (9 * MEBIBYTE))
    answer = asyncio.ensure_future(reader.readline())
    async with asyncio.timeout(60.0):
        while not answer.done():  # More keeps coming, as from a client who has more to send.
            writer.write(b"x" * 1024)
            await asyncio.wait({answer}, timeout=0.1)
    status = answer.result()
    writer.transport.abort()

    assert status == b"HTTP/1.1 413 Payload Too Large\r\n"
    assert not lab.premium.last


async def test_a_denied_call_is_not_read_to_its_end(lab: EnvoyLab) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.envoy.port("ingress"))
    writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nx-lab-outcome: deny\r\n".encode())
    writer.write(b'content-length: 3000000\r\n\r\n{"model":')
    status = await reader.readline()
    writer.transport.abort()

    assert status == b"HTTP/1.1 429 Too Many Requests\r\n"


async def test_an_upload_of_twenty_megabytes_streams_through_untouched(lab: EnvoyLab) -> None:
    data = os.urandom(20_000_000)
    answer = await lab.client.send("PUT", "/files/one", body=data)

    seen = answer.json()
    assert seen["body_bytes"] == len(data)
    assert seen["body_sha256"] == hashlib.sha256(data).hexdigest()
    assert dict(seen["headers"])["content-length"] == str(len(data))


@pytest.mark.parametrize(
    "more",
    [{"x_lab_words": 1_000_000}, {"x_lab_words": 70_000, "stream": True}],
    ids=["a JSON answer of 5 MB", "70,000 events"],
)
async def test_the_tokens_of_a_very_long_answer_are_read(
    lab: EnvoyLab, more: dict[str, Any]
) -> None:
    """Envoy's defaults end at 4 MiB of JSON, and at 65,536 events."""
    unique = lab.unique(CHAT)
    await lab.client.post(unique, COMPLETION | {"x_lab_usage": GIVEN} | more)

    usage = token_usage(await lab.log.entry(unique))
    assert usage is not None
    assert usage["output"] == USAGE.output_total


def _model(lab: EnvoyLab, outcome: str) -> FakeLlm:
    return lab.economy if outcome == "throttle" else lab.premium
