"""What was decided beside what was logged: the arithmetic, to the last call and micro."""

import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.alerts import completeness_alert
from aforo_meter.domain.completeness import (
    FILLED,
    Basis,
    Compared,
    Kind,
    Score,
    Sum,
    closed_before,
    estimates,
    score,
    scores,
    shared,
    total,
)
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.usage import API_CALLS, BYTES_RESPONSE, LLM_INPUT

HOUR = 1_793_491_200_000_000
UNIT = 1_000_000
GPT, ECHO = Kind("sub-1", "openai", "gpt-4o", ""), Kind("sub-1", "", "", "")


def row(outcome: str, decided: int, logged: int, *, tenant: str = "acme") -> Compared:
    return Compared(tenant, "api", HOUR, outcome, decided, logged)


def test_a_score_tells_what_share_was_logged() -> None:
    found = score([row("allow", 200, 198), row("block", 100, 100)])

    assert (found.decided, found.logged, found.missing) == (300, 298, 2)
    assert found.score_bp == 9933


def test_only_what_is_whole_is_a_hundred_percent() -> None:
    assert score([row("allow", 10**6, 10**6 - 1)]).score_bp == 9999
    assert score([row("allow", 10**6, 10**6)]).score_bp == 10_000


def test_where_nothing_was_decided_nothing_can_be_said() -> None:
    unknown = score([row("allow", 0, 3)])

    assert (unknown.score_bp, unknown.surplus) == (None, 3)
    assert not unknown.is_below(10_000)


def test_what_one_outcome_has_too_much_does_not_hide_what_another_lacks() -> None:
    found = score([row("allow", 10, 7), row("block", 5, 8)])

    assert (found.missing, found.surplus, found.missing_passed) == (3, 3, 3)


def test_refused_calls_that_are_missing_are_no_lost_usage() -> None:
    found = score([row("block", 5, 0), row("throttle", 5, 4)])

    assert (found.missing, found.missing_passed, found.to_fill) == (6, 1, 1)


def test_what_was_filled_in_is_not_filled_in_again_and_not_taken_for_logged() -> None:
    found = score([row("allow", 10, 4), row(FILLED, 0, 5)])

    assert (found.logged, found.missing, found.filled, found.to_fill) == (4, 6, 5, 1)


ROWS = st.lists(
    st.builds(
        Compared,
        st.sampled_from(["acme", "globex"]),
        st.sampled_from(["api", "api,chat"]),
        st.sampled_from([HOUR, HOUR + HOUR_MICROS]),
        st.sampled_from(["allow", "throttle", "block"]),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
    ),
    unique_by=lambda one: one[:4],
    max_size=24,
)


@given(rows=ROWS)
def test_decided_is_logged_and_missing_less_what_is_too_much(rows: Sequence[Compared]) -> None:
    whole = total(scores(rows))

    assert whole == score(rows)
    assert whole.decided == whole.logged + whole.missing - whole.surplus
    assert whole.score_bp is None or 0 <= whole.score_bp <= 10_000
    assert (whole.score_bp == 10_000) == (whole.decided > 0 and whole.missing == 0)


@given(rows=ROWS, more=st.integers(1, 100))
def test_a_call_that_arrives_late_never_lowers_a_score(rows: Sequence[Compared], more: int) -> None:
    late = [rows[0]._replace(logged=rows[0].logged + more), *rows[1:]] if rows else []

    assert (total(scores(late)).score_bp or 0) >= (total(scores(rows)).score_bp or 0)


def test_an_hour_is_closed_once_its_grace_has_passed() -> None:
    grace = HOUR_MICROS // 4
    assert closed_before(HOUR + HOUR_MICROS + grace - 1, grace) == HOUR
    assert closed_before(HOUR + HOUR_MICROS + grace, grace) == HOUR + HOUR_MICROS


@given(amount=st.integers(0, 10**12), weights=st.lists(st.integers(0, 10**9), max_size=20))
def test_what_is_shared_is_shared_to_the_last(amount: int, weights: Sequence[int]) -> None:
    parts = shared(amount, weights)

    assert sum(parts) == (amount if weights else 0)
    whole = sum(weights)
    assert all(
        abs(part - Fraction(amount * weight, whole)) < 1
        for part, weight in zip(parts, weights, strict=True)
        if whole
    )


def test_lost_calls_are_taken_for_average_ones() -> None:
    """Four calls arrived: 4 calls, 1,000 bytes. Two are lost: 2 calls, 500 bytes."""
    sums = [Sum(ECHO, API_CALLS, 4 * UNIT, 0), Sum(ECHO, BYTES_RESPONSE, 1000 * UNIT, 0)]
    found = list(estimates(Basis(calls=4, sums=sums), 2))

    assert [(one.number, one.stands_for) for one in found] == [(0, 1), (1, 1)]
    assert [dict(one.measures) for one in found] == [
        {API_CALLS: UNIT, BYTES_RESPONSE: 250 * UNIT}
    ] * 2


