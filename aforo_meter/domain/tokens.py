"""Tokens of language models: what a provider counted, each token in one kind. Pure.

Providers differ in what a count includes. OpenAI's input holds the cached ones, Anthropic's does
not; Gemini's output leaves out thoughts, OpenAI's holds its reasoning. `ReportedTokens` is the
inclusive form, into which everything is brought.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aforo_meter.domain.usage import (
    LLM_CACHE_CREATION,
    LLM_CACHED_INPUT,
    LLM_INPUT,
    LLM_OUTPUT,
    LLM_REASONING,
    LLM_TOOL,
    Measure,
    UsageError,
    counted,
)

# Bytes of a streamed answer for each token in it, envelopes of events included, by its shape.
# Measured with lab/llm_shapes.py over answers of a thousand words, each an event and taken for one
# token (tests/unit/test_tokens.py repeats it). A provider that puts several tokens into an event is
# estimated too low, never too high.
EVENT_BYTES_PER_TOKEN: Final[Mapping[str, int]] = {
    "openai": 205,  # Chat completions.
    "openai.responses": 127,
    "anthropic": 120,
    "google": 329,
}
EVENT_BYTES_PER_TOKEN_ELSE: Final = 205
# Of text, which is what requests and plain answers hold: OpenAI's own rule of thumb for English
# (help.openai.com, "What are tokens and how to count them?"); Envoy's request_info takes the same.
TEXT_BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTokens:
    """Tokens as the provider counted them: details are parts of their totals. None: not said."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int = 0  # part of input_tokens
    cache_creation_tokens: int = 0  # part of input_tokens
    tool_tokens: int = 0  # part of input_tokens
    reasoning_tokens: int = 0  # part of output_tokens

    @property
    def said(self) -> bool:
        """Whether anything was said at all."""
        return self != NOTHING


NOTHING: Final = ReportedTokens()


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCall:
    """What is known of a call to a model, whoever said it."""

    provider: str = ""
    model: str = ""
    tokens: ReportedTokens = NOTHING
    partial: bool = False  # Not all of the answer could be read.
    unreadable: bool = False  # What it says of tokens are no numbers of tokens.


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """How many bytes stand for a token where nobody counted."""

    event_bytes_per_token: int = 0  # 0: as measured for the provider.
    text_bytes_per_token: int = TEXT_BYTES_PER_TOKEN


def split_tokens(reported: ReportedTokens) -> tuple[Measure, ...]:
    """Tell the kinds of tokens apart, so that each token is in exactly one of them.

    The total holds: details that exceed it are cut, cached input first served. Without a total the
    details are all that is known.

    Raises:
        UsageError: A count is negative or not believable.
    """
    rest, cached, creation, tool = split(
        reported.input_tokens,
        reported.cached_input_tokens,
        reported.cache_creation_tokens,
        reported.tool_tokens,
    )
    output, reasoning, _, _ = split(reported.output_tokens, reported.reasoning_tokens)
    return (
        *counted(LLM_INPUT, rest),
        *counted(LLM_CACHED_INPUT, cached),
        *counted(LLM_CACHE_CREATION, creation),
        *counted(LLM_TOOL, tool),
        *counted(LLM_OUTPUT, output),
        *counted(LLM_REASONING, reasoning),
    )


def split(
    total: int | None, first: int, second: int = 0, third: int = 0
) -> tuple[int, int, int, int]:
    """Return (rest, first, second, third), which sum up to the total.

    Raises:
        UsageError: One is negative.
    """
    least = min(total or 0, first, second, third)
    if least < 0:
        raise UsageError(f"a negative number of tokens: {least}")
    if total is None:
        return 0, first, second, third
    first = min(first, total)
    second = min(second, total - first)
    third = min(third, total - first - second)
    return total - first - second - third, first, second, third


def details_exceed_totals(reported: ReportedTokens) -> bool:
    """Return whether `split_tokens` has to cut something: a provider that counts wrong."""
    details = reported.cached_input_tokens + reported.cache_creation_tokens + reported.tool_tokens
    return (reported.input_tokens is not None and details > reported.input_tokens) or (
        reported.output_tokens is not None and reported.reasoning_tokens > reported.output_tokens
    )


def from_names(numbers: Mapping[str, int]) -> ReportedTokens:
    """Return what names and numbers say, as `json_to_metadata` may have taken them from a body.

    A name says what its count includes. `cached_tokens`, `cache_creation_tokens`, `tool_tokens`
    are parts of `input_tokens`, `reasoning_tokens` of `output_tokens`. `cache_read_input_tokens`
    and `cache_creation_input_tokens` stand beside it, as in Anthropic's answers, and so do
    `tool_use_prompt_tokens` and `thoughts_tokens`, as in Gemini's.
    """
    beside_input = {
        "cached_input_tokens": numbers.get("cache_read_input_tokens", 0),
        "cache_creation_tokens": numbers.get("cache_creation_input_tokens", 0),
        "tool_tokens": numbers.get("tool_use_prompt_tokens", 0),
    }
    thoughts = numbers.get("thoughts_tokens", 0)
    total_in, total_out = numbers.get("input_tokens"), numbers.get("output_tokens")
    return ReportedTokens(
        input_tokens=None if total_in is None else total_in + sum(beside_input.values()),
        output_tokens=None if total_out is None else total_out + thoughts,
        cached_input_tokens=beside_input["cached_input_tokens"] + numbers.get("cached_tokens", 0),
        cache_creation_tokens=beside_input["cache_creation_tokens"]
        + numbers.get("cache_creation_tokens", 0),
        tool_tokens=beside_input["tool_tokens"] + numbers.get("tool_tokens", 0),
        reasoning_tokens=thoughts + numbers.get("reasoning_tokens", 0),
    )


def estimated_tokens(
    *,
    shape: str,
    streamed: bool,
    request_bytes: int,
    response_bytes: int,
    input_tokens: int | None,
    estimates: Estimates,
) -> ReportedTokens:
    """Return what a call probably used whose answer did not come to its end.

    Args:
        shape: Whose events they are, as EVENT_BYTES_PER_TOKEN names them.
        streamed: The answer came as events, not as one JSON text.
        request_bytes: Of the body; most of it is the prompt.
        response_bytes: Of the body, as far as it went.
        input_tokens: As somebody estimated them from the request; None: nobody did.
        estimates: The figures.
    """
    per_token = estimates.text_bytes_per_token
    if input_tokens is None:
        input_tokens = -(-request_bytes // per_token)
    if streamed:
        per_token = estimates.event_bytes_per_token or EVENT_BYTES_PER_TOKEN.get(
            shape, EVENT_BYTES_PER_TOKEN_ELSE
        )
    return ReportedTokens(input_tokens=input_tokens, output_tokens=-(-response_bytes // per_token))
