"""The trace tells what `decide` decided: they can't disagree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.domain.access import (
    PASSING,
    Decision,
    Known,
    Level,
    Reason,
    SubscriptionState,
    decide,
    settle,
)
from aforo_authz.domain.features import Needs
from aforo_authz.domain.quotas import standing_of
from aforo_authz.domain.trace import trace
from aforo_authz.policies import NOBODY, STRANGER
from tests.authz_samples import (
    NOW,
    STALE_MAX,
    make_credential,
    make_guard,
    make_known,
    make_margin,
    make_policy,
    make_quota,
)

edges = st.sampled_from([None, NOW - 1, NOW, NOW + 1])
policies = st.builds(
    lambda state, limit, override, blocks, shadow: make_policy(
        make_quota(limit_units=limit),
        make_quota("tokens", meter="llm.input_tokens", limit_units=limit, soft=shadow),
        state=state,
        override=None if override is None else (Level.WARN, override),
        stale_margin_blocks=blocks,
        shadow=shadow,
    ),
    st.sampled_from([SubscriptionState.ACTIVE, SubscriptionState.PAUSED]),
    st.sampled_from([0, 1, 2]),
    edges,
    st.booleans(),
    st.booleans(),
)
guards = st.lists(
    st.builds(
        lambda level, features: make_guard(level, features=features),
        st.sampled_from([Level.WARN, Level.THROTTLE, Level.BLOCK]),
        st.sampled_from([(), ("chat",), ("video",)]),
    ),
    max_size=2,
).map(lambda found: sorted(found, key=lambda guard: -guard.level))
margins = st.none() | st.builds(
    lambda level, guarded, age, end: make_margin(
        level, *guarded, as_of_micros=NOW - age, period_end_micros=end
    ),
    st.sampled_from(Level),
    guards,
    st.sampled_from([0, STALE_MAX, STALE_MAX + 1]),
    edges,
)
knowns = st.sampled_from([NOBODY, STRANGER]) | st.builds(
    lambda policy, margin, revoked, expiry: make_known(
        policy, margin, credential=make_credential(revoked=revoked, expires_at_micros=expiry)
    ),
    policies,
    margins,
    st.booleans(),
    edges,
)
all_needs = st.sampled_from(
    [Needs(features=("chat",)), Needs(features=("video",)), Needs(known=False), Needs()]
)


def final(known: Known, needs: Needs, used: int) -> Decision:
    decision = decide(known, needs, now_micros=NOW, stale_max_micros=STALE_MAX)
    if not decision.reservations:
        return decision
    counted = tuple(
        standing_of(wish.quota, wish.window, used_units=used, asked_units=wish.units)
        for wish in decision.reservations
    )
    return settle(decision, counted, now_micros=NOW)


@given(known=knowns, needs=all_needs, used=st.integers(0, 3))
def test_the_first_check_that_failed_is_the_reason(known: Known, needs: Needs, used: int) -> None:
    decision = final(known, needs, used)

    checks = trace(known, decision, now_micros=NOW, stale_max_micros=STALE_MAX)

    failed = [check.reason for check in checks if check.passed is False]
    reason = decision.shadow_reason or decision.reason
    assert failed == ([] if reason in PASSING else [reason])
    reached = [check.passed is not None for check in checks]
    assert reached == sorted(reached, reverse=True)
    assert all(check.detail for check in checks)


BY_GUARD = "by the guard chat-margin; the tenant's own is"
OVERRIDE = "an override is in force until 2026-03-15 12:00:01 UTC"


@pytest.mark.parametrize(
    ("own", "guarded", "override", "told"),
    [
        (Level.WARN, Level.BLOCK, None, f"level block {BY_GUARD} warn"),
        (Level.BLOCK, Level.BLOCK, None, "level block"),
        (
            Level.NONE,
            Level.BLOCK,
            Level.NONE,
            f"level none, although the guard chat-margin's is block: {OVERRIDE}",
        ),
        (
            Level.NONE,
            Level.BLOCK,
            Level.WARN,
            f"level warn {BY_GUARD} none, although the guard chat-margin's is block: {OVERRIDE}",
        ),
    ],
)
def test_the_guard_that_decided_is_named(
    own: Level, guarded: Level, override: Level | None, told: str
) -> None:
    policy = make_policy(override=None if override is None else (override, NOW + 1_000_000))
    known = make_known(policy, make_margin(own, make_guard(guarded)))
    decision = final(known, Needs(features=("chat",)), 0)

    checks = trace(known, decision, now_micros=NOW, stale_max_micros=STALE_MAX)

    (detail,) = [c.detail for c in checks if c.reason is Reason.MARGIN_LIMIT_EXCEEDED]
    assert detail == told
