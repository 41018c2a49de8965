"""Envoy's external-authorization messages ⇄ domain: the only module that knows them."""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value
from google.rpc.status_pb2 import Status

from aforo_authz.denials import Denial, problem
from aforo_authz.domain.access import PASSING, CredentialKind, Decision, Outcome, Reason
from aforo_authz.domain.features import Needs, Rules, sorted_unique
from aforo_authz.domain.quotas import Standing
from aforo_authz.policies import Presented
from aforo_authz.wire import metadata_added, response_headers_added, upstream_headers_added

OK, PERMISSION_DENIED = 0, 7  # google.rpc.Code
OWN_PREFIX = "x-aforo-"
UNAUTHORIZED = 401  # HTTP
HOUR_S, HOUR_MICROS = 3600, 3_600_000_000
FIELD_INTEGER_MAX = 999_999_999_999_999  # RFC 9651: integers of structured fields.
JWT_NAMESPACE = "envoy.filters.http.jwt_authn"


class MalformedRequestError(Exception):
    """What arrived is not a CheckRequest."""


@dataclass(slots=True, kw_only=True)  # One for every call: see Decision.
class Call:
    """What the decision needs to know of one request."""

    presented: Presented | None
    method: str
    path: str
    route_features: tuple[str, ...] | None  # The route's own word, if it has one.
    provider: str
    spoofed_headers: tuple[str, ...]  # Inbound x-aforo-* headers, to be removed.

    def needs(self, rules: Rules) -> Needs:
        """Return what the call needs: the route's word, else the catalog's rules."""
        by_rules = rules.needs_of(method=self.method, path=self.path)
        if self.route_features is None:
            return by_rules
        return _needs(self.route_features, by_rules.weight_units)


