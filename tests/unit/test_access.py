from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.domain.access import (
    SERVED_STATES,
    Decision,
    Known,
    Level,
    Margin,
    Outcome,
    Policy,
    Reason,
    SubscriptionState,
    decide,
    settle,
)
from aforo_authz.domain.features import Needs
from aforo_authz.domain.holding import holds_until_micros
from aforo_authz.domain.quotas import (
    Quota,
    Reservation,
    Standing,
    WindowKind,
    standing_of,
)
from aforo_authz.policies import NOBODY, STRANGER
from aforo_authz.quotas import InMemoryQuotas
from tests.authz_samples import (
    NOW,
    PERIOD,
    STALE_MAX,
    make_credential,
    make_guard,
    make_known,
    make_margin,
    make_policy,
    make_quota,
    micros,
)

CHAT = Needs(features=("chat",))
HOUR_MICROS = 3_600_000_000
DAY_START_S = micros("2026-03-15") // 1_000_000


def decided(known: Known, needs: Needs = CHAT, *, now_micros: int = NOW) -> Decision:
    return decide(known, needs, now_micros=now_micros, stale_max_micros=STALE_MAX)


async def settled(
    known: Known, store: InMemoryQuotas, needs: Needs = CHAT, *, now_micros: int = NOW
) -> Decision:
    """Decide with the store's help, as `Authorization` does."""
    decision = decided(known, needs, now_micros=now_micros)
    if not decision.reservations:
        return decision
    counted = await store.reserve("acme", decision.reservations, 1.0)
    return settle(decision, counted, now_micros=now_micros)


# The order of the checks: product.md's table. Each row breaks one thing more than the next.

TOKENS_USED_UP = make_quota("tokens", meter="llm.output_tokens", limit_units=10)
BROKEN = make_policy(
    TOKENS_USED_UP, state=SubscriptionState.SUSPENDED, features=(), period_micros=PERIOD
)
BLOCKED = make_margin(Level.BLOCK, used={"tokens": (DAY_START_S, 10)})


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (NOBODY, Reason.UNAUTHENTICATED),
        (STRANGER, Reason.UNKNOWN_CREDENTIAL),
        (
            make_known(BROKEN, BLOCKED, credential=make_credential(revoked=True)),
            Reason.CREDENTIAL_REVOKED,
        ),
        (make_known(BROKEN, BLOCKED), Reason.SUBSCRIPTION_INACTIVE),
        (
            make_known(replace(BROKEN, state=SubscriptionState.ACTIVE), BLOCKED),
            Reason.FEATURE_NOT_ENTITLED,
        ),
        (make_known(make_policy(TOKENS_USED_UP), BLOCKED), Reason.MARGIN_LIMIT_EXCEEDED),
        (
            make_known(make_policy(TOKENS_USED_UP), replace(BLOCKED, level=Level.THROTTLE)),
            Reason.QUOTA_EXCEEDED,
        ),
        (make_known(make_policy(), replace(BLOCKED, level=Level.THROTTLE)), Reason.MARGIN_THROTTLE),
        (make_known(make_policy(), make_margin(Level.WARN)), Reason.ALLOWED),
    ],
    ids=lambda value: str(value) if isinstance(value, Reason) else "",
)
def test_a_decision_names_the_most_basic_reason(known: Known, reason: Reason) -> None:
    assert decided(known).reason is reason


def test_reasons_are_listed_in_the_order_of_the_checks() -> None:
    assert list(Reason) == [
        Reason.UNAUTHENTICATED,
        Reason.UNKNOWN_CREDENTIAL,
        Reason.CREDENTIAL_REVOKED,
        Reason.SUBSCRIPTION_INACTIVE,
        Reason.FEATURE_NOT_ENTITLED,
        Reason.MARGIN_LIMIT_EXCEEDED,
        Reason.QUOTA_EXCEEDED,
        Reason.MARGIN_THROTTLE,
        Reason.ALLOWED,
    ]


@pytest.mark.parametrize("reason", Reason)
def test_only_refusals_block(reason: Reason) -> None:
    outcome = Decision(reason=reason, needs=CHAT).outcome

    assert outcome is {
        Reason.ALLOWED: Outcome.ALLOW,
        Reason.MARGIN_THROTTLE: Outcome.THROTTLE,
    }.get(reason, Outcome.BLOCK)


# Credentials and subscriptions