def test_tokens_are_spread_so_that_no_estimate_looks_like_one_large_request() -> None:
    sums = [Sum(GPT, API_CALLS, 2 * UNIT, 0), Sum(GPT, LLM_INPUT, 3001 * UNIT, 0)]
    found = list(estimates(Basis(calls=2, sums=sums), 4))

    assert [one.stands_for for one in found] == [1, 1, 1, 1]
    assert [dict(one.measures)[LLM_INPUT] for one in found] == [1500 * UNIT + UNIT // 2] * 4


def test_estimates_weigh_what_the_calls_weighed() -> None:
    sums = [Sum(ECHO, API_CALLS, 2 * UNIT, 8 * UNIT)]
    found = list(estimates(Basis(calls=2, sums=sums), 3))

    assert [estimate.weight_units for estimate in found] == [5, 5, 5]


def test_the_first_estimates_are_a_fair_sample_of_all() -> None:
    """Of four calls three were echoes; so are three of each four estimates."""
    sums = [Sum(ECHO, API_CALLS, 3 * UNIT, 0), Sum(GPT, API_CALLS, UNIT, 0)]
    kinds = [one.kind for one in estimates(Basis(calls=4, sums=sums), 100)]

    for count in range(0, 101, 4):
        assert kinds[:count].count(ECHO) == 3 * count // 4


def test_usage_that_no_call_is_counted_by_is_shared_by_all() -> None:
    """4 bytes of a kind without calls, for two of which one is lost: each has the average of 2."""
    sums = [Sum(ECHO, API_CALLS, 2 * UNIT, 0), Sum(GPT, BYTES_RESPONSE, 4 * UNIT, 0)]
    found = list(estimates(Basis(calls=2, sums=sums), 2))

    assert sorted((one.number, one.stands_for, one.kind) for one in found) == [
        (0, 0, GPT),
        (0, 1, ECHO),
        (1, 0, GPT),
        (1, 1, ECHO),
    ]
    assert {one.measures for one in found if one.kind == GPT} == {((BYTES_RESPONSE, 2 * UNIT),)}


def test_without_a_call_that_arrived_nothing_is_made_up() -> None:
    assert list(estimates(Basis(), 10)) == []


KINDS = st.sampled_from([GPT, ECHO, Kind("sub-1", "anthropic", "claude", "search")])
METERS = st.sampled_from([API_CALLS, BYTES_RESPONSE, LLM_INPUT])


@given(
    sums=st.lists(
        st.builds(Sum, KINDS, METERS, st.integers(0, 10**12), st.just(0)),
        unique_by=lambda one: (one.kind, one.meter),
        max_size=9,
    ),
    arrived=st.integers(1, 10**6),
    lost=st.integers(1, 300),
)
def test_estimates_come_to_the_average_times_the_calls_rounded_once(
    sums: Sequence[Sum], arrived: int, lost: int
) -> None:
    found: Counter[tuple[Kind, str]] = Counter()
    numbers = []
    for estimate in estimates(Basis(calls=arrived, sums=sums), lost):
        numbers += [estimate.number] * estimate.stands_for
        for meter, quantity_micros in estimate.measures:
            assert quantity_micros > 0
            found[estimate.kind, meter] += quantity_micros

    for meter in {one.meter for one in sums}:
        used = [one for one in sums if one.meter == meter]
        whole = Fraction(sum(one.quantity_micros for one in used) * lost, arrived)
        assert sum(found[one.kind, meter] for one in used) == round(whole)
        for one in used:
            exact = Fraction(one.quantity_micros * lost, arrived)
            assert abs(found[one.kind, meter] - exact) < 2
    assert numbers == (list(range(lost)) if sums else [])


def test_an_alert_about_an_hour_is_always_the_same_one() -> None:
    low = Score(tenant_id="acme", hour_start_micros=HOUR, decided=10, logged=5, missing=5)
    first = completeness_alert(low, threshold_bp=9900, now_micros=HOUR + 1)
    later = completeness_alert(low, threshold_bp=9900, now_micros=HOUR + 2)
    other = Score(tenant_id="globex", hour_start_micros=HOUR, decided=10, logged=5, missing=5)

    assert first.message_id == later.message_id
    another = completeness_alert(other, threshold_bp=9900, now_micros=0)
    assert another.message_id != first.message_id
    message = json.loads(first.payload)
    assert message["type"] == "completeness.low"
    assert message["data"]["score_bp"] == 5000
    assert message["data"]["hour_start"] == "2026-11-01T00:00:00Z"
