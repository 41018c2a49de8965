"""The stand-in for a language model's API: a ledger will be compared with what it says."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from lab.http_server import Reply, Request
from lab.llm_shapes import Usage, anthropic_usage, openai_usage
from lab.upstream import FakeLlm, usage_of

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GIVEN = {"input": 25, "cached": 50, "cache_creation": 100, "output": 15, "reasoning": 7}


def ask(llm: FakeLlm, path: str, body: object = None, *, tenant: str = "acme") -> Reply:
    """Post a JSON body, and let the answer be written to its end."""
    reply = unwritten(llm, path, body, tenant=tenant)
    if reply.on_written is not None:
        reply.on_written()
    return reply


def unwritten(llm: FakeLlm, path: str, body: object, *, tenant: str = "acme") -> Reply:
    return llm.answer(
        Request(
            method="POST",
            target=path,
            headers=(("x-aforo-tenant", tenant),),
            body=json.dumps(body).encode(),
        )
    )


def events(reply: Reply) -> list[dict[str, Any]]:
    assert reply.pieces is not None
    data = [piece.decode().rpartition("data: ")[2].strip() for piece in reply.pieces]
    return [json.loads(text) for text in data if text != "[DONE]"]


def test_json_answers_tell_the_usage_in_each_providers_words() -> None:
    llm = FakeLlm()
    told = [
        json.loads(ask(llm, path, {"x_lab_usage": GIVEN}).body)["usage"]
        for path in (CHAT, RESPONSES, MESSAGES)
    ]

    assert told[0]["prompt_tokens"] == 175
    assert told[0]["prompt_tokens_details"]["cached_tokens"] == 50
    assert told[0]["completion_tokens_details"]["reasoning_tokens"] == 7
    assert told[0]["completion_tokens"] == 22
    assert told[1]["input_tokens"] == 175
    assert told[1]["output_tokens_details"] == {"reasoning_tokens": 7}
    assert told[2] == {
        "input_tokens": 25,
        "cache_creation_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0},
        "cache_read_input_tokens": 50,
        "output_tokens": 22,
    }


@pytest.mark.parametrize("options", [{}, {"include_usage": False}, {"include_usage": 1}, None])
def test_a_chat_stream_tells_no_usage_unless_asked(options: object) -> None:
    reply = ask(FakeLlm(), CHAT, {"stream": True, "stream_options": options})

    assert not any("usage" in event for event in events(reply))
    assert (reply.pieces or ())[-1] == b"data: [DONE]\n\n"


def test_a_chat_stream_that_is_asked_tells_the_usage_in_its_last_event_and_in_no_other() -> None:
    body = {"stream": True, "stream_options": {"include_usage": True}, "x_lab_usage": GIVEN}
    *others, last = events(ask(FakeLlm(), CHAT, body))

    assert all(event["usage"] is None and event["choices"] for event in others)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 197


def test_the_other_streams_always_tell_the_usage() -> None:
    body = {"stream": True, "x_lab_usage": GIVEN}
    responses = events(ask(FakeLlm(), RESPONSES, body))
    messages = events(ask(FakeLlm(), MESSAGES, body))

    assert responses[-1]["response"]["usage"]["total_tokens"] == 197
    assert messages[0]["message"]["usage"]["cache_creation_input_tokens"] == 100
    (delta,) = (event for event in messages if event["type"] == "message_delta")
    assert delta["usage"] == {"output_tokens": 22}


def test_the_tally_counts_each_token_once_as_its_provider_told_it() -> None:
    llm = FakeLlm()
    for path in (CHAT, RESPONSES, MESSAGES):
        ask(llm, path, {"x_lab_usage": GIVEN})

    counts = llm.tally.tokens["acme"]
    assert counts["openai/gpt-4o-2024-08-06"] == {
        "calls": 2,
        "input": 250,
        "cached": 100,
        "cache_creation": 0,
        "output": 30,
        "reasoning": 14,
        "tool": 0,
    }
    assert counts["anthropic/claude-sonnet-4-5-20250929"] == {
        "calls": 1,
        "input": 25,
        "cached": 50,
        "cache_creation": 100,
        "output": 22,
        "reasoning": 0,
        "tool": 0,
    }


@pytest.mark.parametrize("as_told", [openai_usage, anthropic_usage])
def test_no_provider_tells_more_or_fewer_tokens_than_there_were(
    as_told: Callable[[Usage], Usage],
) -> None:
    usage = Usage(**GIVEN)

    assert as_told(usage).input_total == usage.input_total
    assert as_told(usage).output_total == usage.output_total


def test_an_answer_that_was_not_written_to_its_end_is_a_hit_but_no_usage() -> None:
    llm = FakeLlm()
    unwritten(llm, CHAT, {"stream": True})

    assert llm.tally.hits[CHAT] == 1
    assert llm.tally.tokens == {}


def test_tenants_are_counted_apart_and_together() -> None:
    llm = FakeLlm()
    ask(llm, CHAT, {"x_lab_usage": {"input": 3}}, tenant="acme")
    ask(llm, CHAT, {"x_lab_usage": {"input": 4}}, tenant="globex")

    assert llm.tally.tokens["globex"]["openai/gpt-4o-2024-08-06"]["input"] == 4
    assert llm.tally.total()["openai/gpt-4o-2024-08-06"]["input"] == 7


def test_the_cheaper_upstream_serves_its_own_model_whatever_is_asked_for() -> None:
    llm = FakeLlm(name="economy")
    chat = json.loads(ask(llm, CHAT, {"model": "gpt-4o"}).body)
    messages = json.loads(ask(llm, MESSAGES, {"model": "claude-opus-4-5"}).body)

    assert chat["model"] == "gpt-4o-mini-2024-07-18"
    assert messages["model"] == "claude-haiku-4-5-20251001"


@pytest.mark.parametrize(
    "given",
    [{"input": -1}, {"input": 1.5}, {"input": "many"}, {"inputs": 1}, [], "12"],
    ids=str,
)
def test_a_usage_that_makes_no_sense_is_refused_as_a_bad_request(given: object) -> None:
    llm = FakeLlm()

    assert ask(llm, CHAT, {"x_lab_usage": given}).status == 400
    assert llm.tally.tokens == {}


def test_a_whole_number_may_have_become_a_float_on_its_way() -> None:
    assert usage_of({"x_lab_usage": {"input": 11.0}}) == Usage(input=11)


def test_a_reset_forgets_hits_tokens_and_requests() -> None:
    llm = FakeLlm()
    ask(llm, CHAT, {})
    ask(llm, "/lab/reset")
    reply = llm.answer(Request(method="GET", target="/lab/tally", headers=(), body=b""))

    assert json.loads(reply.body) == {
        "name": "premium",
        "hits": {"total": 0},
        "calls": {},
        "tokens": {},
        "tenants": {},
    }


@pytest.mark.parametrize(("path", "status"), [("/status/503", 503), ("/echo", 200), ("/", 200)])
def test_other_paths_answer_with_what_they_are_asked_for(path: str, status: int) -> None:
    assert ask(FakeLlm(), path).status == status


def test_a_slow_path_is_slow() -> None:
    assert ask(FakeLlm(), "/slow/250").delay_s == 0.25
