"""What a call used, by table and by law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.usage import (
    UNITS_MAX,
    Call,
    MeteringRules,
    Outcome,
    ReportedTokens,
    Unmetered,
    UsageError,
    details_exceed_totals,
    measure,
    outcome_of,
    split_tokens,
    why_unmetered,
)

RULES = MeteringRules(
    unmetered_paths=frozenset({"/healthz"}), unmetered_statuses=frozenset({401, 403, 429})
)
TOKENS = ReportedTokens(input_tokens=11, output_tokens=7, cached_input_tokens=4, reasoning_tokens=2)


def make_call(
    *,
    decision: str | None = "allow",
    refused_at_gate: bool = False,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    status: int = 200,
    details: str = "via_upstream",
    looks_like_preflight: bool = False,
    tokens: ReportedTokens | None = None,
) -> Call:
    return Call(
        decision=decision,
        refused_at_gate=refused_at_gate,
        method=method,
        path=path,
        status=status,
        details=details,
        looks_like_preflight=looks_like_preflight,
        request_bytes=100,
        response_bytes=2000,
        tokens=tokens or ReportedTokens(),
    )


def measured(call: Call, rules: MeteringRules = RULES) -> dict[str, int]:
    return {one.meter: one.units for one in measure(call, rules)}


def test_a_call_counts_once_with_its_bytes_and_tokens() -> None:
    assert measured(make_call(tokens=TOKENS)) == {
        "api.calls": 1,
        "bytes.request": 100,
        "bytes.response": 2000,
        "llm.input_tokens": 7,
        "llm.cached_input_tokens": 4,
        "llm.output_tokens": 5,
        "llm.reasoning_tokens": 2,
    }


def test_nothing_is_written_down_for_a_zero_but_the_call_itself() -> None:
    assert measured(Call(decision="allow", refused_at_gate=False)) == {"api.calls": 1}


@pytest.mark.parametrize(
    ("decision", "refused_at_gate", "outcome"),
    [
        ("allow", False, Outcome.ALLOW),
        ("throttle", False, Outcome.THROTTLE),
        ("block", True, Outcome.BLOCK),
        ("block", False, Outcome.ALLOW),  # Envoy's shadow mode let it pass.
        (None, False, Outcome.NOT_DECIDED),
        (None, True, Outcome.NOT_DECIDED),
    ],
)
def test_the_outcome_is_what_became_of_the_call(
    decision: str | None,
    refused_at_gate: bool,  # noqa: FBT001 - pytest names it.
    outcome: Outcome,
) -> None:
    assert outcome_of(make_call(decision=decision, refused_at_gate=refused_at_gate)) is outcome


def test_a_decision_of_a_later_version_is_not_guessed() -> None:
    with pytest.raises(UsageError, match="unknown decision 'reroute'"):
        outcome_of(make_call(decision="reroute"))


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (make_call(), None),
        (make_call(refused_at_gate=True, status=200), Unmetered.REFUSED_AT_GATE),
        (make_call(details="route_not_found", status=404), Unmetered.NO_ROUTE),
        (make_call(details="internal_redirect", status=302), Unmetered.CONTINUED),
        (make_call(details="cors_response", method="OPTIONS"), Unmetered.PREFLIGHT),
        (make_call(method="OPTIONS", looks_like_preflight=True), Unmetered.PREFLIGHT),
        (make_call(method="OPTIONS"), None),
        (make_call(method="POST", looks_like_preflight=True), None),
        (make_call(path="/healthz"), Unmetered.PATH),
        (make_call(path="/healthz?verbose=1"), Unmetered.PATH),
        (make_call(path="/healthz/deep"), None),
        (make_call(path="/Healthz"), None),
        (make_call(path="/healthz;x=1"), None),
        (make_call(status=429), Unmetered.STATUS),
        (make_call(status=500), None),
        (make_call(status=0, details="downstream_remote_disconnect"), None),
    ],
)
def test_calls_that_are_no_usage(call: Call, why: Unmetered | None) -> None:
    assert why_unmetered(call, RULES) is why
    assert ("api.calls" in measured(call)) is (why is None)


def test_the_owner_may_meter_refusals_of_the_upstream() -> None:
    assert measured(make_call(status=429), MeteringRules())["api.calls"] == 1


@pytest.mark.parametrize("status", [200, 403, 429, 503])
def test_a_call_refused_at_the_gate_used_nothing(status: int) -> None:
    call = make_call(decision="block", refused_at_gate=True, status=status, tokens=TOKENS)

    assert measure(call, MeteringRules()) == ()


@pytest.mark.parametrize("call", [make_call(status=429, tokens=TOKENS), make_call(path="/healthz")])
def test_reported_tokens_count_although_the_call_does_not(call: Call) -> None:
    assert "api.calls" not in measured(call)
    assert sum(measured(call).values()) == (18 if call.tokens is TOKENS else 0)


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
            (25, 50, 100, 15, 0),
        ),
        # Details without a total are all that is known.
        (ReportedTokens(cached_input_tokens=5, reasoning_tokens=3), (0, 5, 0, 0, 3)),
        # More details than the total: the total holds.
        (
            ReportedTokens(
                input_tokens=10,
                output_tokens=4,
                cached_input_tokens=8,
                cache_creation_tokens=8,
                reasoning_tokens=9,
            ),
            (0, 8, 2, 0, 4),
        ),
    ],
)
def test_each_token_is_of_one_kind(reported: ReportedTokens, expected: tuple[int, ...]) -> None:
    kinds = ("input", "cached_input", "cache_creation", "output", "reasoning")
    found = {one.meter: one.units for one in split_tokens(reported)}

    assert tuple(found.get(f"llm.{kind}_tokens", 0) for kind in kinds) == expected


counts = st.integers(0, 10**9)


@given(counts, counts, counts, counts, counts)
def test_kinds_sum_up_to_the_totals_whatever_the_details_say(
    total_in: int, total_out: int, cached: int, creation: int, reasoning: int
) -> None:
    reported = ReportedTokens(
        input_tokens=total_in,
        output_tokens=total_out,
        cached_input_tokens=cached,
        cache_creation_tokens=creation,
        reasoning_tokens=reasoning,
    )
    split = split_tokens(reported)

    assert sum(one.units for one in split) == total_in + total_out
    assert all(one.units > 0 for one in split)
    assert len({one.meter for one in split}) == len(split)
    if not details_exceed_totals(reported):
        assert {one.meter: one.units for one in split}.get("llm.cached_input_tokens", 0) == cached


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
