"""`aforo-authz explain`, as an operator types it."""

import json
import subprocess
import sys
import time

import pytest

from aforo_authz.domain.access import Level, SubscriptionState
from aforo_authz.domain.features import Rule
from lab.ports import free_port
from lab.servers import ROOT
from tests.authz_redis import ReadModel
from tests.authz_samples import make_credential, make_guard, make_margin, make_policy, make_quota
from tests.e2e.authz_lab import KEY, fill

pytestmark = pytest.mark.e2e

CHAT = ("--method", "POST", "--path", "/v1/chat/completions")


def explain(redis_url: str, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "aforo_authz", "explain", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"AFORO_AUTHZ_REDIS_URL": redis_url, "PATH": ""},
        check=False,
        timeout=60,
    )


@pytest.fixture
def model(redis_url: str) -> ReadModel:
    return fill(redis_url, quota_limit=3)


def test_it_says_what_is_decided_by_which_rule_and_on_what(
    model: ReadModel, redis_url: str
) -> None:
    model.put_rules(
        [
            Rule(methods=frozenset({"GET"}), path_template="/v1/**", features=("search",)),
            Rule(methods=frozenset(), path_template="/v1/**", features=("chat",), weight_units=2),
        ]
    )
    model.put_margin("acme", make_margin(Level.WARN, period_end_micros=None))

    told = explain(redis_url, "--credential", "-", *CHAT, stdin=f"{KEY}\n")

    assert told.returncode == 0, told.stderr
    text = told.stdout
    assert "decision   allow (passes), reason allowed" in text
    assert "2 of 2: any method /v1/** needs chat, weight 2" in text
    assert "ok  credential known" in text
    assert "quota calls: 2 of 3 api.calls, left" in text
    assert "level warn" in text
    assert "policy      aforo:v1:{acme}:policy  catalog v7" in text
    assert KEY not in text + told.stderr


def test_it_names_the_guard_that_refuses(model: ReadModel, redis_url: str) -> None:
    model.put_margin(
        "acme", make_margin(Level.WARN, make_guard(Level.BLOCK), period_end_micros=None)
    )
    model.put_consumed(time.time_ns() // 1000)

    told = explain(redis_url, "--tenant", "acme", *CHAT)
    document = json.loads(explain(redis_url, "--tenant", "acme", *CHAT, "--json").stdout)

    assert "block by the guard chat-margin; the tenant's own is warn" in told.stdout
    assert (document["reason"], document["guard"]) == ("margin_limit_exceeded", "chat-margin")


def test_it_counts_nothing_however_often_it_is_asked(model: ReadModel, redis_url: str) -> None:
    before = {key: model.redis.dump(key) for key in model.redis.scan_iter()}

    for _ in range(2):
        told = explain(redis_url, "--tenant", "acme", *CHAT)
        assert "quota calls: 1 of 3" in told.stdout

    assert {key: model.redis.dump(key) for key in model.redis.scan_iter()} == before


def test_the_first_check_that_fails_is_the_reason_and_later_ones_are_not_reached(
    model: ReadModel, redis_url: str
) -> None:
    model.put_policy(make_policy(make_quota(limit_units=0), state=SubscriptionState.PAUSED))

    told = explain(redis_url, "--tenant", "acme", *CHAT, "--json")

    document = json.loads(told.stdout)
    assert document["reason"] == "subscription_inactive"
    assert document["status"] == 402
    passed = {check["check"]: check["passed"] for check in document["checks"]}
    assert passed["credential_revoked"] is True
    assert passed["subscription_inactive"] is False
    assert passed["quota_exceeded"] is None


def test_another_moment_can_be_asked_for(model: ReadModel, redis_url: str) -> None:
    model.put_credential(KEY, make_credential(expires_at_micros=1_800_000_000_000_000))

    before = explain(redis_url, "--credential", KEY, *CHAT, "--at", "2027-01-15T07:59:59Z")
    after = explain(redis_url, "--credential", KEY, *CHAT, "--at", "2027-01-15T08:00:00Z")

    assert "reason allowed" in before.stdout
    assert "reason credential_revoked" in after.stdout
    assert "NO  credential valid" in after.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--credential", "guessed"), "unknown_credential"),
        ((), "unauthenticated"),
        (("--jwt-subject", "nobody"), "unknown_credential"),
        (("--credential", "of-a-tenant-without-a-policy"), "subscription_inactive"),
        (("--tenant", "acme", "--features", "video"), "feature_not_entitled"),
    ],
)
def test_refusals_have_their_reasons(
    model: ReadModel, redis_url: str, arguments: tuple[str, ...], reason: str
) -> None:
    model.put_credential("of-a-tenant-without-a-policy", make_credential(tenant_id="globex"))

    assert f"reason {reason}" in explain(redis_url, *arguments, *CHAT).stdout


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_of_a_tenant_whom_nobody_knows_nothing_is_said_to_be_ok(
    model: ReadModel,  # noqa: ARG001 - fills Redis
    redis_url: str,
    more: tuple[str, ...],
) -> None:
    told = explain(redis_url, "--tenant", "nobody", *CHAT, *more)

    assert told.returncode == 3
    assert told.stdout == ""
    assert "nobody knows a tenant 'nobody': aforo:v1:{nobody}:policy is not in" in told.stderr


def test_without_redis_or_a_read_model_it_says_so_and_ends_with_3(redis_url: str) -> None:
    away = explain(f"redis://127.0.0.1:{free_port()}/0", "--tenant", "acme")
    assert away.returncode == 3
    assert "Redis can't be reached" in away.stderr

    empty = explain(redis_url, "--tenant", "acme")
    assert empty.returncode == 3
    assert "is aforo-admin sync running?" in empty.stderr


def test_a_decision_is_found_again_in_the_log() -> None:
    log = "\n".join(
        [
            "no json abc",
            json.dumps({"decision_id": "ab", "reason": "allowed"}),
            json.dumps({"decision_id": "abc", "reason": "quota_exceeded", "tenant": "acme"}),
        ]
    )

    found = explain("redis://127.0.0.1:1", "--decision-id", "abc", stdin=log)
    missing = explain("redis://127.0.0.1:1", "--decision-id", "none", stdin=log)

    assert found.stdout.split() == [
        *("decision_id", "abc", "reason", "quota_exceeded", "tenant", "acme")
    ]
    assert missing.returncode == 3
    assert "the log says nothing of none" in missing.stderr