@pytest.mark.parametrize(
    ("expires_at_micros", "reason"),
    [
        (None, Reason.ALLOWED),
        (NOW + 1, Reason.ALLOWED),
        (NOW, Reason.CREDENTIAL_REVOKED),
        (NOW - 1, Reason.CREDENTIAL_REVOKED),
    ],
)
def test_a_credential_is_refused_from_the_instant_it_expires(
    expires_at_micros: int | None, reason: Reason
) -> None:
    credential = make_credential(expires_at_micros=expires_at_micros)

    assert decided(make_known(credential=credential)).reason is reason


@pytest.mark.parametrize("state", SubscriptionState)
def test_four_states_of_a_subscription_are_served(state: SubscriptionState) -> None:
    served = state.value in {"trialing", "active", "past_due", "expiring_soon"}
    decision = decided(make_known(make_policy(state=state)))

    assert decision.reason is (Reason.ALLOWED if served else Reason.SUBSCRIPTION_INACTIVE)
    assert (state in SERVED_STATES) is served


def test_a_credential_without_a_policy_has_no_subscription() -> None:
    known = Known(presented=True, credential=make_credential(), policy=None)

    decision = decided(known)

    assert decision.reason is Reason.SUBSCRIPTION_INACTIVE
    assert decision.credential == make_credential()


# Features


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(features=()), Reason.ALLOWED),
        (Needs(features=("chat", "search")), Reason.ALLOWED),
        (Needs(features=("chat", "images")), Reason.FEATURE_NOT_ENTITLED),
        (Needs(known=False), Reason.FEATURE_NOT_ENTITLED),
    ],
    ids=["none", "both", "one is missing", "no rule names the path"],
)
def test_every_feature_that_a_call_needs_must_be_entitled(needs: Needs, reason: Reason) -> None:
    assert decided(make_known(), needs).reason is reason


# Margins


@pytest.mark.parametrize(
    ("level", "reason"),
    [
        (Level.NONE, Reason.ALLOWED),
        (Level.WARN, Reason.ALLOWED),
        (Level.THROTTLE, Reason.MARGIN_THROTTLE),
        (Level.BLOCK, Reason.MARGIN_LIMIT_EXCEEDED),
    ],
)
def test_a_level_is_acted_on(level: Level, reason: Reason) -> None:
    decision = decided(make_known(margin=make_margin(level)))

    assert decision.reason is reason
    assert decision.level is level


def test_an_unknown_margin_turns_nobody_away() -> None:
    decision = decided(make_known(margin=None))

    assert decision.reason is Reason.ALLOWED
    assert not decision.stale


@pytest.mark.parametrize("policy_says_so", [False, True])
@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("age_micros", [0, STALE_MAX, STALE_MAX + 1, 10 * STALE_MAX])
def test_a_stale_margin_never_blocks_unless_the_policy_says_so(
    age_micros: int, level: Level, *, policy_says_so: bool
) -> None:
    policy = make_policy(stale_margin_blocks=policy_says_so)
    margin = make_margin(level, as_of_micros=NOW - age_micros)

    decision = decided(make_known(policy, margin))

    stale = age_micros > STALE_MAX
    blocks = level is Level.BLOCK and (policy_says_so or not stale)
    assert (decision.outcome is Outcome.BLOCK) is blocks
    assert decision.stale is stale


def test_a_stale_block_still_slows_down() -> None:
    margin = make_margin(Level.BLOCK, as_of_micros=NOW - STALE_MAX - 1)

    assert decided(make_known(margin=margin)).reason is Reason.MARGIN_THROTTLE


def test_a_margin_is_as_old_as_the_last_word_of_its_partition() -> None:
    margin = make_margin(Level.BLOCK, as_of_micros=NOW - 100 * STALE_MAX)

    decision = decided(make_known(margin=margin, margin_confirmed_micros=NOW - STALE_MAX))

    assert decision.reason is Reason.MARGIN_LIMIT_EXCEEDED
    assert not decision.stale


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ((Level.NONE, NOW + 1), Reason.ALLOWED),
        ((Level.THROTTLE, NOW + 1), Reason.MARGIN_THROTTLE),
        ((Level.BLOCK, NOW + 1), Reason.MARGIN_LIMIT_EXCEEDED),
        ((Level.NONE, NOW), Reason.MARGIN_LIMIT_EXCEEDED),
    ],
    ids=["none", "throttle", "block", "over"],
)
def test_an_override_softens_the_level_until_its_end(
    override: tuple[Level, int], reason: Reason
) -> None:
    known = make_known(make_policy(override=override), make_margin(Level.BLOCK))

    assert decided(known).reason is reason


