"""What of a call is usage: the built-in rules, and the owner's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.metering import (
    Applied,
    Counted,
    Metering,
    Quantity,
    Rule,
    Traits,
    Unmetered,
    built_in_rules,
    statuses_of,
    why_no_usage,
)
from aforo_meter.domain.paths import template_of

BUILT_IN = built_in_rules(
    unmetered_paths=frozenset({"/healthz"}), unmetered_statuses=frozenset({401, 403, 429})
)
EVERYTHING = (
    Counted(meter="api.calls", quantity=Quantity.ONE, micros=1_000_000),
    Counted(meter="bytes.request", quantity=Quantity.REQUEST_BYTES),
    Counted(meter="bytes.response", quantity=Quantity.RESPONSE_BYTES),
)


def apply(
    *rules: Rule,
    method: str = "POST",
    path: str = "/v1/chat",
    **others: Any,  # noqa: ANN401
) -> tuple[Unmetered | None, tuple[Counted, ...]]:
    applied = Applied(Metering(rules=rules))
    traits: dict[str, Any] = {
        "route": "api",
        "features": frozenset({"chat"}),
        "status": 200,
        "execution_status": "SUCCESS",
    }
    view = applied.view(method=method, path=path)
    return applied.apply(Traits(method=method, **{**traits, **others}), view.fits)


def meters(*rules: Rule, **call: Any) -> list[str]:  # noqa: ANN401 - see apply.
    return [one.meter for one in apply(*rules, **call)[1]]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({}, None),
        ({"path": "/healthz"}, Unmetered.PATH),
        ({"path": "/healthz?verbose=1"}, Unmetered.PATH),
        ({"path": "/healthz/deep"}, None),
        ({"path": "/Healthz"}, None),
        ({"path": "/healthz;x=1"}, None),
        ({"status": 429}, Unmetered.STATUS),
        ({"status": 500}, None),
        ({"status": 0}, None),
    ],
)
def test_without_rules_of_the_owner_calls_and_bytes_count(
    call: dict[str, Any], why: Unmetered | None
) -> None:
    assert apply(*BUILT_IN, **call) == (why, () if why else EVERYTHING)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({}, None),
        ({"refused_at_gate": True}, Unmetered.REFUSED_AT_GATE),
        ({"details": "route_not_found"}, Unmetered.NO_ROUTE),
        ({"details": "internal_redirect"}, Unmetered.CONTINUED),
        ({"details": "cors_response", "method": "OPTIONS"}, Unmetered.PREFLIGHT),
        ({"method": "OPTIONS", "looks_like_preflight": True}, Unmetered.PREFLIGHT),
        ({"method": "OPTIONS"}, None),
        ({"looks_like_preflight": True}, None),
    ],
)
def test_some_calls_are_no_usage_by_their_nature(
    call: dict[str, Any], why: Unmetered | None
) -> None:
    usual = {"details": "via_upstream", "method": "POST"}
    flags = {"refused_at_gate": False, "looks_like_preflight": False}

    assert why_no_usage(**{**usual, **flags, **call}) is why


@pytest.mark.parametrize(
    ("condition", "fitting", "other"),
    [
        ({"methods": frozenset({"POST"})}, {}, {"method": "GET"}),
        ({"path_template": "/v1/{x}"}, {}, {"path": "/v1/chat/x"}),
        ({"path_template": "/v1/{x}"}, {"path": "/v1/chat;a=1?b=2"}, {"path": "/v2/chat"}),
        ({"routes": frozenset({"api"})}, {}, {"route": "llm"}),
        ({"features": frozenset({"x", "chat"})}, {}, {"features": frozenset({"y"})}),
        ({"statuses": (range(200, 300),)}, {"status": 299}, {"status": 300}),
        ({"execution_statuses": frozenset({"SUCCESS"})}, {}, {"execution_status": ""}),
    ],
)
def test_a_rule_holds_where_all_that_it_names_fits(
    condition: dict[str, Any], fitting: dict[str, Any], other: dict[str, Any]
) -> None:
    rule = Rule(rule_id="r", meter="m", **condition)

    assert meters(rule, **fitting) == ["m"]
    assert meters(rule, **other) == []


def test_every_rule_that_fits_measures_and_for_one_meter_the_first() -> None:
    rules = (
        Rule(rule_id="batch", path_template="/b/**", meter="api.calls", quantity_micros=10_000_000),
        Rule(rule_id="calls", meter="api.calls"),
        Rule(rule_id="time", meter="compute.ms", quantity=Quantity.DURATION_MS),
    )

    assert [(one.meter, one.micros) for one in apply(*rules, path="/b/1")[1]] == [
        ("api.calls", 10_000_000),
        ("compute.ms", 0),
    ]
    assert [(one.meter, one.micros) for one in apply(*rules, path="/x")[1]] == [
        ("api.calls", 1_000_000),
        ("compute.ms", 0),
    ]


def test_what_a_rule_excludes_is_no_usage_whatever_others_say() -> None:
    calls = Rule(rule_id="calls", meter="api.calls")
    errors = Rule(rule_id="errors", statuses=(statuses_of("5xx"),), exclude=True)

    assert apply(calls, errors, status=503) == (Unmetered.RULE, ())
    assert apply(errors, calls, status=503) == (Unmetered.RULE, ())
    assert meters(calls, errors) == ["api.calls"]


def test_a_rule_names_the_paths_that_it_is_for() -> None:
    rules = (
        Rule(rule_id="no", path_template="/v1/users/{id}/avatar", exclude=True),
        Rule(rule_id="users", path_template="/v1/users/{user}", meter="user.reads"),
    )
    applied = Applied(Metering(rules=rules))

    def template(path: str) -> str:
        return applied.view(method="GET", path=path).template

    assert template("/v1/users/jane") == "/v1/users/{user}"
    assert template("/v1/users/42/avatar") == "/v1/users/:id/avatar"


@pytest.mark.parametrize(
    ("rule", "by_template"),
    [
        ({"path_template": "/v1/users/{user}/**"}, True),
        ({"paths": frozenset({"/healthz"})}, True),
        ({"path_template": "/v1/users/42"}, False),
        ({"paths": frozenset({"/v1/users/42"})}, False),
    ],
)
@given(
    segments=st.lists(
        st.sampled_from(["v1", "users", "42", "43", "healthz", "deadbeef00", ""]), max_size=5
    )
)
def test_what_is_known_of_a_template_is_known_of_its_paths(
    rule: dict[str, Any],
    by_template: bool,  # noqa: FBT001 - pytest names it.
    segments: list[str],
) -> None:
    applied = Applied(Metering(rules=(Rule(rule_id="r", meter="m", **rule),)))
    path = "/" + "/".join(segments)

    assert applied.by_template is by_template
    if by_template:
        assert applied.view(method="GET", path=path) == applied.view(
            method="GET", path=template_of(path)
        )


def test_an_upstream_may_call_a_meter_by_its_other_names() -> None:
    applied = Applied(Metering(rules=(), aliases={"pagesRendered": "report.pages"}))

    assert applied.meter_named("pagesRendered") == "report.pages"
    assert applied.meter_named(" Report.Pages ") == "report.pages"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("404", range(404, 405)), ("5xx", range(500, 600)), ("200-299", range(200, 300))],
)
def test_statuses_are_one_a_hundred_or_a_span(text: str, expected: range) -> None:
    assert statuses_of(text) == expected


@pytest.mark.parametrize(
    "text", ["", "4", "6xx", "99", "600", "299-200", "200-", "-200", "2xx-3xx"]
)
def test_what_is_no_status_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="status"):
        statuses_of(text)
