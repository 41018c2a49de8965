"""What a usage event is made of: meters, quantities, what became of a call at the gate. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from enum import StrEnum
from typing import Final

API_CALLS: Final = "api.calls"
BYTES_REQUEST: Final = "bytes.request"
BYTES_RESPONSE: Final = "bytes.response"
LLM_INPUT: Final = "llm.input_tokens"
LLM_CACHED_INPUT: Final = "llm.cached_input_tokens"
LLM_CACHE_CREATION: Final = "llm.cache_creation_tokens"
LLM_TOOL: Final = "llm.tool_tokens"
LLM_OUTPUT: Final = "llm.output_tokens"
LLM_REASONING: Final = "llm.reasoning_tokens"
MCP_TOOL_CALLS: Final = "mcp.tool_calls"
MCP_SESSIONS: Final = "mcp.sessions"

# Fourteen digits, as the ingest contract has it. More in one call is a broken counter, not usage.
UNITS_MAX: Final = 99_999_999_999_999
MICROS_PER_UNIT: Final = 1_000_000
TEXT_CHARACTERS_MAX: Final = 128
ROUTE_CHARACTERS_MAX: Final = 512
QUANTITY_CHARACTERS_MAX: Final = 64

METER_NAME: Final = re.compile(r"[a-z0-9._-]{1,128}")


class UsageError(Exception):
    """What is said of a call can't be true, or can't be understood; nothing may be billed by it."""


class Outcome(StrEnum):
    """What became of a call at the gate."""

    ALLOW = "allow"
    THROTTLE = "throttle"
    BLOCK = "block"  # Refused by us: an intervention, never usage.
    NOT_DECIDED = "not_decided"  # It went on, or was refused, without an answer from us.


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    meter: str
    units: int
    micros: int = 0  # 10^-6 of a unit, 0 to 999999


def outcome_of(decision: str, *, refused_at_gate: bool) -> Outcome:
    """Return what became of a call.

    A denial that did not refuse is Envoy's shadow mode at work: the call went on and counts.

    Args:
        decision: What the decision said; "": there was none.
        refused_at_gate: The answer came from external authorization, whatever its status.

    Raises:
        UsageError: The decision is a word that this version does not know.
    """
    if not decision:
        return Outcome.NOT_DECIDED
    if decision == Outcome.BLOCK:
        return Outcome.BLOCK if refused_at_gate else Outcome.ALLOW
    if decision in {Outcome.ALLOW, Outcome.THROTTLE}:
        return Outcome(decision)
    raise UsageError(f"unknown decision {clip(decision)!r}")


def counted(meter: str, units: int) -> Iterator[Measure]:
    """Yield the measure of a number of units; zeros are left out.

    Raises:
        UsageError: There are more than one call can have.
    """
    if units > UNITS_MAX:
        raise UsageError(f"{meter}: {units} in one call is not believable, at most {UNITS_MAX}")
    if units:
        yield Measure(meter=meter, units=units)


def quantity_micros(text: str) -> int | None:
    """Return a quantity that an upstream wrote, in millionths.

    Positive, finite and below 10^14; digits beyond the sixth decimal are rounded half to even.
    None: it is anything else, or nothing is left of it.
    """
    text = text.strip()
    if len(text) > QUANTITY_CHARACTERS_MAX or not text.isascii():
        return None
    try:
        quantity = Decimal(text)
    except InvalidOperation:
        return None
    if not quantity.is_finite() or not 0 < quantity < UNITS_MAX + 1:
        return None
    micros = int((quantity * MICROS_PER_UNIT).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
    return micros if 0 < micros < (UNITS_MAX + 1) * MICROS_PER_UNIT else None


def clip(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return the text within the bound. What clients and providers write has no other."""
    return text[:characters_max]
