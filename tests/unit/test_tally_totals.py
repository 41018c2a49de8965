"""How often calls were decided how: no decision is in two totals, and none in none."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.domain.access import Decision, Outcome, Reason
from aforo_authz.domain.features import Needs
from aforo_authz.tally import HOUR_S, NOBODY, Tally, Total
from tests.authz_samples import make_credential, make_policy

CHAT = Needs(features=("chat",))
HOUR = 1_773_576_000  # 2026-03-15 12:00 UTC


def decision(
    tenant_id: str = "acme", *, reason: Reason = Reason.ALLOWED, needs: Needs = CHAT
) -> Decision:
    return Decision(
        reason=reason,
        needs=needs,
        credential=make_credential(tenant_id=tenant_id),
        policy=make_policy(tenant_id=tenant_id),
    )


def count(tally: Tally, each: Decision, at_s: float) -> None:
    tally.count(each, round(at_s * 1_000_000))


def taken(tally: Tally, totals_max: int = 1000) -> list[Total]:
    tally.gather()
    return tally.take(totals_max)


def written(tally: Tally) -> list[Total]:
    totals = taken(tally)
    tally.written(totals)
    return totals


def test_decisions_are_added_up_by_hour_tenant_features_and_outcome() -> None:
    tally = Tally()
    for each, at_s in (
        (decision(), HOUR),
        (decision(), HOUR + 3599.999999),
        (decision(reason=Reason.QUOTA_EXCEEDED), HOUR + 1),
        (decision(reason=Reason.UNKNOWN_CREDENTIAL), HOUR + 1),
        (decision("globex"), HOUR + 1),
        (decision(needs=Needs(features=("chat", "images"))), HOUR + 1),
        (decision(), HOUR + HOUR_S),
    ):
        count(tally, each, at_s)

    assert sorted(written(tally)) == [
        (HOUR, "acme", ("chat",), Outcome.ALLOW, 2),
        (HOUR, "acme", ("chat",), Outcome.BLOCK, 2),
        (HOUR, "acme", ("chat", "images"), Outcome.ALLOW, 1),
        (HOUR, "globex", ("chat",), Outcome.ALLOW, 1),
        (HOUR + HOUR_S, "acme", ("chat",), Outcome.ALLOW, 1),
    ]


def test_strangers_are_nobodys_and_a_tenant_without_a_policy_is_still_one() -> None:
    tally = Tally()
    count(tally, Decision(reason=Reason.UNAUTHENTICATED, needs=CHAT), HOUR)
    count(
        tally,
        Decision(reason=Reason.SUBSCRIPTION_INACTIVE, needs=CHAT, credential=make_credential()),
        HOUR,
    )

    assert {total.tenant_id for total in written(tally)} == {NOBODY, "acme"}


def test_totals_grow_and_only_those_that_did_are_written_again() -> None:
    tally = Tally()
    count(tally, decision(), HOUR)
    count(tally, decision("globex"), HOUR)
    assert len(written(tally)) == 2

    count(tally, decision(), HOUR)

    assert [(total.tenant_id, total.decisions) for total in written(tally)] == [("acme", 2)]
    assert written(tally) == []


def test_what_could_not_be_written_is_taken_again_with_what_came_meanwhile() -> None:
    tally = Tally()
    count(tally, decision(), HOUR)
    totals = taken(tally)
    count(tally, decision(), HOUR)
    tally.give_back(totals)

    assert [total.decisions for total in written(tally)] == [2]


def test_a_clock_that_is_set_back_moves_nothing_into_an_hour_that_is_over() -> None:
    tally = Tally()
    count(tally, decision(), HOUR)
    count(tally, decision(), HOUR - 60)

    assert [(total.hour_s, total.decisions) for total in written(tally)] == [(HOUR, 2)]


def test_totals_begin_anew_under_a_new_name_when_there_are_many() -> None:
    """A reader adds names up: one total under two names would count twice if it went on growing."""
    tally = Tally(kept_max=2)
    first = tally.instance
    for tenant in ("a", "b", "c"):
        count(tally, decision(tenant), HOUR)
    assert len(written(tally)) == 3

    count(tally, decision("a"), HOUR)

    assert [total.decisions for total in written(tally)] == [1]
    assert tally.instance != first


def test_names_of_two_processes_differ() -> None:
    assert Tally().instance != Tally().instance


def test_while_nothing_can_be_written_memory_has_an_end_and_what_is_lost_is_known() -> None:
    tally = Tally(totals_max=2)
    for tenant in ("a", "b", "c", "d", "a"):
        count(tally, decision(tenant), HOUR)

    assert tally.lost == 2
    assert sum(total.decisions for total in taken(tally)) == 3
    assert {name: read() for name, _, read in tally.counters()} == {
        "tally_totals_written": 0,
        "tally_decisions_lost": 2,
        "tally_decisions_unheard": 0,
    }


UNHEARD = -1
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abcde"), st.integers(0, 5 * HOUR_S)),
        st.tuples(st.sampled_from("abcde"), st.just(UNHEARD)),
        st.sampled_from(["written", "refused", "half"]),
    ),
    max_size=60,
)


@given(steps=STEPS, kept_max=st.integers(0, 4))
def test_every_decision_is_in_exactly_one_total_whatever_fails(
    steps: Sequence[tuple[str, int] | str], kept_max: int
) -> None:
    tally = Tally(kept_max=kept_max)
    store: dict[tuple[str, int, str], int] = {}  # As Redis: by name, hour and tenant.
    counted: Counter[str] = Counter()
    clock_s = HOUR

    def write(totals: Sequence[Total]) -> None:
        for total in totals:
            store[tally.instance, total.hour_s, total.tenant_id] = total.decisions
        tally.written(totals)

    for step in [*steps, "written"]:
        if isinstance(step, tuple) and step[1] == UNHEARD:
            before = tally.taken_back
            tally.take_back(
                tenant_id=step[0],
                features=CHAT.features,
                outcome=Outcome.ALLOW,
                hour_s=clock_s // HOUR_S * HOUR_S,
            )
            counted[step[0]] -= tally.taken_back - before
        elif isinstance(step, tuple):
            tenant, later_s = step
            clock_s += later_s
            count(tally, decision(tenant), clock_s)
            counted[tenant] += 1
        elif step == "refused":
            tally.give_back(taken(tally))
        else:
            write(taken(tally, 1 if step == "half" else 1000))

    stored: Counter[str] = Counter()
    for (_, _, tenant), decisions in store.items():
        stored[tenant] += decisions
    assert stored == counted
    assert min(store.values(), default=0) >= 0