@functools.lru_cache(maxsize=4096)
def _needs(features: tuple[str, ...], weight_units: int) -> Needs:
    """One for all calls of a route: what was decided on it is found again by its identity."""
    return Needs(features=features, weight_units=weight_units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """Where, besides an API key, an identity may come from."""

    jwt_claim_path: tuple[str, ...] = ()  # In jwt_authn's metadata; empty: JWTs name nobody.
    peer_certificate: bool = False  # Only where Envoy requires and verifies client certificates.


def from_check_request(message: bytes, identification: Identification) -> Call:
    """Read who calls what, only from what can't be set freely by the caller.

    Raises:
        MalformedRequestError: Not a CheckRequest.
    """
    try:
        attributes = CheckRequest.FromString(message).attributes
    except DecodeError as error:
        raise MalformedRequestError("not an envoy.service.auth.v3.CheckRequest") from error
    http = attributes.request.http
    headers = http.headers
    context = attributes.context_extensions
    features = context.get("aforo.features")
    spoofed: tuple[str, ...] = ()
    if OWN_PREFIX.encode() in message:  # Rare: Envoy removes them. Sparing a walk over all headers.
        spoofed = tuple(name for name in headers if name.startswith(OWN_PREFIX))
    return Call(
        presented=_presented(attributes, headers, identification),
        method=http.method,
        path=http.path,
        route_features=None if features is None else _listed(features),
        provider=context.get("aforo.provider", ""),
        spoofed_headers=spoofed,
    )


def traceparent_of(message: bytes) -> str:
    """Return what the client says its span is; empty if it says nothing. For spans alone."""
    try:
        headers = CheckRequest.FromString(message).attributes.request.http.headers
    except DecodeError:
        return ""
    traceparent: str = headers.get("traceparent", "")
    return traceparent


def sha256_hex(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()


def _presented(
    attributes: Any,  # noqa: ANN401 - Envoy's messages are untyped
    headers: Mapping[str, str],
    identification: Identification,
) -> Presented | None:
    """Return the caller's proof: x-api-key, a verified JWT, a Bearer key, a certificate.

    A Bearer token may be a JWT that Envoy has verified; its claim comes before its text.
    """
    key = headers.get("x-api-key")
    if key:
        return Presented(kind=CredentialKind.API_KEY, sha256_hex=sha256_hex(key))
    subject = _jwt_subject(attributes, identification.jwt_claim_path)
    if subject:
        return Presented(kind=CredentialKind.JWT_SUBJECT, sha256_hex=sha256_hex(f"jwt\0{subject}"))
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return Presented(kind=CredentialKind.API_KEY, sha256_hex=sha256_hex(token.strip()))
    uri = attributes.source.principal if identification.peer_certificate else ""
    if uri:
        return Presented(
            kind=CredentialKind.CERTIFICATE, sha256_hex=sha256_hex(f"certificate\0{uri}")
        )
    return None


def _jwt_subject(
    attributes: Any,  # noqa: ANN401 - Envoy's messages are untyped
    claim_path: tuple[str, ...],
) -> str:
    if not claim_path:
        return ""
    metadata = attributes.metadata_context.filter_metadata
    if JWT_NAMESPACE not in metadata:
        return ""
    fields = metadata[JWT_NAMESPACE].fields
    for name in claim_path[:-1]:
        if name not in fields:
            return ""
        fields = fields[name].struct_value.fields
    return fields[claim_path[-1]].string_value if claim_path[-1] in fields else ""


def _listed(text: str) -> tuple[str, ...]:
    return sorted_unique(part.strip() for part in text.split(",") if part.strip())


class _Facts(NamedTuple):
    """What an answer says that is the same for many tenants: equal facts, equal bytes."""

    reason: Reason
    shadow_reason: Reason | None
    stale: bool
    provider: str
    features: tuple[str, ...]
    hour_s: int  # Unix time: under which the decision is counted (tally.py).
    weight_units: int
    plan_id: str = ""  # Empty where the caller is unknown, as is the next one.
    catalog_version: str = ""

    @property
    def outcome(self) -> Outcome:
        return PASSING.get(self.reason, Outcome.BLOCK)


def _facts_of(decision: Decision, call: Call, now_micros: int) -> _Facts:
    policy, needs = decision.policy, decision.needs
    return _Facts(
        decision.reason,
        decision.shadow_reason if policy is not None else None,
        decision.stale,
        call.provider,
        needs.features,
        now_micros // HOUR_MICROS * HOUR_S,
        needs.weight_units,
        policy.plan_id if policy is not None else "",
        policy.catalog_version if policy is not None else "",
    )


def _tenant_of(decision: Decision) -> tuple[str, str]:
    """Return the ids of tenant and subscription, empty where they are unknown."""
    policy = decision.policy
    if policy is not None:
        return policy.tenant_id, policy.subscription_id
    return (decision.credential.tenant_id if decision.credential is not None else ""), ""


def to_check_response(
    decision: Decision,
    call: Call,
    *,
    decision_id: str,
    now_micros: int,
    denials: Mapping[Reason, Denial],
) -> bytes:
    """Translate a decision. `status.code` decides: without it even a denied_response passes.

    Args:
        decision: A settled one.
        call: What was decided on.
        decision_id: 32 characters.
        now_micros: Unix time in microseconds, UTC.
        denials: How each reason is told.
    """
    quota_headers = _quota_headers(decision, now_micros) if decision.standings else {}
    if decision.reason not in PASSING:
        facts = _facts_of(decision, call, now_micros)
        denial = denials[decision.reason]
        headers = _told_to_caller(facts, decision_id) | quota_headers
        denied = DeniedHttpResponse(
            status=HttpStatus(code=denial.status),
            headers=_options(headers | _told_when_refused(decision, denial)),
            body=problem(denial, decision, decision_id),
        )
        response = CheckResponse(
            status=Status(code=PERMISSION_DENIED, message=decision.reason),
            denied_response=denied,
            dynamic_metadata=_metadata(facts, decision_id),
        )
        refused: bytes = response.SerializeToString()
        return refused + metadata_added(_metadata_of_tenant(*_tenant_of(decision)))
    policy, needs = decision.policy, decision.needs
    assert policy is not None, "nobody passes without one"
    around_id = _allowed_around_id(
        decision.reason,
        decision.shadow_reason,
        decision.stale,
        call.provider,
        needs.features,
        now_micros // HOUR_MICROS * HOUR_S,
        needs.weight_units,
        policy.plan_id,
        policy.catalog_version,
    )
    answer = decision_id.encode().join(around_id)
    # Protobuf merges messages that are written one behind the other: these are added.
    answer += _told_of_tenant(policy.tenant_id, policy.subscription_id)
    if quota_headers:
        answer += response_headers_added(quota_headers.items())
    if call.spoofed_headers:
        ours = _told_to_upstream(_facts_of(decision, call, now_micros), decision_id)
        ours |= dict(_headers_of_tenant(*_tenant_of(decision)))
        theirs = [name for name in call.spoofed_headers if name not in ours]
        ok_response = OkHttpResponse(headers_to_remove=theirs)
        answer += CheckResponse(ok_response=ok_response).SerializeToString()
    return answer


# Stands where the decision's id goes; of the same length, since lengths are part of the bytes. No
# header name and no id of the catalog can hold it: they have neither capitals nor spaces.
_ID_PLACE = "THE DECISION'S ID GOES IN HERE ."


@functools.lru_cache(maxsize=4096)
def _allowed_around_id(*facts: Any) -> tuple[bytes, ...]:  # noqa: ANN401 - those of _Facts
    """Return the answer that lets a call pass, in pieces: the decision's id goes between them.

    Building it costs several times what the decision does, and all but the id is the same for most
    calls of a plan. Nothing in the facts is the client's choice: nobody can fill this cache.
    """
    return _around_id(_Facts(*facts))


def _around_id(facts: _Facts) -> tuple[bytes, ...]:
    passed = OkHttpResponse(
        headers=_options(_told_to_upstream(facts, _ID_PLACE)),
        response_headers_to_add=_options(_told_to_caller(facts, _ID_PLACE)),
    )
    response = CheckResponse(
        status=Status(code=OK),
        ok_response=passed,
        dynamic_metadata=_metadata(facts, _ID_PLACE),
    )
    return tuple(response.SerializeToString().split(_ID_PLACE.encode()))


@functools.lru_cache(maxsize=4096)
def _told_of_tenant(tenant_id: str, subscription_id: str) -> bytes:
    """Return what is added to the answer that lets a call of this tenant pass."""
    headers = _headers_of_tenant(tenant_id, subscription_id)
    return upstream_headers_added(headers) + metadata_added(
        _metadata_of_tenant(tenant_id, subscription_id)
    )


def _told_to_caller(facts: _Facts, decision_id: str) -> dict[str, str]:
    """Return the headers of the client's response. Nothing in them tells of money."""
    headers = {
        "x-aforo-decision": facts.outcome.value,
        "x-aforo-reason": facts.reason.value,
        "x-aforo-decision-id": decision_id,
    }
    if facts.outcome is Outcome.THROTTLE:
        headers["x-aforo-throttle"] = "true"
    return headers


def _quota_headers(decision: Decision, now_micros: int) -> dict[str, str]:
    """Return what the caller is told of its quotas: of the tightest one, and of soft ones.

    Of quotas of money no figure is told.
    """
    standings = decision.standings
    headers = {}
    countable = [each for each in standings if not each.quota.is_of_money]
    if countable:
        tightest = countable[0] if len(countable) == 1 else min(countable, key=_room)
        quota, window = tightest.quota, tightest.window
        remaining = min(tightest.remaining_units, FIELD_INTEGER_MAX)
        limit = min(quota.limit_units, FIELD_INTEGER_MAX)
        headers = {
            "ratelimit": f'"{quota.quota_id}";r={remaining};t={tightest.seconds_left(now_micros)}',
            "ratelimit-policy": f'"{quota.quota_id}";q={limit};w={window.end_s - window.start_s}',
        }
    over_soft = [s.quota.quota_id for s in standings if s.exceeded and s.quota.soft]
    if over_soft:
        headers["x-aforo-quota-exceeded"] = ",".join(over_soft)
    return headers


def _room(standing: Standing) -> tuple[bool, float]:
    """Order quotas by what to tell of: one that refuses before the others, then the fullest."""
    refuses = standing.exceeded and not standing.quota.soft
    return not refuses, standing.remaining_units / max(1, standing.quota.limit_units)


def _told_when_refused(decision: Decision, denial: Denial) -> dict[str, str]:
    headers = {"content-type": "application/problem+json"}
    if decision.retry_after_s is not None:
        headers["retry-after"] = str(decision.retry_after_s)
    if decision.reason is Reason.MARGIN_LIMIT_EXCEEDED:
        headers["x-margin-guard"] = "blocked"
        headers["x-margin-guard-level"] = "L3"
    if denial.status == UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"  # RFC 9110: a 401 must say how.
    return headers


def _told_to_upstream(facts: _Facts, decision_id: str) -> dict[str, str]:
    headers = {
        "x-aforo-features": ",".join(facts.features),
        "x-aforo-decision": facts.outcome.value,
        "x-aforo-decision-id": decision_id,
        "x-aforo-throttle": "true" if facts.outcome is Outcome.THROTTLE else "",
        "x-aforo-stale": "true" if facts.stale else "",
    }
    # A header that we don't set must not be the client's either: see `headers_to_remove`.
    return {name: value for name, value in headers.items() if value}


def _headers_of_tenant(tenant_id: str, subscription_id: str) -> list[tuple[str, str]]:
    headers = (("x-aforo-tenant", tenant_id), ("x-aforo-subscription", subscription_id))
    return [header for header in headers if header[1]]


def _metadata(facts: _Facts, decision_id: str) -> Struct:
    """Return what the access log will say of the decision; the contract is proto/README.md."""
    values = {
        "plan": facts.plan_id,
        "features": ",".join(facts.features),
        "decision": facts.outcome.value,
        "reason": facts.reason.value,
        "decision_id": decision_id,
        "provider": facts.provider,
        "shadow_reason": facts.shadow_reason.value if facts.shadow_reason else "",
        "stale": "true" if facts.stale else "",
        "catalog_version": facts.catalog_version,
        "hour": str(facts.hour_s),
        "weight": str(facts.weight_units) if facts.weight_units != 1 else "",
    }
    return Struct(fields={k: Value(string_value=v) for k, v in values.items() if v})


def _metadata_of_tenant(tenant_id: str, subscription_id: str) -> list[tuple[str, str]]:
    values = (("tenant", tenant_id), ("subscription", subscription_id))
    return [value for value in values if value[1]]


def _options(headers: Mapping[str, str]) -> Iterable[HeaderValueOption]:
    # Said outright: without an action Envoy appends to what the upstream sent.
    overwrite = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return [
        HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=overwrite)
        for name, value in headers.items()
    ]
