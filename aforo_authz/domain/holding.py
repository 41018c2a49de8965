"""How long a decision holds, so that it need not be made again. Pure."""

from typing import Final

from aforo_authz.domain.access import Decision, Known, true_at_micros
from aforo_authz.domain.quotas import SECOND_MICROS

FOREVER_MICROS: Final = 1 << 63


def holds_until_micros(
    decision: Decision, known: Known, *, now_micros: int, stale_max_micros: int
) -> int:
    """Return the first instant at which `decide` may say something else of the same things.

    Until then, exclusive, the decision can be given again without being made again.

    Args:
        decision: What `decide` said at `now_micros`.
        known: What it was made on.
        now_micros: Unix time in microseconds, UTC.
        stale_max_micros: As given to `decide`.
    """
    instants: list[int] = []
    if decision.retry_after_s is not None:
        return now_micros  # A wait is over sooner with every moment.
    if known.credential is not None and known.credential.expires_at_micros is not None:
        instants.append(known.credential.expires_at_micros)
    if known.policy is not None:
        instants.append(known.policy.override_until_micros)
    margin = known.margin
    if margin is not None:
        instants.append(true_at_micros(known, margin) + stale_max_micros + 1)
        if margin.period_end_micros is not None:
            instants.append(margin.period_end_micros)
    windows = [each.window for each in decision.standings]
    windows += [each.window for each in decision.reservations]
    instants += [window.end_s * SECOND_MICROS for window in windows]
    return min((each for each in instants if each > now_micros), default=FOREVER_MICROS)