def test_an_override_never_makes_it_worse() -> None:
    known = make_known(make_policy(override=(Level.BLOCK, NOW + 1)), make_margin(Level.NONE))

    assert decided(known).reason is Reason.ALLOWED


@pytest.mark.parametrize("policy_says_so", [False, True])
def test_a_new_period_frees_who_was_blocked_in_the_last_one(*, policy_says_so: bool) -> None:
    """Nobody works out a margin for a tenant who can't send anything."""
    known = make_known(
        make_policy(stale_margin_blocks=policy_says_so),
        make_margin(Level.BLOCK, period_end_micros=PERIOD[1]),
        margin_confirmed_micros=PERIOD[1],
    )

    before = decided(known, now_micros=PERIOD[1] - 1)
    after = decided(known, now_micros=PERIOD[1])

    assert before.reason is Reason.MARGIN_LIMIT_EXCEEDED
    assert after.reason is Reason.ALLOWED


# Guards


@pytest.mark.parametrize(
    ("features", "needs", "applies"),
    [
        (["chat"], ("chat",), True),
        (["chat"], ("chat", "search"), True),
        (["chat", "search"], ("chat",), True),
        (["search"], ("chat",), False),
        (["chat"], (), False),
        ([], ("chat",), True),
        ([], (), True),
    ],
)
def test_a_guard_holds_for_calls_that_need_its_features(
    features: list[str], needs: tuple[str, ...], *, applies: bool
) -> None:
    margin = make_margin(Level.NONE, make_guard(Level.BLOCK, features=features))

    decision = decided(make_known(margin=margin), Needs(features=needs))

    assert decision.reason is (Reason.MARGIN_LIMIT_EXCEEDED if applies else Reason.ALLOWED)
    assert decision.guard_id == ("chat-margin" if applies else "")


@pytest.mark.parametrize("own", Level)
@pytest.mark.parametrize("guarded", [Level.WARN, Level.THROTTLE, Level.BLOCK])
def test_the_worse_of_tenant_and_guard_is_acted_on_and_a_guard_is_named_where_it_is_worse(
    own: Level, guarded: Level
) -> None:
    decision = decided(make_known(margin=make_margin(own, make_guard(guarded))))

    assert decision.level is max(own, guarded)
    assert decision.guard_id == ("chat-margin" if guarded > own else "")


def test_of_several_guards_the_worst_that_the_call_concerns_decides() -> None:
    margin = make_margin(
        Level.NONE,
        make_guard(Level.BLOCK, guard_id="search-margin", features=["search"]),
        make_guard(Level.THROTTLE, guard_id="all-margin", features=[]),
        make_guard(Level.WARN, guard_id="chat-margin"),
    )

    chat = decided(make_known(margin=margin))
    search = decided(make_known(margin=margin), Needs(features=("search",)))

    assert (chat.reason, chat.guard_id) == (Reason.MARGIN_THROTTLE, "all-margin")
    assert (search.reason, search.guard_id) == (Reason.MARGIN_LIMIT_EXCEEDED, "search-margin")


@pytest.mark.parametrize("policy_says_so", [False, True])
def test_a_stale_guard_never_blocks_unless_the_policy_says_so(*, policy_says_so: bool) -> None:
    margin = make_margin(Level.WARN, make_guard(Level.BLOCK), as_of_micros=NOW - STALE_MAX - 1)

    decision = decided(make_known(make_policy(stale_margin_blocks=policy_says_so), margin))

    expected = Reason.MARGIN_LIMIT_EXCEEDED if policy_says_so else Reason.MARGIN_THROTTLE
    assert (decision.reason, decision.guard_id) == (expected, "chat-margin")
    assert decision.stale


@pytest.mark.parametrize(
    ("override", "level", "guard_id"),
    [
        ((Level.NONE, NOW + 1), Level.NONE, ""),
        ((Level.WARN, NOW + 1), Level.WARN, ""),  # The tenant's own is as bad: no guard decided.
        ((Level.THROTTLE, NOW + 1), Level.THROTTLE, "chat-margin"),
        ((Level.NONE, NOW), Level.BLOCK, "chat-margin"),
    ],
)
def test_an_override_softens_guards_too(
    override: tuple[Level, int], level: Level, guard_id: str
) -> None:
    margin = make_margin(Level.WARN, make_guard(Level.BLOCK))

    decision = decided(make_known(make_policy(override=override), margin))

    assert (decision.level, decision.guard_id) == (level, guard_id)


