"""An explanation as people read it, and as programs do."""

import json
from typing import Any

from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from aforo_authz.check import Call
from aforo_authz.domain.trace import moment
from aforo_authz.explain import Explanation, Input

MARKS = {True: "ok", False: "NO", None: "-"}
CHECKED = {
    "unauthenticated": "credential shown",
    "unknown_credential": "credential known",
    "credential_revoked": "credential valid",
    "subscription_inactive": "subscription serves",
    "feature_not_entitled": "features in the plan",
    "margin_limit_exceeded": "margin not at block",
    "quota_exceeded": "quota left",
}


def as_text(told: Explanation, call: Call, now_micros: int) -> str:
    """Return lines for a terminal."""
    decision = told.decision
    lines = [
        f"decision   {decision.outcome} ({_status(told)}), reason {decision.reason}",
        f"call       {call.method} {call.path}, at {moment(now_micros)}",
    ]
    if decision.shadow_reason is not None:
        lines.append(f"shadow     without shadow mode: {decision.shadow_reason}")
    if decision.stale:
        lines.append("stale      made with a margin that nobody confirmed lately")
    lines += [f"rule       {rule_of(told, call)}", "", "checks"]
    lines += [
        f"  {MARKS[check.passed]:<3} {CHECKED[check.reason]:<21} {check.detail}"
        for check in told.checks
    ]
    lines += ["", "inputs"]
    lines += [_line(each, now_micros) for each in told.inputs]
    lines += ["", "told to the caller"]
    lines += [f"  {name}: {value}" for name, value in headers_of(told).items()]
    lines += ["", "A serving process may remember a value some milliseconds longer."]
    return "\n".join(lines)


def as_json(told: Explanation, call: Call, now_micros: int) -> str:
    """Return a document for programs."""
    return json.dumps(document_of(told, call, now_micros), indent=2)


def document_of(told: Explanation, call: Call, now_micros: int) -> dict[str, Any]:
    """Return what programs read, in JSON's terms."""
    decision = told.decision
    return {
        "decision": decision.outcome.value,
        "reason": decision.reason.value,
        "shadow_reason": decision.shadow_reason.value if decision.shadow_reason else None,
        "status": _status(told),
        "margin_level": decision.level.name.lower(),
        "guard": decision.guard_id or None,
        "stale": decision.stale,
        "at_micros": now_micros,
        "method": call.method,
        "path": call.path,
        "features": list(decision.needs.features),
        "rule": rule_of(told, call),
        "checks": [
            {"check": check.reason.value, "passed": check.passed, "detail": check.detail}
            for check in told.checks
        ],
        "inputs": [
            {
                "input": each.name,
                "key": each.key,
                "found": each.found,
                "catalog_version": each.catalog_version,
                "at_micros": each.at_micros,
            }
            for each in told.inputs
        ],
        "headers": headers_of(told),
    }


def rule_of(told: Explanation, call: Call) -> str:
    """Say what named the features that the call needs."""
    if call.route_features is not None:
        return f"the route itself: {', '.join(call.route_features) or 'no features'}"
    if told.rule is None:
        allows = told.decision.needs.known
        return f"none matches: the catalog's default, {'allow' if allows else 'deny'}"
    rule = told.rules.rules[told.rule]
    methods = ",".join(sorted(rule.methods)) or "any method"
    return (
        f"{told.rule + 1} of {len(told.rules.rules)}: {methods} {rule.path_template}"
        f" needs {', '.join(rule.features) or 'nothing'}, weight {rule.weight_units}"
    )


def _status(told: Explanation) -> int | str:
    response = CheckResponse.FromString(told.response)
    return response.denied_response.status.code if response.status.code else "passes"


def headers_of(told: Explanation) -> dict[str, str]:
    response = CheckResponse.FromString(told.response)
    options = response.denied_response.headers if response.status.code else ()
    options = options or response.ok_response.response_headers_to_add
    told_to_caller = {option.header.key: option.header.value for option in options}
    told_to_caller.pop("x-aforo-decision-id", None)  # This one was never given to anybody.
    return told_to_caller


def _line(each: Input, now_micros: int) -> str:
    if not each.found:
        return f"  {each.name:<11} {each.key}: not there"
    age_s = (now_micros - each.at_micros) / 1_000_000
    age = f"  {age_s:.1f} s old" if each.at_micros else ""
    version = f"  catalog {each.catalog_version}" if each.catalog_version else ""
    return f"  {each.name:<11} {each.key}{age}{version}"
