"""Tokens in one kind each, however a provider counts them: by table and by law."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.tokens import (
    EVENT_BYTES_PER_TOKEN,
    Estimates,
    ReportedTokens,
    details_exceed_totals,
    estimated_tokens,
    from_names,
    split_tokens,
)
from aforo_meter.domain.usage import UNITS_MAX, UsageError
from lab import llm_shapes

WORDS = ("Margins ", "are ", "what ", "is ", "left ", "when ", "the ", "work ", "is ", "paid. ")
KINDS = ("input", "cached_input", "cache_creation", "tool", "output", "reasoning")


def split(reported: ReportedTokens) -> tuple[int, ...]:
    found = {one.meter: one.units for one in split_tokens(reported)}
    return tuple(found.get(f"llm.{kind}_tokens", 0) for kind in KINDS)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        # Anthropic: 25 + 100 to the cache + 50 from it = 175.
        (
            ReportedTokens(
                input_tokens=175,
                output_tokens=15,
                cached_input_tokens=50,
                cache_creation_tokens=100,
            ),
            (25, 50, 100, 0, 15, 0),
        ),
        # What tools added to the input is a part of it.
        (ReportedTokens(input_tokens=30, tool_tokens=12), (18, 0, 0, 12, 0, 0)),
        # Details without a total are all that is known.
        (ReportedTokens(cached_input_tokens=5, reasoning_tokens=3), (0, 5, 0, 0, 0, 3)),
        # More details than the total: the total holds.
        (
            ReportedTokens(
                input_tokens=10,
                output_tokens=4,
                cached_input_tokens=8,
                cache_creation_tokens=8,
                tool_tokens=8,
                reasoning_tokens=9,
            ),
            (0, 8, 2, 0, 0, 4),
        ),
    ],
)
def test_each_token_is_of_one_kind(reported: ReportedTokens, expected: tuple[int, ...]) -> None:
    assert split(reported) == expected


counts = st.integers(0, 10**9)


@given(counts, counts, counts, counts, counts, counts)
def test_kinds_sum_up_to_the_totals_whatever_the_details_say(
    total_in: int, total_out: int, cached: int, creation: int, tool: int, reasoning: int
) -> None:
    reported = ReportedTokens(
        input_tokens=total_in,
        output_tokens=total_out,
        cached_input_tokens=cached,
        cache_creation_tokens=creation,
        tool_tokens=tool,
        reasoning_tokens=reasoning,
    )
    measures = split_tokens(reported)

    assert sum(one.units for one in measures) == total_in + total_out
    assert all(one.units > 0 for one in measures)
    assert len({one.meter for one in measures}) == len(measures)
    if not details_exceed_totals(reported):
        assert split(reported)[1] == cached


@pytest.mark.parametrize(
    "reported",
    [
        ReportedTokens(output_tokens=UNITS_MAX + 1),
        ReportedTokens(input_tokens=2**64 - 1),
        ReportedTokens(input_tokens=-1),
        ReportedTokens(input_tokens=5, cached_input_tokens=-5),
    ],
)
def test_a_count_that_cannot_be_true_bills_nobody(reported: ReportedTokens) -> None:
    with pytest.raises(UsageError):
        split_tokens(reported)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        # OpenAI: prompt_tokens and completion_tokens hold their details.
        (
            {"input_tokens": 58, "cached_tokens": 40, "output_tokens": 25, "reasoning_tokens": 5},
            (18, 40, 0, 0, 20, 5),
        ),
        # Anthropic: the cache stands beside input_tokens.
        (
            {
                "input_tokens": 25,
                "cache_read_input_tokens": 50,
                "cache_creation_input_tokens": 100,
                "output_tokens": 15,
            },
            (25, 50, 100, 0, 15, 0),
        ),
        # Gemini: promptTokenCount holds the cached ones; thoughts and tools stand beside.
        (
            {
                "input_tokens": 58,
                "cached_tokens": 40,
                "tool_use_prompt_tokens": 7,
                "output_tokens": 20,
                "thoughts_tokens": 5,
            },
            (18, 40, 0, 7, 20, 5),
        ),
        ({"output_tokens": 3}, (0, 0, 0, 0, 3, 0)),
        ({}, (0, 0, 0, 0, 0, 0)),
    ],
)
def test_a_name_says_what_its_count_includes(
    numbers: dict[str, int], expected: tuple[int, ...]
) -> None:
    assert split(from_names(numbers)) == expected


@pytest.mark.parametrize(
    ("shape", "streamed", "response_bytes", "input_tokens", "expected"),
    [
        ("openai", True, 2051, None, (30, 11)),
        ("openai.responses", True, 1270, None, (30, 10)),
        ("somebody", True, 2050, None, (30, 10)),
        ("openai", False, 401, None, (30, 101)),
        ("openai", True, 0, 43, (43, 0)),
    ],
)
def test_what_was_not_counted_is_estimated_from_bytes(
    shape: str,
    streamed: bool,  # noqa: FBT001 - pytest names it.
    response_bytes: int,
    input_tokens: int | None,
    expected: tuple[int, int],
) -> None:
    reported = estimated_tokens(
        shape=shape,
        streamed=streamed,
        request_bytes=120,
        response_bytes=response_bytes,
        input_tokens=input_tokens,
        estimates=Estimates(),
    )

    assert (reported.input_tokens, reported.output_tokens) == expected


def test_the_owner_may_know_better_how_long_a_token_is() -> None:
    reported = estimated_tokens(
        shape="openai",
        streamed=True,
        request_bytes=100,
        response_bytes=1000,
        input_tokens=None,
        estimates=Estimates(event_bytes_per_token=250, text_bytes_per_token=5),
    )

    assert (reported.input_tokens, reported.output_tokens) == (20, 4)


@pytest.mark.parametrize(
    ("shape", "events_of"),
    [
        ("openai", lambda answer: llm_shapes.chat_events(answer, include_usage=True)),
        ("openai.responses", llm_shapes.responses_events),
        ("anthropic", llm_shapes.messages_events),
        ("google", llm_shapes.gemini_events),
    ],
)
def test_the_figures_are_those_of_the_providers_shapes(
    shape: str, events_of: Callable[[llm_shapes.Answer], tuple[bytes, ...]]
) -> None:
    answer = llm_shapes.Answer(
        call_id="chatcmpl-lab00000001",
        model="gpt-4o-2024-08-06",
        words=tuple(itertools.islice(itertools.cycle(WORDS), 1000)),
        usage=llm_shapes.Usage(input=1000, output=1000),
    )
    measured = sum(len(event) for event in events_of(answer)) / 1000

    assert measured == pytest.approx(EVENT_BYTES_PER_TOKEN[shape], rel=0.02)