def test_a_new_period_ends_the_levels_of_guards() -> None:
    margin = make_margin(Level.NONE, make_guard(Level.BLOCK), period_end_micros=PERIOD[1])
    known = make_known(margin=margin, margin_confirmed_micros=PERIOD[1])

    assert decided(known, now_micros=PERIOD[1] - 1).reason is Reason.MARGIN_LIMIT_EXCEEDED
    assert decided(known, now_micros=PERIOD[1]).reason is Reason.ALLOWED


def test_in_shadow_mode_a_guard_is_told_and_nothing_refused() -> None:
    margin = make_margin(Level.NONE, make_guard(Level.BLOCK))

    decision = decided(make_known(make_policy(shadow=True), margin))

    assert decision.reason is Reason.ALLOWED
    assert decision.shadow_reason is Reason.MARGIN_LIMIT_EXCEEDED
    assert decision.guard_id == "chat-margin"


async def test_a_guard_is_still_named_once_quotas_are_counted() -> None:
    margin = make_margin(Level.NONE, make_guard(Level.THROTTLE))

    decision = await settled(make_known(make_policy(make_quota()), margin), InMemoryQuotas())

    assert (decision.reason, decision.guard_id) == (Reason.MARGIN_THROTTLE, "chat-margin")


# Quotas


async def test_the_last_unit_of_a_quota_is_allowed_and_the_next_one_refused() -> None:
    known, store = make_known(make_policy(make_quota(limit_units=2))), InMemoryQuotas()

    reasons = [(await settled(known, store)).reason for _ in range(4)]

    assert reasons == [Reason.ALLOWED, Reason.ALLOWED, Reason.QUOTA_EXCEEDED, Reason.QUOTA_EXCEEDED]


async def test_a_refused_call_is_told_when_the_window_ends() -> None:
    known, store = make_known(make_policy(make_quota(limit_units=0 + 1))), InMemoryQuotas()
    await settled(known, store)

    decision = await settled(known, store)

    assert decision.retry_after_s == 12 * 3600
    assert decision.standings[0].remaining_units == 0


async def test_a_call_heavier_than_its_whole_quota_is_not_told_to_wait() -> None:
    known = make_known(make_policy(make_quota(limit_units=3)))

    decision = await settled(known, InMemoryQuotas(), Needs(features=("chat",), weight_units=4))

    assert decision.reason is Reason.QUOTA_EXCEEDED
    assert decision.retry_after_s is None


async def test_of_several_exceeded_quotas_the_longest_wait_is_told() -> None:
    quotas = (
        make_quota("minute", limit_units=1, window=WindowKind.MINUTE),
        make_quota("hour", limit_units=1, window=WindowKind.HOUR),
    )
    known, store = make_known(make_policy(*quotas)), InMemoryQuotas()
    await settled(known, store)

    assert (await settled(known, store)).retry_after_s == 3600


@pytest.mark.parametrize("used_units", [9, 10, 11])
def test_a_quota_that_is_known_afterwards_refuses_from_its_limit_on(used_units: int) -> None:
    quota = make_quota("tokens", meter="llm.output_tokens", limit_units=10)
    margin = make_margin(used={"tokens": (DAY_START_S, used_units)})

    decision = decided(make_known(make_policy(quota), margin))

    assert not decision.reservations
    assert (decision.reason is Reason.QUOTA_EXCEEDED) is (used_units >= 10)


def test_usage_of_another_window_says_nothing() -> None:
    quota = make_quota("tokens", meter="llm.output_tokens", limit_units=10)
    margin = make_margin(used={"tokens": (DAY_START_S - 86_400, 10)})

    decision = decided(make_known(make_policy(quota), margin))

    assert decision.reason is Reason.ALLOWED
    assert decision.standings[0].remaining_units == 10


def test_a_quota_of_other_features_does_not_count_the_call() -> None:
    policy = make_policy(make_quota(features=["search"], limit_units=0))

    decision = decided(make_known(policy), CHAT)

    assert decision.reason is Reason.ALLOWED
    assert not decision.reservations
    assert not decision.standings


