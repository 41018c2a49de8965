"""The tenants that the fuzzed decision knows, and what must be true of every answer to it."""

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from aforo_authz.authorize import Authorization
from aforo_authz.check import JWT_NAMESPACE, OWN_PREFIX, Identification, sha256_hex
from aforo_authz.decision_log import DecisionLog
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import CredentialKind, Level, SubscriptionState
from aforo_authz.domain.features import Rule, Rules
from aforo_authz.policies import InMemoryPolicies
from aforo_authz.quotas import InMemoryQuotas
from tests.authz_samples import (
    NOW,
    STALE_MAX,
    make_credential,
    make_margin,
    make_policy,
    make_quota,
)
from tests.fuzz.engine import Finding

# Long enough that no mutation makes one up.
KEYS = {
    "acme": "key-of-acme-5d1f3c9a77e04b6e",
    "globex": "key-of-globex-0c4f8be2d13a69f5",
    "hooli": "key-of-hooli-b7a9124e5f0d3c86",
    "initech": "key-of-initech-91e6c03fd8ba7245",
    "umbrella": "key-of-umbrella-3b8dfa602c97e154",
    "piper": "key-of-piper-e45a18c7096fb2d3",
}
SUBJECT, SUBJECT_TENANT = "subject-of-acme-7f20b3d94ce1a586", "acme"
PRINCIPAL, PRINCIPAL_TENANT = "spiffe://fuzz/globex-6ad0c8f1e2b97345", "globex"
MAY_PASS = frozenset({"acme", "globex", "umbrella"})
COUNTED_TENANT, QUOTA_UNITS = "globex", 30
FEATURES_RULES = Rules(
    [
        Rule(methods=frozenset({"POST"}), path_template="/v1/chat", features=("chat",)),
        Rule(
            methods=frozenset(),
            path_template="/v1/items/{id}",
            features=("search",),
            weight_units=7,
        ),
        Rule(methods=frozenset(), path_template="/admin/**", features=("admin",)),
    ],
    default_allows=True,
)
STATUSES = frozenset({denial.status for denial in DENIALS.values()})
SECRETS = [text.encode() for text in (*KEYS.values(), SUBJECT, PRINCIPAL)]


def make_authorization() -> Authorization:
    """Return a decision with everything in memory, and the log that goes with it."""
    credentials = {sha256_hex(key): make_credential(tenant_id=t) for t, key in KEYS.items()}
    credentials[sha256_hex(KEYS["initech"])] = make_credential(tenant_id="initech", revoked=True)
    credentials[sha256_hex(f"jwt\0{SUBJECT}")] = make_credential(
        tenant_id=SUBJECT_TENANT, kind=CredentialKind.JWT_SUBJECT
    )
    credentials[sha256_hex(f"certificate\0{PRINCIPAL}")] = make_credential(
        tenant_id=PRINCIPAL_TENANT, kind=CredentialKind.CERTIFICATE
    )
    quota = make_quota("hard", limit_units=QUOTA_UNITS)
    soft = make_quota("soft", limit_units=5, soft=True)
    policies = {
        "acme": make_policy(),
        "globex": make_policy(quota, soft, tenant_id="globex"),
        "hooli": make_policy(tenant_id="hooli", state=SubscriptionState.SUSPENDED),
        "initech": make_policy(tenant_id="initech"),
        "umbrella": make_policy(tenant_id="umbrella"),
        "piper": make_policy(tenant_id="piper"),
    }
    margins = {"umbrella": make_margin(Level.THROTTLE), "piper": make_margin(Level.BLOCK)}
    return Authorization(
        policies=InMemoryPolicies(
            credentials=credentials, policies=policies, margins=margins, rules=FEATURES_RULES
        ),
        quotas=InMemoryQuotas(),
        now_micros=lambda: NOW,
        denials=DENIALS,
        observe=DecisionLog(sample_ratio=1.0, refusals_per_s_max=1 << 60).note,
        stale_max_micros=STALE_MAX,
        redis_timeout_s=0.05,
        identification=Identification(jwt_claim_path=("claims", "sub"), peer_certificate=True),
    )


def tenant_of(request: CheckRequest) -> str:
    """Say whose credential a request presents, by the documents; empty: nobody's.

    The key in x-api-key, else the subject of a verified JWT, else a Bearer key, else the verified
    certificate: the first that is there counts, known or not.
    """
    attributes = request.attributes
    headers = attributes.request.http.headers
    by_key = {key: tenant for tenant, key in KEYS.items()}
    if headers.get("x-api-key"):
        return by_key.get(headers["x-api-key"], "")
    metadata = attributes.metadata_context.filter_metadata
    claims = metadata[JWT_NAMESPACE].fields["claims"] if JWT_NAMESPACE in metadata else None
    subject = claims.struct_value.fields["sub"].string_value if claims is not None else ""
    if subject:
        return SUBJECT_TENANT if subject == SUBJECT else ""
    words = headers["authorization"].split(" ", 1) if "authorization" in headers else []
    if len(words) > 1 and words[0].lower() == "bearer" and words[1].strip():
        return by_key.get(words[1].strip(), "")
    return PRINCIPAL_TENANT if attributes.source.principal == PRINCIPAL else ""


def look_at(message: bytes, answer: bytes) -> tuple[str, str, int, str]:
    """Return what is remarkable of an answer: reason, tenant, headers removed, what was shown.

    Raises:
        Finding: The answer is not what its request deserves.
    """
    request, response = CheckRequest.FromString(message), CheckResponse.FromString(answer)
    tenant = tenant_of(request)
    told = {k: v.string_value for k, v in response.dynamic_metadata.fields.items()}
    if told.get("tenant", "") != tenant:
        raise Finding(f"decided for {told.get('tenant')!r}, presented was {tenant!r}")
    operators = "".join(request.attributes.context_extensions.values()).encode()
    if any(secret in answer and secret not in operators for secret in SECRETS):
        raise Finding("a credential is in the answer")
    if response.status.code == 0:
        _look_at_pass(tenant, request, response)
    elif not response.HasField("denied_response") or response.HasField("ok_response"):
        raise Finding("a refusal without a denied_response, or with an ok_response")
    elif response.denied_response.status.code not in STATUSES:
        raise Finding(f"refused with HTTP {response.denied_response.status.code}")
    removed = min(3, len(response.ok_response.headers_to_remove))
    headers = request.attributes.request.http.headers
    shown = "".join(name[:1] for name in ("x-api-key", "authorization") if name in headers)
    return told["reason"], tenant, removed, shown


def _look_at_pass(tenant: str, request: CheckRequest, response: CheckResponse) -> None:
    if tenant not in MAY_PASS:
        raise Finding(f"{tenant or 'nobody'!r} was let through")
    if not response.HasField("ok_response") or response.HasField("denied_response"):
        raise Finding("let through without an ok_response, or with a denied_response")
    ok = response.ok_response
    ours = [option.header.key for option in ok.headers]
    if [o.header.value for o in ok.headers if o.header.key == "x-aforo-tenant"] != [tenant]:
        raise Finding("the upstream is told of another tenant")
    theirs = {name for name in request.attributes.request.http.headers if name[:8] == OWN_PREFIX}
    if theirs - set(ours) - set(ok.headers_to_remove):
        raise Finding(f"{theirs} of the client reach the upstream")
