"""Envoy's messages in, Envoy's messages out: who calls, and what everybody is told."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.authorize import Authorization
from aforo_authz.check import (
    Call,
    Identification,
    MalformedRequestError,
    _allowed_around_id,
    from_check_request,
    sha256_hex,
    to_check_response,
)
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import (
    CredentialKind,
    Decision,
    Level,
    Margin,
    Outcome,
    Policy,
    Reason,
    decide,
)
from aforo_authz.domain.features import Needs, Rule, Rules
from aforo_authz.domain.quotas import Standing, Window
from aforo_authz.policies import InMemoryPolicies, Presented
from aforo_authz.quotas import InMemoryQuotas
from tests.authz_requests import ENCODERS, Request, by_xds_protos
from tests.authz_samples import (
    NOW,
    make_credential,
    make_known,
    make_margin,
    make_policy,
    make_quota,
    micros,
)

KEY = "key-of-acme-0123456789abcdef"
EVERYTHING = Identification(jwt_claim_path=("payload", "sub"), peer_certificate=True)
Encode = Callable[[Request], bytes]


@pytest.fixture(params=ENCODERS)
def encode(request: pytest.FixtureRequest) -> Encode:
    return ENCODERS[request.param]


def api_key(key: str) -> Presented:
    return Presented(kind=CredentialKind.API_KEY, sha256_hex=sha256_hex(key))


# Who calls


@pytest.mark.parametrize(
    ("headers", "presented"),
    [
        ({"x-api-key": "k"}, api_key("k")),
        ({"authorization": "Bearer k"}, api_key("k")),
        ({"authorization": "bearer k"}, api_key("k")),
        ({"authorization": "BEARER  k "}, api_key("k")),
        ({"authorization": "Bearer k k"}, api_key("k k")),
        ({"x-api-key": "k", "authorization": "Bearer other"}, api_key("k")),
        ({"x-api-key": "", "authorization": "Bearer k"}, api_key("k")),
        # Envoy joins repeated headers: one of two keys is not what was shown.
        ({"x-api-key": "k,k"}, api_key("k,k")),
        ({"x-api-key": "ключ"}, api_key("ключ")),
        # Envoy puts ! for bytes that are no UTF-8.
        ({"x-api-key": "k!!"}, api_key("k!!")),
        ({"x-api-key": "k" * 60_000}, api_key("k" * 60_000)),
        ({"authorization": "Basic dTpw"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Bearerk"}, None),
        ({"authorization": "k"}, None),
        ({"cookie": "x-api-key=k", "x-apikey": "k", "api-key": "k"}, None),
        ({}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_api_key_comes_from_two_headers_and_nowhere_else(
    encode: Encode, headers: dict[str, str], presented: Presented | None
) -> None:
    call = from_check_request(encode(Request(headers=headers)), EVERYTHING)

    assert call.presented == presented


def test_a_key_is_looked_up_by_the_sha256_of_its_utf8(encode: Encode) -> None:
    call = from_check_request(encode(Request(headers={"x-api-key": "abc"})), Identification())

    assert call.presented is not None
    assert call.presented.sha256_hex == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize(
    ("claim_path", "jwt_metadata", "subject"),
    [
        ("payload.sub", {"payload": {"sub": "acme"}}, "acme"),
        ("sub", {"sub": "acme"}, "acme"),
        ("a.b.c", {"a": {"b": {"c": "acme"}}}, "acme"),
        ("payload.sub", {"payload": {"sub": ""}}, None),
        ("payload.sub", {"payload": {"sub": 7}}, None),
        ("payload.sub", {"payload": {"sub": {"x": "acme"}}}, None),
        ("payload.sub", {"payload": "acme"}, None),
        ("payload.sub", {"payload": {}}, None),
        ("payload.sub", {"other": {"sub": "acme"}}, None),
        ("payload.sub", {}, None),
        ("", {"payload": {"sub": "acme"}}, None),
    ],
)
def test_a_verified_claim_names_the_caller_where_the_path_says(
    encode: Encode, claim_path: str, jwt_metadata: dict[str, Any], subject: str | None
) -> None:
    identification = Identification(
        jwt_claim_path=tuple(claim_path.split(".")) if claim_path else ()
    )

    call = from_check_request(encode(Request(jwt_metadata=jwt_metadata)), identification)

    if subject is None:
        assert call.presented is None
    else:
        assert call.presented == Presented(
            kind=CredentialKind.JWT_SUBJECT, sha256_hex=sha256_hex(f"jwt\0{subject}")
        )


def test_a_bearer_token_that_envoy_verified_counts_by_its_claim(encode: Encode) -> None:
    request = Request(
        headers={"authorization": "Bearer eyJ.x.y"}, jwt_metadata={"payload": {"sub": "acme"}}
    )

    call = from_check_request(encode(request), EVERYTHING)

    assert call.presented is not None
    assert call.presented.kind is CredentialKind.JWT_SUBJECT


@pytest.mark.parametrize("enabled", [True, False])
def test_a_certificate_counts_only_where_that_is_enabled(encode: Encode, *, enabled: bool) -> None:
    uri = "spiffe://lab/ns/default/sa/client"

    call = from_check_request(
        encode(Request(principal=uri)), Identification(peer_certificate=enabled)
    )

    assert call.presented == (
        Presented(kind=CredentialKind.CERTIFICATE, sha256_hex=sha256_hex(f"certificate\0{uri}"))
        if enabled
        else None
    )


def test_the_kinds_never_share_a_hash() -> None:
    calls = [
        from_check_request(by_xds_protos(request), EVERYTHING).presented
        for request in (
            Request(headers={"x-api-key": "acme"}),
            Request(jwt_metadata={"payload": {"sub": "acme"}}),
            Request(principal="acme"),
        )
    ]

    assert len({call.sha256_hex for call in calls if call}) == 3


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05abc", b"\x0a\x04\x12\x02\xff\xff"])
def test_what_is_no_check_request_is_malformed(message: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        from_check_request(message, EVERYTHING)


@given(st.binary(max_size=200))
def test_no_message_breaks_anything(message: bytes) -> None:
    try:
        from_check_request(message, EVERYTHING)
    except MalformedRequestError:
        return


def test_an_empty_request_names_nobody(encode: Encode) -> None:
    assert from_check_request(b"", EVERYTHING).presented is None
    assert from_check_request(encode(Request()), EVERYTHING).presented is None


# What the call needs


RULES = Rules(
    [
        Rule(
            methods=frozenset(),
            path_template="/v1/chat",
            features=("chat",),
            weight_units=3,
        )
    ]
)


@pytest.mark.parametrize(
    ("context_extensions", "needs"),
    [
        ({}, Needs(features=("chat",), weight_units=3)),
        ({"aforo.features": "search"}, Needs(features=("search",), weight_units=3)),
        ({"aforo.features": " b, a ,,a"}, Needs(features=("a", "b"), weight_units=3)),
        ({"aforo.features": ""}, Needs(features=(), weight_units=3)),
        ({"features": "search"}, Needs(features=("chat",), weight_units=3)),
    ],
)
def test_the_routes_own_word_comes_before_the_catalogs_rules(
    encode: Encode, context_extensions: dict[str, str], needs: Needs
) -> None:
    call = from_check_request(
        encode(Request(context_extensions=context_extensions)), Identification()
    )

    assert call.needs(RULES) == needs


def test_a_route_may_name_what_no_rule_does(encode: Encode) -> None:
    request = Request(path="/other", context_extensions={"aforo.features": "search"})

    needs = from_check_request(encode(request), Identification()).needs(RULES)

    assert needs == Needs(features=("search",), weight_units=1)


# What everybody is told


@dataclass
class World:
    """One tenant, and what it is answered."""

    policy: Policy
    margin: Margin | None = None
    rules: Rules = RULES
    stale: bool = False

    async def check(self, request: Request) -> CheckResponse:
        """Answer as the process does, with everything in memory."""
        policies = InMemoryPolicies(
            credentials={sha256_hex(KEY): make_credential()},
            policies={"acme": self.policy},
            margins={"acme": self.margin} if self.margin else {},
            rules=self.rules,
        )
        authorization = Authorization(
            policies=policies,
            quotas=InMemoryQuotas(),
            now_micros=lambda: NOW,
            denials=DENIALS,
            observe=lambda *_: None,
            stale_max_micros=300_000_000,
            redis_timeout_s=1.0,
            identification=Identification(),
        )
        answered = authorization.check(by_xds_protos(request), None)
        if not isinstance(answered, bytes):
            answered = await answered
        return CheckResponse.FromString(answered)


SIGNED = Request(headers={"x-api-key": KEY})


def told(options: Any) -> dict[str, str]:  # noqa: ANN401 - Envoy's messages are untyped
    """Return headers by name; each must overwrite what is there, and stand once."""
    for option in options:
        assert option.append_action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        assert option.header.value
    assert len({o.header.key for o in options}) == len(options)
    return {option.header.key: option.header.value for option in options}


def metadata_of(response: CheckResponse) -> dict[str, str]:
    fields = response.dynamic_metadata.fields
    assert all(value.WhichOneof("kind") == "string_value" for value in fields.values())
    return {name: value.string_value for name, value in fields.items()}


async def test_an_allowed_call_tells_caller_upstream_and_access_log() -> None:
    request = replace(SIGNED, context_extensions={"aforo.provider": "openai"})

    response = await World(make_policy()).check(request)

    assert response.HasField("status")
    assert response.status.code == 0
    assert response.WhichOneof("http_response") == "ok_response"
    metadata = metadata_of(response)
    decision_id = metadata["decision_id"]
    assert re.fullmatch("[0-9a-f]{32}", decision_id)
    assert metadata == {
        "tenant": "acme",
        "subscription": "sub-acme",
        "plan": "pro",
        "features": "chat",
        "decision": "allow",
        "reason": "allowed",
        "decision_id": decision_id,
        "provider": "openai",
        "catalog_version": "v7",
        "hour": "1773576000",
        "weight": "3",
    }
    assert told(response.ok_response.headers) == {
        "x-aforo-tenant": "acme",
        "x-aforo-subscription": "sub-acme",
        "x-aforo-features": "chat",
        "x-aforo-decision": "allow",
        "x-aforo-decision-id": decision_id,
    }
    assert told(response.ok_response.response_headers_to_add) == {
        "x-aforo-decision": "allow",
        "x-aforo-reason": "allowed",
        "x-aforo-decision-id": decision_id,
    }


async def test_each_decision_has_an_id_of_its_own() -> None:
    world = World(make_policy())

    ids = {metadata_of(await world.check(SIGNED))["decision_id"] for _ in range(50)}

    assert len(ids) == 50


async def test_a_throttled_call_is_marked_for_the_upstream_and_the_caller() -> None:
    response = await World(make_policy(), make_margin(Level.THROTTLE)).check(SIGNED)

    assert response.status.code == 0
    assert told(response.ok_response.headers)["x-aforo-throttle"] == "true"
    caller = told(response.ok_response.response_headers_to_add)
    assert caller["x-aforo-throttle"] == "true"
    assert caller["x-aforo-decision"] == "throttle"
    assert caller["x-aforo-reason"] == "margin_throttle"
    assert metadata_of(response)["decision"] == "throttle"


async def test_the_margin_block_is_told_in_its_own_words() -> None:
    response = await World(make_policy(), make_margin(Level.BLOCK)).check(SIGNED)

    assert response.status.code == 7
    assert response.denied_response.status.code == 429
    headers = told(response.denied_response.headers)
    assert headers["x-margin-guard"] == "blocked"
    assert headers["x-margin-guard-level"] == "L3"
    assert "retry-after" not in headers
    assert json.loads(response.denied_response.body) == {
        "type": "urn:aforo:problem:margin_limit_exceeded",
        "title": "Margin Limit Exceeded",
        "status": 429,
        "detail": "The service is restricted for this contract. Contact your account manager.",
        "code": "SERVICE_RESTRICTED_MARGIN",
        "decision_id": headers["x-aforo-decision-id"],
    }


async def test_a_refusal_over_a_quota_says_when_to_come_back() -> None:
    response = await World(make_policy(make_quota(limit_units=3)), make_margin()).check(SIGNED)
    assert told(response.ok_response.response_headers_to_add)["ratelimit"] == '"calls";r=0;t=43200'
    used_up = make_margin(used={"calls": (micros("2026-03-15") // 1_000_000, 3)})

    response = await World(make_policy(make_quota(limit_units=3)), used_up).check(SIGNED)

    headers = told(response.denied_response.headers)
    assert response.denied_response.status.code == 429
    assert headers["retry-after"] == "43200"
    assert headers["ratelimit"] == '"calls";r=0;t=43200'
    assert headers["ratelimit-policy"] == '"calls";q=3;w=86400'
    assert json.loads(response.denied_response.body)["retry_after_s"] == 43200


# product.md's table: reason → status.
STATUSES = {
    Reason.UNAUTHENTICATED: 401,
    Reason.UNKNOWN_CREDENTIAL: 401,
    Reason.CREDENTIAL_REVOKED: 401,
    Reason.SUBSCRIPTION_INACTIVE: 402,
    Reason.FEATURE_NOT_ENTITLED: 403,
    Reason.MARGIN_LIMIT_EXCEEDED: 429,
    Reason.QUOTA_EXCEEDED: 429,
}


def answer_to(decision: Decision, call: Call | None = None) -> CheckResponse:
    call = call or from_check_request(by_xds_protos(SIGNED), Identification())
    message = to_check_response(
        decision, call, decision_id="d" * 32, now_micros=NOW, denials=DENIALS
    )
    return CheckResponse.FromString(message)


@pytest.mark.parametrize("reason", STATUSES)
def test_a_refusal_has_status_code_body_and_challenge_of_its_reason(reason: Reason) -> None:
    response = answer_to(Decision(reason=reason, needs=Needs()))

    # Without it Envoy would let the call pass, whatever else the answer says.
    assert response.status.code == 7
    assert response.status.message == reason
    assert response.denied_response.status.code == STATUSES[reason]
    headers = told(response.denied_response.headers)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-aforo-decision"] == "block"
    assert headers["x-aforo-reason"] == reason
    assert ("www-authenticate" in headers) is (STATUSES[reason] == 401)
    assert ("x-margin-guard" in headers) is (reason is Reason.MARGIN_LIMIT_EXCEEDED)
    assert json.loads(response.denied_response.body)["status"] == STATUSES[reason]
    assert metadata_of(response)["reason"] == reason


def test_of_an_unknown_caller_the_access_log_hears_no_tenant() -> None:
    metadata = metadata_of(answer_to(Decision(reason=Reason.UNKNOWN_CREDENTIAL, needs=Needs())))

    assert not {"tenant", "subscription", "plan", "catalog_version"} & metadata.keys()


async def test_shadow_mode_is_told_to_the_access_log_alone() -> None:
    response = await World(make_policy(shadow=True), make_margin(Level.BLOCK)).check(SIGNED)

    assert metadata_of(response)["shadow_reason"] == "margin_limit_exceeded"
    assert metadata_of(response)["decision"] == "allow"
    caller = told(response.ok_response.response_headers_to_add)
    assert caller["x-aforo-reason"] == "allowed"
    assert "shadow" not in str(response.ok_response)


def test_what_may_be_old_is_marked_for_upstream_and_access_log() -> None:
    decision = decide(make_known(stale=True), Needs(), now_micros=NOW, stale_max_micros=300_000_000)

    response = answer_to(decision)

    assert told(response.ok_response.headers)["x-aforo-stale"] == "true"
    assert metadata_of(response)["stale"] == "true"


# What the caller can't change


SPOOFED = {
    "x-tenant-id": "globex",
    "x-customer-id": "globex",
    "x-aforo-tenant": "globex",
    "x-aforo-features": "everything",
    "x-aforo-decision": "allow",
    "x-aforo-throttle": "true",
    "x-aforo-stale": "true",
    "x-aforo-quantity": "0",
}


async def test_headers_and_query_of_the_caller_change_nothing() -> None:
    world = World(make_policy())
    spoofing = replace(
        SIGNED,
        path="/v1/chat?x-tenant-id=globex&tenant=globex&aforo.features=",
        headers={**SIGNED.headers, **SPOOFED},
    )

    plain, spoofed = await world.check(SIGNED), await world.check(spoofing)

    for response in (plain, spoofed):
        del response.dynamic_metadata.fields["decision_id"]
    assert spoofed.dynamic_metadata == plain.dynamic_metadata
    ours, theirs = told(plain.ok_response.headers), told(spoofed.ok_response.headers)
    assert ours | {"x-aforo-decision-id": ""} == theirs | {"x-aforo-decision-id": ""}


async def test_every_header_of_ours_that_came_from_outside_is_replaced_or_removed() -> None:
    """Envoy removes after it has set: what we set must not be on the list."""
    request = replace(
        SIGNED,
        headers={**SIGNED.headers, **SPOOFED},
        context_extensions={"aforo.features": ""},
    )

    passed = (await World(make_policy()).check(request)).ok_response

    replaced, removed = set(told(passed.headers)), set(passed.headers_to_remove)
    assert not replaced & removed
    assert {name for name in SPOOFED if name.startswith("x-aforo-")} <= replaced | removed
    assert "x-tenant-id" not in removed


async def test_spoofed_headers_let_no_stranger_in() -> None:
    response = await World(make_policy()).check(Request(headers=SPOOFED))

    assert response.status.message == Reason.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("margin", "headers"),
    [
        (make_margin(), {"x-api-key": KEY}),
        (make_margin(Level.THROTTLE), {"authorization": f"Bearer {KEY}"}),
        (make_margin(Level.BLOCK), {"x-api-key": KEY}),
        (None, {"x-api-key": "wrong" + KEY}),
    ],
    ids=["allow", "throttle", "block", "unknown"],
)
async def test_an_answer_holds_no_key_no_hash_and_no_figure_of_money(
    margin: Margin | None, headers: Mapping[str, str]
) -> None:
    policy = make_policy(make_quota(limit_units=10**6))

    text = str(await World(policy, margin).check(Request(headers=headers)))

    assert KEY not in text
    assert sha256_hex(KEY)[:12] not in text
    for word in ("revenue", "cogs", "nanos", "ratio", "cost"):
        assert word not in text.lower()


async def test_no_answer_depends_on_what_an_earlier_caller_sent() -> None:
    """Answers are made from remembered parts: nothing of one client's may be in them."""
    world = World(make_policy())
    marked = replace(SIGNED, headers={**SIGNED.headers, "x-aforo-marked-by-somebody": "1"})

    await world.check(marked)

    assert "x-aforo-marked-by-somebody" not in str(await world.check(SIGNED))