@pytest.mark.parametrize("meter", ["api.calls", "llm.output_tokens"])
async def test_a_soft_quota_lets_pass_and_shows_that_it_is_exceeded(meter: str) -> None:
    known = make_known(make_policy(make_quota(meter=meter, limit_units=0, soft=True)))

    decision = await settled(known, InMemoryQuotas())

    assert decision.reason is Reason.ALLOWED
    assert [s.exceeded for s in decision.standings] == [True]


def test_counting_starts_where_the_ledger_stands() -> None:
    margin = make_margin(used={"calls": (DAY_START_S, 40)})

    decision = decided(make_known(make_policy(make_quota()), margin))

    assert [r.seed_units for r in decision.reservations] == [40]


def test_without_an_answer_of_the_store_the_call_passes_marked_stale() -> None:
    known = make_known(make_policy(make_quota(limit_units=0)), make_margin(Level.THROTTLE))

    decision = settle(decided(known), None, now_micros=NOW)

    assert decision.reason is Reason.MARGIN_THROTTLE
    assert decision.stale
    assert not decision.reservations


def test_a_throttled_call_is_counted_too() -> None:
    decision = decided(make_known(make_policy(make_quota()), make_margin(Level.THROTTLE)))

    assert decision.reason is Reason.MARGIN_THROTTLE
    assert decision.reservations


@pytest.mark.parametrize(
    "policy",
    [
        make_policy(make_quota(), state=SubscriptionState.PAUSED),
        make_policy(make_quota(), features=()),
        make_policy(make_quota(), TOKENS_USED_UP),
    ],
    ids=["inactive", "not entitled", "another quota is used up"],
)
def test_a_call_that_is_refused_anyway_is_not_counted(policy: Policy) -> None:
    margin = make_margin(used={"tokens": (DAY_START_S, 10)})

    decision = decided(make_known(policy, margin))

    assert decision.outcome is Outcome.BLOCK
    assert not decision.reservations


# Shadow mode


@pytest.mark.parametrize(
    ("policy", "margin", "reason"),
    [
        (make_policy(state=SubscriptionState.PAUSED), make_margin(), Reason.SUBSCRIPTION_INACTIVE),
        (make_policy(features=()), make_margin(), Reason.FEATURE_NOT_ENTITLED),
        (make_policy(), make_margin(Level.BLOCK), Reason.MARGIN_LIMIT_EXCEEDED),
        (make_policy(), make_margin(Level.THROTTLE), Reason.MARGIN_THROTTLE),
        (make_policy(), make_margin(used={"tokens": (DAY_START_S, 10)}), Reason.QUOTA_EXCEEDED),
        (make_policy(), make_margin(used={"calls": (DAY_START_S, 100)}), Reason.QUOTA_EXCEEDED),
        (make_policy(), make_margin(), None),
    ],
    ids=["inactive", "feature", "block", "throttle", "tokens", "calls", "nothing"],
)
async def test_shadow_mode_lets_pass_counts_and_keeps_the_reason(
    policy: Policy, margin: Margin, reason: Reason | None
) -> None:
    known = make_known(replace(policy, quotas=(make_quota(), TOKENS_USED_UP), shadow=True), margin)
    before = decided(known).reservations[0].seed_units

    decision = await settled(known, InMemoryQuotas())

    assert decision.reason is Reason.ALLOWED
    assert decision.shadow_reason is reason
    assert decision.retry_after_s is None
    assert {s.quota.quota_id: s.used_units for s in decision.standings}["calls"] == before + 1


def test_shadow_mode_keeps_the_reason_while_the_store_is_away() -> None:
    known = make_known(
        make_policy(make_quota(), TOKENS_USED_UP, shadow=True),
        make_margin(used={"tokens": (DAY_START_S, 10)}),
    )

    decision = settle(decided(known), None, now_micros=NOW)

    assert decision.reason is Reason.ALLOWED
    assert decision.shadow_reason is Reason.QUOTA_EXCEEDED


@pytest.mark.parametrize("known", [NOBODY, STRANGER])
def test_shadow_mode_is_of_a_tenant_and_lets_no_stranger_in(known: Known) -> None:
    assert decided(known).outcome is Outcome.BLOCK


# Laws

levels = st.sampled_from(Level)
units = st.integers(0, 10**12)
calls = st.just("api.calls")
measured = st.just("llm.output_tokens")


