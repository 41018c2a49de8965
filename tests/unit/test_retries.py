"""When a message is sent again, and when it is given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.retries import RetryPolicy, wait_ms
from aforo_meter.sending import retry_after_ms

DEFAULT = RetryPolicy(first_ms=5_000, max_ms=3_600_000, total_ms=86_400_000)
policies = st.builds(
    RetryPolicy,
    first_ms=st.integers(100, 10_000),
    max_ms=st.integers(10_000, 100_000),
    total_ms=st.integers(1, 500_000),
)


def waits_ms(policy: RetryPolicy, jitter: float) -> list[int]:
    waits: list[int] = []
    while (wait := wait_ms(policy, failures=len(waits) + 1, jitter=jitter)) is not None:
        waits.append(wait)
    return waits


@pytest.mark.parametrize(
    ("failures", "expected_ms"), [(1, 5_000), (2, 10_000), (5, 80_000), (11, 3_600_000)]
)
def test_waits_double_up_to_an_hour(failures: int, expected_ms: int) -> None:
    assert wait_ms(DEFAULT, failures=failures, jitter=0.5) == expected_ms


def test_a_message_is_tried_for_nearly_a_day_and_no_longer() -> None:
    total_ms = sum(waits_ms(DEFAULT, jitter=0.5))

    assert 82_800_000 < total_ms <= 86_400_000
    assert len(waits_ms(DEFAULT, jitter=0.5)) == 32


def test_a_message_that_failed_for_years_does_not_slow_the_arithmetic() -> None:
    assert wait_ms(DEFAULT, failures=5_000, jitter=0.5) is None


@given(policies, st.floats(0, 1))
def test_waits_stay_within_a_quarter_and_end(policy: RetryPolicy, jitter: float) -> None:
    nominal = waits_ms(policy, 0.5)
    spread = waits_ms(policy, jitter)

    assert len(spread) == len(nominal), "jitter does not change how often"
    assert sum(nominal) <= policy.total_ms
    assert all(0.75 * a - 1 <= b <= 1.25 * a for a, b in zip(nominal, spread, strict=True))


@given(policies, st.floats(0, 1), st.integers(0, 10**6))
def test_a_wait_that_is_asked_for_makes_it_longer_up_to_the_maximum(
    policy: RetryPolicy, jitter: float, asked_ms: int
) -> None:
    own = wait_ms(policy, failures=1, jitter=jitter)
    asked = wait_ms(policy, failures=1, jitter=jitter, asked_ms=asked_ms)

    if own is None or asked is None:
        assert own is asked, "how often it is tried stays"
        return
    assert asked == max(own, min(asked_ms, policy.max_ms))


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [
        ("120", 120),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("later", 0),
        ("9" * 5000, 86_400),
        ("Thu, 26 Nov 2026 12:02:00 GMT", 120),
        ("Thu, 26 Nov 2026 11:00:00 GMT", 0),
        ("Thu, 26 Nov 9999 11:00:00 GMT", 86_400),
        ("Thu, 99 Nov 2026 11:00:00 GMT", 0),
    ],
)
def test_a_wait_is_asked_for_in_seconds_or_by_a_date(header: str, expected_s: int) -> None:
    now_s = 1_795_694_400  # 2026-11-26 12:00

    assert retry_after_ms(header, now_s=now_s) == expected_s * 1000
