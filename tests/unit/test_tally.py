from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.domain.access import Decision, Reason
from aforo_authz.domain.features import Needs
from aforo_authz.tally import HOUR_S, NOBODY, Tally
from tests.authz_samples import NOW, make_credential, make_policy

HOUR = NOW // 1_000_000 // HOUR_S * HOUR_S
SECOND = 1_000_000


def decision(tenant_id: str = "acme", reason: Reason = Reason.ALLOWED) -> Decision:
    return Decision(
        reason=reason,
        needs=Needs(features=("chat",)),
        credential=make_credential(tenant_id=tenant_id),
        policy=make_policy(tenant_id=tenant_id),
    )


def test_calls_are_counted_by_tenant_features_outcome_and_hour() -> None:
    tally = Tally()
    for _ in range(3):
        tally.count(decision(), NOW)
    tally.count(decision(reason=Reason.QUOTA_EXCEEDED), NOW)
    tally.count(decision("globex"), NOW)
    tally.count(decision(), NOW + HOUR_S * SECOND)
    tally.gather()

    assert sorted(tuple(total) for total in tally.take(10)) == [
        (HOUR, "acme", ("chat",), "allow", 3),
        (HOUR, "acme", ("chat",), "block", 1),
        (HOUR, "globex", ("chat",), "allow", 1),
        (HOUR + HOUR_S, "acme", ("chat",), "allow", 1),
    ]


def test_who_is_unknown_is_counted_under_one_name() -> None:
    tally = Tally()
    tally.count(Decision(reason=Reason.UNKNOWN_CREDENTIAL, needs=Needs()), NOW)
    tally.gather()

    assert [total.tenant_id for total in tally.take(10)] == [NOBODY]


def test_a_clock_that_is_set_back_takes_nothing_away() -> None:
    tally = Tally()
    tally.count(decision(), NOW)
    tally.gather()
    tally.written(tally.take(10))
    tally.count(decision(), NOW - 2 * HOUR_S * SECOND)
    tally.gather()

    assert [tuple(total)[0::4] for total in tally.take(10)] == [(HOUR, 2)]


def test_totals_begin_anew_under_a_new_name_when_there_are_too_many() -> None:
    tally = Tally(kept_max=2)
    first = tally.instance
    for tenant_id in ("a", "b", "c"):
        tally.count(decision(tenant_id), NOW)
    tally.gather()
    tally.written(tally.take(10))
    tally.count(decision("a"), NOW)
    tally.gather()

    assert tally.instance != first
    assert [total.decisions for total in tally.take(10)] == [1]


def test_what_finds_no_place_is_counted_as_lost() -> None:
    tally = Tally(totals_max=2)
    for tenant_id in ("a", "b", "c", "a"):
        tally.count(decision(tenant_id), NOW)

    assert tally.lost == 1


steps = st.lists(
    st.tuples(st.just("count"), st.sampled_from("abcd"), st.integers(0, 3))
    | st.tuples(st.sampled_from(["write", "fail"]), st.just(""), st.integers(1, 3)),
    max_size=60,
)


@given(steps=steps)
def test_a_reader_who_adds_up_what_was_written_gets_every_call_once(
    steps: list[tuple[str, str, int]],
) -> None:
    """Redis keeps the last total of each name: here as a dictionary."""
    tally = Tally(kept_max=3)
    redis: dict[tuple[object, ...], int] = {}
    counted: Counter[tuple[str, int]] = Counter()
    hour = 0

    def flush(batch_max: int, *, fails: bool) -> None:
        tally.gather()
        while totals := tally.take(batch_max):
            for total in totals:  # A write that seemed to fail may have arrived all the same.
                redis[tally.instance, *total[:4]] = total.decisions
            if fails:
                tally.give_back(totals)
                return
            tally.written(totals)

    for step, tenant_id, number in steps:
        if step == "count":
            hour = max(hour, number)
            tally.count(decision(tenant_id), NOW + hour * HOUR_S * SECOND)
            counted[tenant_id, HOUR + hour * HOUR_S] += 1
        else:
            flush(number, fails=step == "fail")
    flush(10, fails=False)

    read: Counter[tuple[str, int]] = Counter()
    for (_, hour_s, owner, *_), decisions in redis.items():
        assert isinstance(hour_s, int)
        read[str(owner), hour_s] += decisions
    assert read == counted
