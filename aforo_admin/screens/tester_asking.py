"""What would be decided on a call now: asked of the code that decides live. Nothing is counted.

The call is put as Envoy would put it, so headers and credentials are read as they are live.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from aforo_admin.places import places
from aforo_authz.check import JWT_NAMESPACE, Call, Identification, from_check_request
from aforo_authz.denials import DENIALS
from aforo_authz.explain import Explanation, Question, UnexplainableError, explain
from aforo_authz.redis_url import RedisUrlError, parse_redis_url

CLAIM: Final = "sub"  # Which one Envoy's configuration names does not matter: we name it ourselves.
IDENTIFICATION: Final = Identification(jwt_claim_path=(CLAIM,), peer_certificate=True)
# As aforo-authz has it unless it is told otherwise: this process does not know its settings.
STALE_MAX_MICROS: Final = 300 * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Who calls: one of these, or nobody."""

    tenant_id: str = ""  # As if a good credential had been shown.
    api_key: str = field(default="", repr=False)
    jwt_subject: str = field(default="", repr=False)
    certificate: str = ""


def call_of(
    proof: Proof, *, method: str, path: str, headers: Mapping[str, str], route_features: str
) -> Call:
    """Return the call, read from the message that Envoy would send."""
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.path = method, path
    for name, value in headers.items():
        http.headers[name.lower()] = value
    if proof.api_key:
        http.headers["x-api-key"] = proof.api_key
    if proof.jwt_subject:
        claims = message.attributes.metadata_context.filter_metadata[JWT_NAMESPACE]
        claims.fields[CLAIM].string_value = proof.jwt_subject
    if proof.certificate:
        message.attributes.source.principal = proof.certificate
    if route_features:
        message.attributes.context_extensions["aforo.features"] = route_features
    return from_check_request(message.SerializeToString(), IDENTIFICATION)


async def ask(call: Call, *, tenant_id: str, now_micros: int) -> Explanation:
    """Decide on the call with what Redis holds now.

    Raises:
        NotSetError, UnexplainableError: Nothing can be said.
    """
    try:
        target = parse_redis_url(places().redis())
    except RedisUrlError as error:
        raise UnexplainableError(str(error)) from error
    return await explain(
        Question(call=call, tenant_id=tenant_id, now_micros=now_micros),
        target,
        stale_max_micros=STALE_MAX_MICROS,
        denials=DENIALS,
    )
