"""What would be decided on a call now, and why: the decision tester. It counts nothing."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin.control.models import Tenant
from aforo_admin.rest import places
from aforo_admin.rest.authentication import caller_for
from aforo_admin.rest.documents import json_of
from aforo_admin.rest.operations import Operation, Schema
from aforo_admin.rest.problems import NotFoundError, invalid
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import shown
from aforo_admin.screens import stores
from aforo_admin.screens.tester import HEADERS_MAX, METHODS, SECRET_HEADERS, TEXT_CHARS_MAX
from aforo_admin.screens.tester_asking import Proof, ask, call_of
from aforo_authz.explain_text import document_of

TENANT: Final = "tenant"
PROOFS: Final = ("api_key", "jwt_subject", "certificate")
TEXTS: Final = (TENANT, *PROOFS, "method", "path")
TEXT: Final[Schema] = {"type": "string", "maxLength": TEXT_CHARS_MAX}
BODY: Final[Schema] = {
    "type": "object",
    "description": "Who calls: one of tenant, api_key, jwt_subject, certificate; or nobody.",
    "properties": {
        **dict.fromkeys((TENANT, *PROOFS), TEXT),
        "method": {"enum": list(METHODS)},
        "path": {**TEXT, "pattern": "^/"},
        "headers": {"type": "object", "additionalProperties": TEXT, "maxProperties": HEADERS_MAX},
        "features": {"type": "array", "items": TEXT, "description": "That the route names."},
    },
    "required": ["path"],
    "additionalProperties": False,
}
WORD: Final[Schema] = {"type": "string"}
MAYBE: Final[Schema] = {"type": ["string", "null"]}
_OBJECTS: Final[Schema] = {"type": "array", "items": {"type": "object"}}
DECISION: Final[Schema] = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("decision", "reason", "margin_level", "rule"), WORD),
        **dict.fromkeys(("shadow_reason", "guard"), MAYBE),
        "status": {"type": ["integer", "string"]},
        "stale": {"type": "boolean"},
        **dict.fromkeys(("checks", "inputs"), _OBJECTS),
        "headers": {"type": "object"},
    },
    "required": ["decision", "reason", "status", "checks", "inputs", "headers"],
}


def operations() -> Iterator[Operation]:
    yield Operation(
        method="POST",
        path="/decide",
        view=decide,
        summary="What would be decided on a call now, and why? Nothing is counted",
        tag="entitlements",
        body=BODY,
        gives=DECISION,
    )


def decide(request: HttpRequest) -> HttpResponse:
    """Answer as `aforo-authz explain --json` does. Credentials are neither kept nor shown again."""
    body = _checked(places.mapping(json_of(request)))
    tenant = body.get(TENANT, "")
    # Why a call passes is told by margins. Whose key it is, nobody knows before it is looked up.
    caller_for(request, Scope.MONEY_READ, tenant=tenant or None)
    if tenant and not Tenant.objects.filter(pk=tenant).exists():
        raise NotFoundError("such tenant")
    call = call_of(
        Proof(**{name: body[name] for name in PROOFS if name in body}),
        method=body.get("method", METHODS[0]),
        path=body["path"],
        headers=body.get("headers", {}),
        route_features=",".join(body.get("features", ())),
    )
    now_micros = stores.now_micros()
    told = stores.run(ask(call, tenant_id=tenant, now_micros=now_micros))
    return shown(document_of(told, call, now_micros))


def _checked(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a body whose fields are what they should be. None of its values is repeated.

    Raises:
        InvalidError: They are not.
    """
    for name in body.keys() - BODY["properties"].keys():
        raise invalid(name, "is no field here", f"these are: {', '.join(BODY['properties'])}")
    for name in TEXTS:
        if name in body and not _is_text(body[name]):
            raise invalid(
                name, "is no text, or too long", f"write 1 to {TEXT_CHARS_MAX} characters"
            )
    if not body.get("path", "").startswith("/"):
        raise invalid("path", "is missing, or does not begin with a slash", "write one like /v1/x")
    if body.get("method", METHODS[0]) not in METHODS:
        raise invalid("method", "is none", f"give one of {', '.join(METHODS)}")
    proofs = [name for name in (TENANT, *PROOFS) if name in body]
    if len(proofs) > 1:
        raise invalid(proofs[1], f"stands beside {proofs[0]}", "say in one way who calls")
    _check_features(body.get("features", []))
    _check_headers(body.get("headers", {}))
    return body


def _check_features(features: Any) -> None:
    if not isinstance(features, list) or not all(
        _is_text(each) and "," not in each for each in features
    ):
        raise invalid("features", "is no list of ids", 'write it like ["chat"]')


def _check_headers(headers: Any) -> None:
    if not isinstance(headers, dict) or len(headers) > HEADERS_MAX:
        raise invalid("headers", "is no object, or too large", f"give {HEADERS_MAX} names at most")
    for name, value in headers.items():
        if not _is_text(name) or not (value == "" or _is_text(value)):
            raise invalid("headers", "has a name or value that is no text", "write each as a text")
        if name.lower() in SECRET_HEADERS:
            raise invalid(
                "headers", f"has {name.lower()}", "say who calls by api_key, jwt_subject, …"
            )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= TEXT_CHARS_MAX