async def test_nothing_that_clients_choose_is_remembered() -> None:
    world = World(make_policy())
    await world.check(SIGNED)
    before = _allowed_around_id.cache_info().currsize

    for number in range(20):
        chosen = {"x-api-key": KEY, f"x-aforo-{number}": "x", "x-request-id": str(number)}
        await world.check(Request(path=f"/v1/chat?{number}", headers=chosen))

    assert _allowed_around_id.cache_info().currsize == before


# RateLimit headers: draft-ietf-httpapi-ratelimit-headers, structured fields of RFC 9651


def standing(
    quota_id: str = "calls",
    *,
    limit: int,
    used: int,
    soft: bool = False,
    exceeded: bool = False,
    meter: str = "api.calls",
) -> Standing:
    return Standing(
        quota=make_quota(quota_id, meter=meter, limit_units=limit, soft=soft),
        window=Window(start_s=NOW // 1_000_000 - 30, end_s=NOW // 1_000_000 + 30),
        used_units=used,
        exceeded=exceeded,
    )


def rate_headers(*standings: Standing) -> dict[str, str]:
    decision = Decision(
        reason=Reason.ALLOWED,
        needs=Needs(),
        credential=make_credential(),
        policy=make_policy(),
        standings=standings,
    )
    return told(answer_to(decision).ok_response.response_headers_to_add)


@given(limit=st.integers(0, 2**63 - 1), used=st.integers(0, 2**63 - 1))
def test_rate_limit_headers_are_structured_fields(limit: int, used: int) -> None:
    headers = rate_headers(standing(limit=limit, used=used))

    # An item: a string, with parameters that are integers of at most 15 digits.
    assert re.fullmatch(r'"[ -~]+";r=\d{1,15};t=\d{1,15}', headers["ratelimit"])
    assert re.fullmatch(r'"[ -~]+";q=\d{1,15};w=\d{1,15}', headers["ratelimit-policy"])


def test_the_tightest_quota_is_told_of() -> None:
    roomy, tight = standing("roomy", limit=10, used=1), standing("tight", limit=1000, used=950)

    assert rate_headers(roomy, tight)["ratelimit"] == '"tight";r=50;t=30'


def test_a_quota_that_refuses_is_told_of_before_a_fuller_one() -> None:
    fuller = standing("fuller", limit=100, used=99)
    refusing = standing("refusing", limit=10, used=8, exceeded=True)

    assert rate_headers(fuller, refusing)["ratelimit"].startswith('"refusing"')


def test_no_figure_of_a_quota_of_money_is_told() -> None:
    calls = standing("calls", limit=1000, used=1)
    spent = standing("spent", limit=9_876_543_210, used=9_876_543_209, meter="money.cogs")

    assert rate_headers(calls, spent)["ratelimit"] == '"calls";r=999;t=30'
    assert rate_headers(spent) == {
        name: value for name, value in rate_headers().items() if not name.startswith("ratelimit")
    }
    assert "98765" not in str(rate_headers(calls, spent))


def test_without_quotas_there_is_no_rate_limit() -> None:
    assert not {"ratelimit", "ratelimit-policy"} & rate_headers().keys()


def test_soft_quotas_over_their_limit_are_named() -> None:
    headers = rate_headers(
        standing("a", limit=1, used=2, soft=True, exceeded=True),
        standing("b", limit=1, used=2, soft=True, exceeded=True),
        standing("c", limit=9, used=2, soft=True),
    )

    assert headers["x-aforo-quota-exceeded"] == "a,b"


# Laws of the answer


@given(
    outcome=st.sampled_from(Reason),
    features=st.lists(st.sampled_from(["a", "b", "chat"]), unique=True),
    provider=st.sampled_from(["", "openai"]),
    decision_id=st.text("0123456789abcdef", min_size=32, max_size=32),
)
def test_status_and_answer_always_agree(
    outcome: Reason, features: list[str], provider: str, decision_id: str
) -> None:
    decision = Decision(
        reason=outcome,
        needs=Needs(features=tuple(features)),
        credential=make_credential(),
        policy=make_policy(),
    )
    call = replace(from_check_request(b"", Identification()), provider=provider)

    response = CheckResponse.FromString(
        to_check_response(decision, call, decision_id=decision_id, now_micros=NOW, denials=DENIALS)
    )

    refused = decision.outcome is Outcome.BLOCK
    assert (response.status.code != 0) is refused
    assert response.WhichOneof("http_response") == ("denied_response" if refused else "ok_response")
    assert metadata_of(response)["decision_id"] == decision_id
    assert metadata_of(response)["decision"] == decision.outcome
