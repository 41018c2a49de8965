"""What a usage event is made of, by table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.usage import (
    UNITS_MAX,
    Outcome,
    UsageError,
    counted,
    outcome_of,
    quantity_micros,
)


@pytest.mark.parametrize(
    ("decision", "refused_at_gate", "outcome"),
    [
        ("allow", False, Outcome.ALLOW),
        ("throttle", False, Outcome.THROTTLE),
        ("block", True, Outcome.BLOCK),
        ("block", False, Outcome.ALLOW),  # Envoy's shadow mode let it pass.
        ("", False, Outcome.NOT_DECIDED),
        ("", True, Outcome.NOT_DECIDED),
    ],
)
def test_the_outcome_is_what_became_of_the_call(
    decision: str,
    refused_at_gate: bool,  # noqa: FBT001 - pytest names it.
    outcome: Outcome,
) -> None:
    assert outcome_of(decision, refused_at_gate=refused_at_gate) is outcome


def test_a_decision_of_a_later_version_is_not_guessed() -> None:
    with pytest.raises(UsageError, match="unknown decision 'reroute'"):
        outcome_of("reroute", refused_at_gate=False)


def test_a_count_that_no_call_can_have_bills_nobody() -> None:
    assert [one.units for one in counted("bytes.request", UNITS_MAX)] == [UNITS_MAX]
    assert list(counted("bytes.request", 0)) == []
    with pytest.raises(UsageError, match=r"bytes\.request: 100000000000000 in one call"):
        list(counted("bytes.request", UNITS_MAX + 1))


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1", 1_000_000),
        (" 2.5 ", 2_500_000),
        ("+3", 3_000_000),
        ("1e3", 1_000_000_000),
        ("0.000001", 1),
        ("0.0000005", None),  # Half to even: nothing is left.
        ("0.0000015", 2),
        ("1.0000025", 1_000_002),
        ("99999999999999.999999", 99_999_999_999_999_999_999),
        ("99999999999999.9999999", None),
        ("100000000000000", None),
        ("0", None),
        ("-1", None),
        ("NaN", None),
        ("sNaN", None),
        ("Infinity", None),
        ("", None),
        ("ten", None),
        ("1,5", None),
        ("1e999999999", None),
        ("1" * 65, None),
        ("\u0661", None),  # A digit, but not one of ours.
    ],
)
def test_a_quantity_is_positive_finite_and_below_ten_to_the_fourteenth(
    text: str, micros: int | None
) -> None:
    assert quantity_micros(text) == micros


@given(st.text(max_size=80))
def test_no_text_is_more_than_no_quantity(text: str) -> None:
    micros = quantity_micros(text)

    assert micros is None or 0 < micros < (UNITS_MAX + 1) * 1_000_000
