"""Tokens that the metadata of an event tells → measures. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from aforo_meter.domain.ingest_fields import CALL_TOKENS_METRIC, SNAKE
from aforo_meter.domain.ingest_values import MICROS_PER_UNIT, Rejection, either, shown, text_of
from aforo_meter.domain.tokens import ReportedTokens, split_tokens
from aforo_meter.domain.usage import LLM_INPUT, LLM_OUTPUT, UNITS_MAX

TOKEN_FIELDS: Final = (
    *("inputTokens", "outputTokens", "cachedInputTokens", "cacheCreationTokens"),
    "reasoningTokens",
)
TOKEN_NAMES: Final = frozenset({*TOKEN_FIELDS, *(SNAKE[name] for name in TOKEN_FIELDS)})


def token_measures(metadata: Mapping[str, Any]) -> Sequence[tuple[str, int]]:
    """Return the tokens that metadata tells, each in one kind: details are parts of their totals.

    Raises:
        Rejection: One is no whole number of at most 14 digits.
    """
    counts = [_tokens(metadata, name) for name in TOKEN_FIELDS]
    input_tokens, output_tokens, *details = counts
    if not any(details):  # Nearly always; and then there is nothing to tell apart.
        totals = ((LLM_INPUT, input_tokens), (LLM_OUTPUT, output_tokens))
        return [(meter, units * MICROS_PER_UNIT) for meter, units in totals if units]
    cached, creation, reasoning = (count or 0 for count in details)
    reported = ReportedTokens(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        cache_creation_tokens=creation,
        reasoning_tokens=reasoning,
    )
    return [(one.meter, one.units * MICROS_PER_UNIT) for one in split_tokens(reported)]


def _tokens(metadata: Mapping[str, Any], name: str) -> int | None:
    value = either(metadata, name)
    if value is None or (type(value) is int and 0 <= value <= UNITS_MAX):
        return value
    if type(value) is Decimal and value.is_finite() and value.adjusted() < len(str(UNITS_MAX)):
        whole = int(value)
        value = whole if whole == value else value
    if type(value) is not int or not 0 <= value <= UNITS_MAX:
        raise Rejection(
            f"metadata.{name}", f"a whole number from 0 to {UNITS_MAX}, this is {shown(value)}"
        )
    return value


def call_tokens(metadata: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Return the tokens that a call has used after all; of none a zero says so."""
    for name in ("provider", "model"):
        if not text_of(name, either(metadata, name)):
            raise Rejection(
                f"metadata.{name}", f"is required of {CALL_TOKENS_METRIC}: its tokens have a price"
            )
    if all(either(metadata, name) is None for name in TOKEN_FIELDS):
        raise Rejection(
            "metadata.outputTokens",
            f"is required of {CALL_TOKENS_METRIC}, or another of {', '.join(TOKEN_FIELDS)}; if"
            " there were none, 0",
        )
    return tuple(token_measures(metadata)) or ((LLM_OUTPUT, 0),)
