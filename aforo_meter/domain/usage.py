"""What a call at the gateway used: which of it is metered, and how tokens are told apart. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

API_CALLS: Final = "api.calls"
BYTES_REQUEST: Final = "bytes.request"
BYTES_RESPONSE: Final = "bytes.response"
LLM_INPUT: Final = "llm.input_tokens"
LLM_CACHED_INPUT: Final = "llm.cached_input_tokens"
LLM_CACHE_CREATION: Final = "llm.cache_creation_tokens"
LLM_OUTPUT: Final = "llm.output_tokens"
LLM_REASONING: Final = "llm.reasoning_tokens"

# Fourteen digits, as the ingest contract has it. More in one call is a broken counter, not usage.
UNITS_MAX: Final = 99_999_999_999_999
TEXT_CHARACTERS_MAX: Final = 128
ROUTE_CHARACTERS_MAX: Final = 512


class UsageError(Exception):
    """What is said of a call can't be true, or can't be understood; nothing may be billed by it."""


class Outcome(StrEnum):
    """What became of a call at the gate."""

    ALLOW = "allow"
    THROTTLE = "throttle"
    BLOCK = "block"  # Refused by us: an intervention, never usage.
    NOT_DECIDED = "not_decided"  # It went on, or was refused, without an answer from us.


class Unmetered(StrEnum):
    """Why a call is no usage. Listed in the order they are looked for."""

    REFUSED_AT_GATE = "refused_at_gate"
    NO_ROUTE = "no_route"
    CONTINUED = "continued"  # An internal redirect: the same call has a second entry.
    PREFLIGHT = "preflight"
    PATH = "path"
    STATUS = "status"


UNMETERED_DETAILS: Final = {
    "route_not_found": Unmetered.NO_ROUTE,
    "internal_redirect": Unmetered.CONTINUED,
    "cors_response": Unmetered.PREFLIGHT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    meter: str
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTokens:
    """Tokens as the provider counted them: details are parts of their totals. None: not said."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int = 0  # part of input_tokens
    cache_creation_tokens: int = 0  # part of input_tokens
    reasoning_tokens: int = 0  # part of output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One finished call, as the gateway logged it."""

    decision: str | None  # What the decision said; None: there was none.
    refused_at_gate: bool  # The answer came from external authorization, whatever its status.
    method: str = ""
    path: str = ""
    status: int = 0
    details: str = ""  # Envoy's word for where the answer came from
    looks_like_preflight: bool = False  # A header that browsers put on preflights was logged.
    request_bytes: int = 0
    response_bytes: int = 0
    tokens: ReportedTokens = field(default_factory=ReportedTokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringRules:
    """What the owner excludes from usage."""

    unmetered_paths: frozenset[str] = frozenset()
    unmetered_statuses: frozenset[int] = frozenset()


def outcome_of(call: Call) -> Outcome:
    """Return what became of the call.

    A denial that did not refuse is Envoy's shadow mode at work: the call went on and counts.

    Raises:
        UsageError: The decision is a word that this version does not know.
    """
    if call.decision is None:
        return Outcome.NOT_DECIDED
    if call.decision == Outcome.BLOCK:
        return Outcome.BLOCK if call.refused_at_gate else Outcome.ALLOW
    if call.decision in {Outcome.ALLOW, Outcome.THROTTLE}:
        return Outcome(call.decision)
    raise UsageError(f"unknown decision {clip(call.decision)!r}")


def why_unmetered(call: Call, rules: MeteringRules) -> Unmetered | None:
    """Return why a call and its bytes are no usage, or None if they are."""
    if call.refused_at_gate:
        return Unmetered.REFUSED_AT_GATE
    if call.details in UNMETERED_DETAILS:
        return UNMETERED_DETAILS[call.details]
    # Where Envoy's own CORS filter does not answer it, the method and a header have to do.
    if call.method == "OPTIONS" and call.looks_like_preflight:
        return Unmetered.PREFLIGHT
    if call.path.partition("?")[0] in rules.unmetered_paths:
        return Unmetered.PATH
    if call.status in rules.unmetered_statuses:
        return Unmetered.STATUS
    return None


def measure(call: Call, rules: MeteringRules) -> tuple[Measure, ...]:
    """Return what a call used. Meters never overlap; zeros are left out.

    A call refused at the gate used nothing. Tokens that a provider reported were paid for, so they
    count even where the call itself is no usage.

    Raises:
        UsageError: A quantity is not believable.
    """
    if call.refused_at_gate:
        return ()
    measures: list[Measure] = []
    if why_unmetered(call, rules) is None:
        measures.append(Measure(meter=API_CALLS, units=1))
        measures += _counted(BYTES_REQUEST, call.request_bytes)
        measures += _counted(BYTES_RESPONSE, call.response_bytes)
    measures += split_tokens(call.tokens)
    return tuple(measures)


def split_tokens(reported: ReportedTokens) -> tuple[Measure, ...]:
    """Tell the kinds of tokens apart, so that each token is in exactly one of them.

    The total holds: details that exceed it are cut, cached input first served. Without a total the
    details are all that is known.

    Raises:
        UsageError: A count is negative or above UNITS_MAX.
    """
    input_units, cached_units, creation_units = _split(
        reported.input_tokens, reported.cached_input_tokens, reported.cache_creation_tokens
    )
    output_units, reasoning_units, _ = _split(reported.output_tokens, reported.reasoning_tokens, 0)
    return (
        *_counted(LLM_INPUT, input_units),
        *_counted(LLM_CACHED_INPUT, cached_units),
        *_counted(LLM_CACHE_CREATION, creation_units),
        *_counted(LLM_OUTPUT, output_units),
        *_counted(LLM_REASONING, reasoning_units),
    )


def details_exceed_totals(reported: ReportedTokens) -> bool:
    """Return whether `split_tokens` has to cut something: a provider that counts wrong."""
    details = reported.cached_input_tokens + reported.cache_creation_tokens
    return (reported.input_tokens is not None and details > reported.input_tokens) or (
        reported.output_tokens is not None and reported.reasoning_tokens > reported.output_tokens
    )


def clip(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return the text within the bound. What clients and providers write has no other."""
    return text[:characters_max]


def _split(total: int | None, first: int, second: int) -> tuple[int, int, int]:
    """Return (rest, first, second), which sum up to the total."""
    if min(total or 0, first, second) < 0:
        raise UsageError(f"a negative number of tokens: {min(total or 0, first, second)}")
    if total is None:
        return 0, first, second
    first = min(first, total)
    second = min(second, total - first)
    return total - first - second, first, second


def _counted(meter: str, units: int) -> Iterator[Measure]:
    if units > UNITS_MAX:
        raise UsageError(f"{meter}: {units} in one call is not believable, at most {UNITS_MAX}")
    if units:
        yield Measure(meter=meter, units=units)
