"""How long to wait before a message is sent again, and when to give it up. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Waits double from `first_ms` to `max_ms`; their sum stays within `total_ms`."""

    first_ms: int
    max_ms: int
    total_ms: int


def wait_ms(policy: RetryPolicy, *, failures: int, jitter: float, asked_ms: int = 0) -> int | None:
    """Return how long to wait after so many failed attempts, or None to give up.

    A receiver that asks for a longer wait gets it, up to `max_ms`. How often it is tried stays.

    `jitter`, from 0 to 1, spreads a wait by a quarter to both sides, so that messages that failed
    together don't come back together. The sum goes by the waits without it.
    """
    assert failures > 0, "nobody waits before a first attempt"
    waits_ms = [_nominal_ms(policy, failure) for failure in range(1, failures + 1)]
    if sum(waits_ms) > policy.total_ms:
        return None
    own_ms = int(waits_ms[-1] * (0.75 + 0.5 * jitter))
    return max(own_ms, min(asked_ms, policy.max_ms))


def _nominal_ms(policy: RetryPolicy, failure: int) -> int:
    # Beyond 2^32 every wait is at its maximum; the shift must not grow with the years.
    return min(policy.first_ms << min(failure - 1, 32), policy.max_ms)
