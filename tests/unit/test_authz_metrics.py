"""What operators are told of calls that ended without a decision, or uncounted."""

from collections.abc import Awaitable

import pytest
from prometheus_client import generate_latest

from aforo_authz.domain.access import Decision, Reason
from aforo_authz.domain.features import Needs
from aforo_authz.metrics import Metrics
from aforo_authz.redis_link import Failure
from aforo_authz.server import UNAVAILABLE, RpcError, guarded

FAILED = 'aforo_authz_failed_checks_total{code="14"}'


def exposed(metrics: Metrics, name: str) -> str:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return next(line for line in lines if line.startswith(name) and "_created" not in line)


def test_a_check_that_fails_at_once_is_counted_by_its_code() -> None:
    metrics = Metrics()

    def fail(_message: bytes, _budget_s: float | None) -> bytes:
        raise RpcError(UNAVAILABLE, "Redis is away")

    with pytest.raises(RpcError):
        metrics.counting_failures(fail)(b"", None)

    assert exposed(metrics, FAILED).endswith(" 1.0")


async def test_a_check_that_fails_later_is_counted_too() -> None:
    metrics = Metrics()

    async def fail(_message: bytes, _budget_s: float | None) -> bytes:
        raise RpcError(UNAVAILABLE, "Redis is away")

    answered = metrics.counting_failures(fail)(b"", None)
    assert isinstance(answered, Awaitable)
    with pytest.raises(RpcError):
        await answered

    assert exposed(metrics, FAILED).endswith(" 1.0")


def test_a_fault_of_our_own_is_told_from_an_outage() -> None:
    metrics = Metrics()

    def fail(_message: bytes, _budget_s: float | None) -> bytes:
        raise RpcError(UNAVAILABLE, "Redis is away")

    def break_down(_message: bytes, _budget_s: float | None) -> bytes:
        raise ZeroDivisionError

    for method in (fail, break_down):
        with pytest.raises(RpcError):
            metrics.counting_failures(guarded(method))(b"", None)

    assert exposed(metrics, FAILED).endswith(" 2.0")
    assert exposed(metrics, "aforo_authz_own_faults_total").endswith(" 1.0")


async def test_a_fault_that_comes_later_is_counted_as_ours_too() -> None:
    metrics = Metrics()

    async def break_down(_message: bytes, _budget_s: float | None) -> bytes:
        raise ZeroDivisionError

    answered = metrics.counting_failures(guarded(break_down))(b"", None)
    assert isinstance(answered, Awaitable)
    with pytest.raises(RpcError):
        await answered

    assert exposed(metrics, "aforo_authz_own_faults_total").endswith(" 1.0")


def test_a_check_that_answers_is_not_counted_as_failed() -> None:
    metrics = Metrics()

    assert metrics.counting_failures(lambda message, _: message)(b"x", None) == b"x"
    assert exposed(metrics, FAILED).endswith(" 0.0")


def test_decisions_are_counted_by_reason_time_and_age() -> None:
    metrics = Metrics()
    needs = Needs()

    metrics.observe(Decision(reason=Reason.ALLOWED, needs=needs), 0.00004)
    metrics.observe(Decision(reason=Reason.MARGIN_THROTTLE, needs=needs, stale=True), 0.003)
    metrics.observe(Decision(reason=Reason.QUOTA_EXCEEDED, needs=needs), 9.0)
    metrics.observe(
        Decision(reason=Reason.ALLOWED, needs=needs, shadow_reason=Reason.QUOTA_EXCEEDED), 0.2
    )

    value = metrics.registry.get_sample_value
    name = "aforo_authz_decisions_total"
    assert value(name, {"decision": "allow", "reason": "allowed"}) == 2
    assert value(name, {"decision": "throttle", "reason": "margin_throttle"}) == 1
    assert value(name, {"decision": "block", "reason": "quota_exceeded"}) == 1
    assert value(name, {"decision": "block", "reason": "unauthenticated"}) == 0
    assert value("aforo_authz_stale_decisions_total") == 1
    assert value("aforo_authz_shadow_decisions_total", {"reason": "quota_exceeded"}) == 1
    buckets = "aforo_authz_decision_seconds_bucket"
    assert [value(buckets, {"le": le}) for le in ("5e-05", "0.005", "0.25", "+Inf")] == [1, 2, 3, 4]
    assert value("aforo_authz_decision_seconds_sum") == pytest.approx(9.20304)


def test_what_redis_took_is_told_by_what_it_was_asked_for() -> None:
    metrics = Metrics()

    metrics.observe_redis("read", 0.0002, None)
    metrics.observe_redis("reserve", 0.05, Failure.TIMEOUT)

    value = metrics.registry.get_sample_value
    assert value("aforo_authz_redis_seconds_count", {"purpose": "read"}) == 1
    assert value("aforo_authz_redis_seconds_bucket", {"purpose": "reserve", "le": "0.025"}) == 0
    failed = {"purpose": "reserve", "failure": "timeout"}
    assert value("aforo_authz_redis_failures_total", failed) == 1


def test_a_decision_that_no_quota_could_count_is_told() -> None:
    metrics = Metrics()
    needs = Needs()

    metrics.observe(Decision(reason=Reason.ALLOWED, needs=needs, uncounted=True), 0.001)
    metrics.observe(Decision(reason=Reason.ALLOWED, needs=needs), 0.001)

    assert exposed(metrics, "aforo_authz_uncounted_decisions_total").endswith(" 1.0")
