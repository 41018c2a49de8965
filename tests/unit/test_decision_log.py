"""Which decisions have a line in the log, and what it says."""

import json

import structlog.testing

from aforo_authz.check import Call, sha256_hex
from aforo_authz.decision_log import DecisionLog, printable
from aforo_authz.domain.access import CredentialKind, Decision, Level, Reason
from aforo_authz.domain.features import Needs
from aforo_authz.domain.quotas import Standing, Window
from aforo_authz.policies import Presented
from tests.authz_samples import NOW, make_credential, make_policy, make_quota

NEEDS = Needs(features=("chat",), weight_units=2)
ALLOWED = Decision(reason=Reason.ALLOWED, needs=NEEDS)
REFUSED = Decision(reason=Reason.QUOTA_EXCEEDED, needs=NEEDS)
SHADOWED = Decision(reason=Reason.ALLOWED, needs=NEEDS, shadow_reason=Reason.QUOTA_EXCEEDED)
SECOND = 1_000_000


def call(path: str = "/v1/chat?key=in-the-query") -> Call:
    return Call(
        presented=Presented(kind=CredentialKind.API_KEY, sha256_hex=sha256_hex("key")),
        method="POST",
        path=path,
        route_features=None,
        provider="",
        spoofed_headers=(),
    )


def noted(log: DecisionLog, *decisions: Decision, now_micros: int = NOW) -> list[str]:
    """Return the events that these decisions left."""
    with structlog.testing.capture_logs() as lines:
        for number, decision in enumerate(decisions):
            log.note(decision, f"{number:032x}", 0.00002, call(), now_micros)
    return [line["event"] for line in lines]


def test_refusals_are_logged_and_calls_that_passed_only_as_a_sample() -> None:
    never = DecisionLog(sample_ratio=0.0, refusals_per_s_max=100)
    always = DecisionLog(sample_ratio=1.0, refusals_per_s_max=100)
    decisions = [ALLOWED, REFUSED, SHADOWED] * 5

    assert len(noted(never, *decisions)) == 10
    assert len(noted(always, *decisions)) == 15


def test_a_sample_has_about_the_share_that_was_asked_for() -> None:
    """Of 10,000 at 20 % it is 2,000; 300 away from that is more than seven standard deviations."""
    log = DecisionLog(sample_ratio=0.2, refusals_per_s_max=100)

    assert 1_700 < len(noted(log, *[ALLOWED] * 10_000)) < 2_300


def test_refusals_beyond_the_rate_are_told_in_one_line_by_reason() -> None:
    log = DecisionLog(sample_ratio=0.0, refusals_per_s_max=3)
    unknown = Decision(reason=Reason.UNKNOWN_CREDENTIAL, needs=NEEDS)

    assert noted(log, *[REFUSED] * 3, *[unknown] * 5, REFUSED, SHADOWED) == ["decided"] * 3
    with structlog.testing.capture_logs() as lines:
        log.note(REFUSED, "f" * 32, 0.0, call(), NOW + SECOND)

    assert lines[0] == {
        "event": "refusals without a line of their own",
        "log_level": "warning",
        "unknown_credential": 5,
        "quota_exceeded": 2,
    }
    assert [line["event"] for line in lines[1:]] == ["decided"]


def test_what_is_left_out_is_told_at_the_end() -> None:
    log = DecisionLog(sample_ratio=0.0, refusals_per_s_max=0)
    assert noted(log, REFUSED) == []

    with structlog.testing.capture_logs() as lines:
        log.tell_left_out()
        log.tell_left_out()

    assert [line["quota_exceeded"] for line in lines] == [1]


def test_a_line_says_who_what_why_and_on_which_values_and_holds_no_secret() -> None:
    quota = make_quota(limit_units=10)
    decision = Decision(
        reason=Reason.QUOTA_EXCEEDED,
        needs=NEEDS,
        credential=make_credential(),
        policy=make_policy(quota),
        standings=(
            Standing(quota=quota, window=Window(start_s=0, end_s=60), used_units=10, exceeded=True),
        ),
        level=Level.WARN,
        guard_id="chat-margin",
        stale=True,
    )
    log = DecisionLog(sample_ratio=0.0, refusals_per_s_max=1)
    with structlog.testing.capture_logs() as lines:
        log.note(decision, "a" * 32, 0.000025, call(), NOW)

    assert lines == [
        {
            "event": "decided",
            "log_level": "info",
            "decision_id": "a" * 32,
            "decision": "block",
            "reason": "quota_exceeded",
            "shadow_reason": None,
            "tenant": "acme",
            "credential_id": "acme-key-1",
            "subscription": "sub-acme",
            "plan": "pro",
            "catalog_version": "v7",
            "method": "POST",
            "path": "/v1/chat",
            "features": "chat",
            "weight_units": 2,
            "margin_level": "warn",
            "guard": "chat-margin",
            "quotas": [{"quota": "calls", "used_units": 10, "limit_units": 10, "window_end_s": 60}],
            "stale": True,
            "uncounted": False,
            "decided_at_micros": NOW,
            "micros": 25,
        }
    ]
    assert sha256_hex("key")[:8] not in json.dumps(lines)


def test_no_path_can_forge_a_line() -> None:
    assert "\n" not in printable('/a\n{"event": "decided"}')
    assert printable("/ä/b") == "/ä/b"