def lists_of_quotas(meters: st.SearchStrategy[str]) -> st.SearchStrategy[list[Quota]]:
    quotas = st.builds(
        make_quota,
        st.sampled_from(["a", "b", "c"]),
        meter=meters,
        limit_units=units,
        window=st.sampled_from(WindowKind),
        soft=st.booleans(),
    )
    return st.lists(quotas, max_size=3, unique_by=lambda quota: quota.quota_id)


several_quotas = lists_of_quotas(calls | measured)


def final(known: Known, used_units: dict[str, int], *, weight_units: int = 1) -> Decision:
    """Decide, with counters that stand at `used_units` by quota id."""
    needs = Needs(features=("chat",), weight_units=weight_units)
    decision = decided(known, needs)
    counted = tuple(
        standing_of(
            wish.quota,
            wish.window,
            used_units=used_units[wish.quota.quota_id],
            asked_units=wish.units,
        )
        for wish in decision.reservations
    )
    return settle(decision, counted, now_micros=NOW) if decision.reservations else decision


def with_usage(
    policy_quotas: list[Quota], used_units: dict[str, int]
) -> dict[str, tuple[int, int]]:
    decision = decided(make_known(make_policy(*policy_quotas)))
    counting: list[Reservation | Standing] = [*decision.reservations, *decision.standings]
    return {
        each.quota.quota_id: (each.window.start_s, used_units[each.quota.quota_id])
        for each in counting
    }


@given(
    policy_quotas=several_quotas,
    used=st.fixed_dictionaries({"a": units, "b": units, "c": units}),
    more=st.sampled_from(["a", "b", "c"]),
    by=st.integers(1, 10**12),
    weight=st.integers(1, 10**6),
)
def test_more_usage_never_turns_a_denial_into_an_allowance(
    policy_quotas: list[Quota], used: dict[str, int], more: str, by: int, weight: int
) -> None:
    def known(used_units: dict[str, int]) -> Known:
        margin = make_margin(used=with_usage(policy_quotas, used_units))
        return make_known(make_policy(*policy_quotas), margin)

    raised = {**used, more: used[more] + by}
    before = final(known(used), used, weight_units=weight)
    after = final(known(raised), raised, weight_units=weight)

    assert before.outcome is not Outcome.BLOCK or after.outcome is Outcome.BLOCK


@given(level=levels, worse=levels, age=st.integers(0, 3 * STALE_MAX), blocks=st.booleans())
def test_a_worse_margin_never_makes_a_decision_better(
    level: Level, worse: Level, age: int, *, blocks: bool
) -> None:
    order = [Outcome.ALLOW, Outcome.THROTTLE, Outcome.BLOCK]
    policy = make_policy(stale_margin_blocks=blocks)
    first, second = (
        decided(make_known(policy, make_margin(each, as_of_micros=NOW - age))).outcome
        for each in sorted([level, worse])
    )

    assert order.index(first) <= order.index(second)


@given(policy_quotas=several_quotas, level=levels, state=st.sampled_from(SubscriptionState))
def test_shadow_mode_never_denies_and_gives_the_reason_that_would_have_been(
    policy_quotas: list[Quota], level: Level, state: SubscriptionState
) -> None:
    used = dict.fromkeys("abc", 10**6)
    margin = make_margin(level, used=with_usage(policy_quotas, used))
    policy = make_policy(*policy_quotas, state=state)

    strict = final(make_known(policy, margin), used)
    shadowed = final(make_known(replace(policy, shadow=True), margin), used)

    assert shadowed.outcome is Outcome.ALLOW
    assert (shadowed.shadow_reason or Reason.ALLOWED) is strict.reason


periods = st.tuples(
    st.integers(micros("2024-01-01"), micros("2031-12-31")),
    st.integers(HOUR_MICROS, 400 * 24 * HOUR_MICROS),
    st.integers(HOUR_MICROS, 400 * 24 * HOUR_MICROS),
).map(lambda each: (each[0], each[0] + each[1], each[0] + each[1] + each[2]))


