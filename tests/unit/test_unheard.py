"""Decisions that nobody heard of are tallied no more; all others are."""

import pytest

from aforo_authz.answers import LastAnswers
from aforo_authz.check import Call, to_check_response
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import Credential, Decision, Policy, Reason
from aforo_authz.domain.features import Needs
from aforo_authz.health import SERVING
from aforo_authz.tally import HOUR_S, Tally, Total
from aforo_authz.unheard import taking_back
from tests.authz_samples import NOW, make_credential, make_policy

SECOND = 1_000_000
CALL = Call(
    presented=None, method="GET", path="/", route_features=None, provider="", spoofed_headers=()
)


def decision(
    reason: Reason = Reason.ALLOWED,
    *,
    features: tuple[str, ...] = ("chat", "images"),
    credential: Credential | None = None,
    policy: Policy | None = None,
) -> Decision:
    return Decision(
        reason=reason, needs=Needs(features=features), credential=credential, policy=policy
    )


def answer_of(made: Decision, now_micros: int = NOW) -> bytes:
    return to_check_response(
        made, CALL, decision_id="0" * 32, now_micros=now_micros, denials=DENIALS
    )


def written(tally: Tally) -> list[Total]:
    tally.gather()
    totals = tally.take(100)
    tally.written(totals)
    return totals


CREDENTIAL, POLICY = make_credential(), make_policy()


@pytest.mark.parametrize(
    "made",
    [
        decision(credential=CREDENTIAL, policy=POLICY),
        decision(features=(), credential=CREDENTIAL, policy=POLICY),
        decision(Reason.MARGIN_THROTTLE, credential=CREDENTIAL, policy=POLICY),
        decision(Reason.FEATURE_NOT_ENTITLED, credential=CREDENTIAL, policy=POLICY),
        decision(Reason.SUBSCRIPTION_INACTIVE, credential=CREDENTIAL),
        decision(Reason.UNKNOWN_CREDENTIAL),
    ],
    ids=lambda made: f"{made.reason}-{len(made.needs.features)}",
)
@pytest.mark.parametrize("is_written", [False, True])
def test_an_unheard_answer_takes_its_own_decision_back(made: Decision, *, is_written: bool) -> None:
    tally = Tally()
    other = decision(credential=CREDENTIAL, policy=make_policy(tenant_id="globex"))
    for each in (made, made, other):
        tally.count(each, NOW)
    before = written(tally) if is_written else []

    taking_back(tally)(answer_of(made))

    after = {total[:4]: total.decisions for total in [*before, *written(tally)]}
    assert sorted(after.values()) == [1, 1]
    assert tally.taken_back == 1


def test_a_decision_of_an_hour_that_is_over_is_taken_back_as_long_as_it_is_not_written() -> None:
    tally = Tally()
    made = decision(credential=CREDENTIAL, policy=POLICY)
    later = NOW + HOUR_S * SECOND
    for at_micros in (NOW, NOW, later):
        tally.count(made, at_micros)

    taking_back(tally)(answer_of(made))
    assert [total.decisions for total in sorted(written(tally))] == [1, 1]

    taking_back(tally)(answer_of(made))
    assert written(tally) == []
    assert tally.taken_back == 1


def test_what_was_never_counted_is_not_taken_back() -> None:
    tally = Tally()

    taking_back(tally)(answer_of(decision(credential=CREDENTIAL, policy=POLICY)))
    taking_back(tally)(SERVING)

    assert written(tally) == []
    assert tally.taken_back == 0


def test_answers_are_kept_once_each_and_no_more_than_could_be_unheard() -> None:
    answers = LastAnswers(count_max=3)
    for stream_id in range(10):
        answers.keep(stream_id, b"answer %d" % stream_id)

    assert [answers.take(stream_id) for stream_id in (7, 8, 9)] == [
        *(b"answer 7", b"answer 8", b"answer 9")
    ]
    assert answers.take(9) is None
    assert answers.take(0) is None


def test_an_answer_is_forgotten_when_it_was_there_at_two_looks_in_a_row() -> None:
    answers = LastAnswers(count_max=3)
    answers.keep(1, b"one")
    answers.age()
    answers.keep(3, b"three")
    answers.age()

    assert answers.take(1) is None
    assert answers.take(3) == b"three"
