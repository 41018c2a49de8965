"""Tenants, each as a whole; and what holds for the whole catalog."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin.control.models import Tenant
from aforo_admin.control.recording import Change
from aforo_admin.domain.problems import Path, check_id
from aforo_admin.rest import editing, places
from aforo_admin.rest.authentication import caller_for
from aforo_admin.rest.described import Schema, part_schema
from aforo_admin.rest.documents import etag_of, json_of
from aforo_admin.rest.operations import PAGING, Operation, listed
from aforo_admin.rest.paging import key_of, page
from aforo_admin.rest.places import ID, Document
from aforo_admin.rest.problems import ApiError, InvalidError, invalid, wrong
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import Answer, check_match, shown, write

GENERAL: Final = ("currency", "default_route", "built_in_costs")


def operations() -> Iterator[Operation]:
    schema = part_schema("tenants", "*")
    held = with_id(schema)
    yield Operation(
        method="GET",
        path="/tenants",
        view=list_tenants,
        summary="List tenants",
        tag="tenants",
        query=PAGING,
        gives=listed(held),
    )
    yield Operation(
        method="POST",
        path="/tenants",
        view=add_tenant,
        summary="Add a tenant",
        tag="tenants",
        body={**held, "required": [ID, *schema["required"]]},
        gives=held,
        status=HTTPStatus.CREATED,
    )
    one: dict[str, Any] = {"path": "/tenants/{tenant}", "tag": "tenants"}
    yield Operation(method="GET", view=get_tenant, summary="Read a tenant", gives=held, **one)
    yield Operation(
        method="PUT",
        view=put_tenant,
        summary="Replace a tenant",
        body=held,
        gives=held,
        matched=True,
        **one,
    )
    yield Operation(
        method="DELETE",
        view=delete_tenant,
        summary="Remove a tenant",
        status=HTTPStatus.NO_CONTENT,
        matched=True,
        **one,
    )
    general = {
        "type": "object",
        "properties": {name: part_schema(name) for name in GENERAL},
        "required": ["currency"],
        "additionalProperties": False,
    }
    of_all: dict[str, Any] = {"path": "/general", "tag": "catalog", "gives": general}
    yield Operation(method="GET", view=get_general, summary="Read general settings", **of_all)
    yield Operation(
        method="PUT",
        view=put_general,
        summary="Replace general settings",
        body=general,
        matched=True,
        **of_all,
    )


def with_id(schema: Schema) -> Schema:
    """Return the schema of what the written form names by a key: here its id is a field."""
    return {**schema, "properties": {ID: {"type": "string"}, **schema["properties"]}}


def list_tenants(request: HttpRequest, *, limit: int, cursor: str) -> HttpResponse:
    caller = caller_for(request, Scope.TENANTS_READ, tenant=request.auth.tenant_id)
    after = key_of(cursor, str)
    query = Tenant.objects.order_by("tenant_id")
    if caller.tenant_id:
        query = query.filter(pk=caller.tenant_id)
    if after is not None:
        query = query.filter(pk__gt=after[0])
    names = list(query.values_list("pk", flat=True)[: limit + 1])
    tenants = editing.document(names).get("tenants", {}) if names else {}
    items = [{ID: name, **tenants[name]} for name in names if name in tenants]
    return shown(page(items, limit=limit, key=names[:limit][-1:] or None))


def get_tenant(request: HttpRequest, *, tenant: str) -> HttpResponse:
    caller_for(request, Scope.TENANTS_READ, tenant=tenant)
    held = places.tenant_of(editing.document([tenant]), tenant)
    return shown({ID: tenant, **held}, etag_from=held)


def add_tenant(request: HttpRequest) -> HttpResponse:
    caller = caller_for(request, Scope.TENANTS_WRITE)
    body = places.mapping(json_of(request))
    tenant = body.get(ID)
    if not isinstance(tenant, str):
        raise invalid(ID, "is missing, or no text", "give the tenant an id that no other has")
    for problem in check_id((ID,), tenant):
        raise InvalidError([wrong(ID, problem.message)])
    said = {name: value for name, value in body.items() if name != ID}

    def change(document: Document) -> Path:
        tenants = document.setdefault("tenants", {})
        if tenant in tenants:
            raise ApiError(
                HTTPStatus.CONFLICT, "exists", "there is such a tenant already: take another id"
            )
        tenants[tenant] = said
        return ("tenants", tenant)

    def work(made: Change) -> Answer:
        held = places.tenant_of(editing.edit(made, change, tenants=[tenant]), tenant)
        headers = {"Location": f"{request.path}/{tenant}", "ETag": etag_of(held)}
        return Answer(status=HTTPStatus.CREATED, body={ID: tenant, **held}, headers=headers)

    return write(request, caller, work)


def put_tenant(request: HttpRequest, *, tenant: str) -> HttpResponse:
    caller = caller_for(request, Scope.TENANTS_WRITE, tenant=tenant)
    body = places.named(json_of(request), tenant)
    said = {name: value for name, value in body.items() if name != ID}

    def change(document: Document) -> Path:
        check_match(request, places.tenant_of(document, tenant))
        document["tenants"][tenant] = said
        return ("tenants", tenant)

    def work(made: Change) -> Answer:
        held = places.tenant_of(editing.edit(made, change, tenants=[tenant]), tenant)
        return Answer(body={ID: tenant, **held}, headers={"ETag": etag_of(held)})

    return write(request, caller, work)


def delete_tenant(request: HttpRequest, *, tenant: str) -> HttpResponse:
    caller = caller_for(request, Scope.TENANTS_WRITE, tenant=tenant)

    def change(document: Document) -> Path:
        check_match(request, places.tenant_of(document, tenant))
        del document["tenants"][tenant]
        return ()

    def work(made: Change) -> Answer:
        editing.edit(made, change, tenants=[tenant])
        return Answer(status=HTTPStatus.NO_CONTENT)

    return write(request, caller, work)


def get_general(request: HttpRequest) -> HttpResponse:
    caller_for(request, Scope.CATALOG_READ)
    held = _general(editing.document())
    return shown(held, etag_from=held)


def put_general(request: HttpRequest) -> HttpResponse:
    caller = caller_for(request, Scope.CATALOG_WRITE)
    body = places.mapping(json_of(request))
    for name in body.keys() - set(GENERAL):
        raise invalid(name, "is no general setting", f"these are: {', '.join(GENERAL)}")

    def change(document: Document) -> Path:
        check_match(request, _general(document))
        for name in GENERAL:
            document.pop(name, None)
        document |= body
        return ()

    def work(made: Change) -> Answer:
        held = _general(editing.edit(made, change))
        return Answer(body=held, headers={"ETag": etag_of(held)})

    return write(request, caller, work)


def _general(document: Document) -> Document:
    return {name: document[name] for name in GENERAL if name in document}