@given(
    # Where a measured quota refuses, counters aren't asked: its wait is told alone.
    policy_quotas=lists_of_quotas(calls) | lists_of_quotas(measured),
    period=periods,
    now_micros=st.integers(micros("2024-01-01"), micros("2032-12-31")),
    used=st.fixed_dictionaries({"a": units, "b": units, "c": units}),
    weight=st.integers(1, 10**6),
)
def test_waiting_as_long_as_told_is_enough(
    policy_quotas: list[Quota],
    period: tuple[int, int, int],
    now_micros: int,
    used: dict[str, int],
    weight: int,
) -> None:
    """Counters stand at `used` in the windows of now, and at nothing in every other one."""
    policy = make_policy(*policy_quotas, period_micros=period)
    needs = Needs(features=("chat",), weight_units=weight)

    def decided_at(at_micros: int, counters: dict[tuple[str, int], int]) -> Decision:
        by_quota = {quota_id: (at_s, count) for (quota_id, at_s), count in counters.items()}
        known = make_known(policy, make_margin(period_end_micros=None, used=by_quota))
        decision = decided(known, needs, now_micros=at_micros)
        counted = tuple(
            standing_of(w.quota, w.window, used_units=w.seed_units, asked_units=w.units)
            for w in decision.reservations
        )
        return settle(decision, counted, now_micros=at_micros)

    empty = decided_at(now_micros, {})
    counters = {
        (standing.quota.quota_id, standing.window.start_s): used[standing.quota.quota_id]
        for standing in empty.standings
    }
    refused = decided_at(now_micros, counters)
    if refused.retry_after_s is None:
        return

    later = decided_at(now_micros + refused.retry_after_s * 1_000_000, counters)

    assert later.outcome is not Outcome.BLOCK


instants = st.integers(NOW - 2 * STALE_MAX, NOW + 2 * STALE_MAX)


@given(
    policy_quotas=several_quotas,
    level=levels,
    guarded=levels,
    instants=st.fixed_dictionaries(
        {
            name: st.none() | instants
            for name in ("expiry", "override", "margin", "confirmed", "period")
        }
    ),
    later_micros=st.integers(0, 4 * STALE_MAX),
    shadow=st.booleans(),
    used=st.fixed_dictionaries({"a": units, "b": units, "c": units}),
)
def test_a_decision_given_again_is_the_one_that_would_be_made(
    policy_quotas: list[Quota],
    level: Level,
    guarded: Level,
    instants: dict[str, int | None],
    later_micros: int,
    used: dict[str, int],
    *,
    shadow: bool,
) -> None:
    override = instants["override"]
    known = make_known(
        make_policy(
            *policy_quotas,
            shadow=shadow,
            override=None if override is None else (Level.WARN, override),
        ),
        make_margin(
            level,
            *([make_guard(guarded)] if guarded is not Level.NONE else []),
            as_of_micros=instants["margin"] or NOW,
            period_end_micros=instants["period"],
            used=with_usage(policy_quotas, used),
        ),
        credential=make_credential(expires_at_micros=instants["expiry"]),
    )
    known = replace(known, margin_confirmed_micros=instants["confirmed"] or 0)
    decision = decided(known)

    until_micros = holds_until_micros(decision, known, now_micros=NOW, stale_max_micros=STALE_MAX)

    if NOW + later_micros < until_micros:
        assert decided(known, now_micros=NOW + later_micros) == decision
    if until_micros > NOW:
        # Up to the last moment: that is where a wrong edge shows.
        last_micros = min(until_micros - 1, NOW + 4 * STALE_MAX)
        assert decided(known, now_micros=last_micros) == decision


EDGE = NOW + 60_000_000


@pytest.mark.parametrize(
    "known",
    [
        make_known(credential=make_credential(expires_at_micros=EDGE)),
        make_known(make_policy(override=(Level.WARN, EDGE)), make_margin(Level.BLOCK)),
        make_known(margin=make_margin(Level.BLOCK, period_end_micros=EDGE)),
        make_known(margin=make_margin(Level.BLOCK, as_of_micros=EDGE - STALE_MAX - 1)),
        make_known(
            margin=make_margin(Level.BLOCK, as_of_micros=0),
            margin_confirmed_micros=EDGE - STALE_MAX - 1,
        ),
        make_known(make_policy(make_quota(window=WindowKind.MINUTE))),
    ],
    ids=["expiry", "override", "billing period", "stale margin", "stale partition", "window"],
)
def test_a_decision_holds_until_the_very_moment_that_changes_it(known: Known) -> None:
    before, at = (decided(known, now_micros=now) for now in (EDGE - 1, EDGE))

    assert before == decided(known)
    assert at != before
    until = holds_until_micros(before, known, now_micros=NOW, stale_max_micros=STALE_MAX)
    assert until == EDGE
