"""What operators are told of calls that ended without a decision, or uncounted."""

from collections.abc import Awaitable

import pytest
from prometheus_client import generate_latest

from aforo_authz.domain.access import Decision, Reason
from aforo_authz.domain.features import Needs
from aforo_authz.metrics import Metrics
from aforo_authz.server import UNAVAILABLE, RpcError


def exposed(metrics: Metrics, name: str) -> str:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return next(line for line in lines if line.startswith(name) and "_created" not in line)


def test_a_check_that_fails_at_once_is_counted_by_its_code() -> None:
    metrics = Metrics()

    def fail(_message: bytes, _budget_s: float | None) -> bytes:
        raise RpcError(UNAVAILABLE, "Redis is away")

    with pytest.raises(RpcError):
        metrics.counting_failures(fail)(b"", None)

    assert exposed(metrics, "aforo_authz_failed_checks_total") == (
        'aforo_authz_failed_checks_total{code="14"} 1.0'
    )


@pytest.mark.parametrize("error", [RpcError(UNAVAILABLE, "Redis is away"), ValueError("a mistake")])
async def test_a_check_that_fails_later_is_counted_too(error: Exception) -> None:
    metrics = Metrics()

    async def fail(_message: bytes, _budget_s: float | None) -> bytes:
        raise error

    answered = metrics.counting_failures(fail)(b"", None)
    assert isinstance(answered, Awaitable)
    with pytest.raises(type(error)):
        await answered

    assert exposed(metrics, "aforo_authz_failed_checks_total").endswith(" 1.0")


def test_a_check_that_our_own_code_gets_wrong_is_counted_as_the_outage_that_it_is() -> None:
    metrics = Metrics()

    def fail(_message: bytes, _budget_s: float | None) -> bytes:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        metrics.counting_failures(fail)(b"", None)

    assert exposed(metrics, "aforo_authz_failed_checks_total") == (
        'aforo_authz_failed_checks_total{code="14"} 1.0'
    )


def test_a_check_that_answers_is_not_counted_as_failed() -> None:
    metrics = Metrics()

    assert metrics.counting_failures(lambda message, _: message)(b"x", None) == b"x"
    assert "failed_checks_total{" not in generate_latest(metrics.registry).decode()


def test_a_decision_that_no_quota_could_count_is_told() -> None:
    metrics = Metrics()
    needs = Needs()

    metrics.observe(Decision(reason=Reason.ALLOWED, needs=needs, uncounted=True), 0.001)
    metrics.observe(Decision(reason=Reason.ALLOWED, needs=needs), 0.001)

    assert exposed(metrics, "aforo_authz_uncounted_decisions_total").endswith(" 1.0")
