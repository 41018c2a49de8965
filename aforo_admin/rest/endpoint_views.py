"""Webhook endpoints: who gets alerts. Of URL and secrets it is told where they are kept."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse

from aforo_admin.control.models import WebhookEndpoint
from aforo_admin.control.recording import Change
from aforo_admin.domain.problems import Problem, check_id, place_of
from aforo_admin.rest import places
from aforo_admin.rest.authentication import caller_for
from aforo_admin.rest.described import Described
from aforo_admin.rest.documents import etag_of, json_of
from aforo_admin.rest.operations import PAGING, Operation, listed
from aforo_admin.rest.paging import key_of, page
from aforo_admin.rest.places import ID, Document
from aforo_admin.rest.problems import ApiError, InvalidError, NotFoundError, Wrong, wrong
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import Answer, check_match, shown, write
from aforo_admin.written_rates import said
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_scalars import UnknownNameError, flag, text
from aforo_admin.yaml_writing import node_of
from aforo_meter.alerts import KINDS

STANDARD: Final = "standard"
FORMATS: Final = (STANDARD, "slack")
# As the written form names what the table's columns hold.
KEPT_IN: Final = {"url_kept_in": "url", "secrets_kept_in": "secrets"}
TEXT_CHARS_MAX: Final = 1024


def operations() -> Iterator[Operation]:
    fields = Described()
    _read_fields(fields)
    schema = fields.schema
    path, one = "/webhook_endpoints", "/webhook_endpoints/{endpoint}"
    yield _operation(
        "GET", path, list_endpoints, "List webhook endpoints", query=PAGING, gives=listed(schema)
    )
    yield _operation(
        "POST",
        path,
        add,
        "Add a webhook endpoint",
        body=schema,
        gives=schema,
        status=HTTPStatus.CREATED,
    )
    yield _operation("GET", one, get, "Read a webhook endpoint", gives=schema)
    yield _operation(
        "PUT", one, put, "Replace a webhook endpoint", body=schema, gives=schema, matched=True
    )
    yield _operation(
        "DELETE",
        one,
        delete,
        "Remove a webhook endpoint",
        status=HTTPStatus.NO_CONTENT,
        matched=True,
    )


def _operation(method: str, path: str, view: Any, summary: str, **given: Any) -> Operation:
    return Operation(method=method, path=path, view=view, summary=summary, tag="alerts", **given)


def list_endpoints(request: HttpRequest, *, limit: int, cursor: str) -> HttpResponse:
    caller_for(request, Scope.CATALOG_READ)
    after = key_of(cursor, str)
    query = WebhookEndpoint.objects.order_by("endpoint_id")
    if after is not None:
        query = query.filter(pk__gt=after[0])
    found = list(query[: limit + 1])
    key = [found[:limit][-1].endpoint_id] if found else None
    return shown(page([_written(each) for each in found], limit=limit, key=key))


def get(request: HttpRequest, *, endpoint: str) -> HttpResponse:
    caller_for(request, Scope.CATALOG_READ)
    held = _written(_held(endpoint))
    return shown(held, etag_from=held)


def add(request: HttpRequest) -> HttpResponse:
    caller = caller_for(request, Scope.CATALOG_WRITE)
    row = _row(places.mapping(json_of(request)))

    def work(_made: Change) -> Answer:
        if WebhookEndpoint.objects.filter(pk=row.pk).exists():
            raise ApiError(
                HTTPStatus.CONFLICT, "exists", "there is such an endpoint: edit it, or rename this"
            )
        row.save(force_insert=True)
        answer = _answer(row)
        answer.status = HTTPStatus.CREATED
        answer.headers["Location"] = f"{request.path}/{row.pk}"
        return answer

    return write(request, caller, work, checked=True)


def put(request: HttpRequest, *, endpoint: str) -> HttpResponse:
    caller = caller_for(request, Scope.CATALOG_WRITE)
    row = _row(places.named(json_of(request), endpoint))

    def work(_made: Change) -> Answer:
        check_match(request, _written(_held(endpoint)))
        row.save()
        return _answer(row)

    return write(request, caller, work, checked=True)


def delete(request: HttpRequest, *, endpoint: str) -> HttpResponse:
    caller = caller_for(request, Scope.CATALOG_WRITE)

    def work(_made: Change) -> Answer:
        held = _held(endpoint)
        check_match(request, _written(held))
        held.delete()
        return Answer(status=HTTPStatus.NO_CONTENT)

    return write(request, caller, work, checked=True)


def _held(endpoint: str) -> WebhookEndpoint:
    found: WebhookEndpoint | None = WebhookEndpoint.objects.filter(pk=endpoint).first()
    if found is None:
        raise NotFoundError("such endpoint")
    return found


def _answer(row: WebhookEndpoint) -> Answer:
    body = _written(row)
    return Answer(body=body, headers={"ETag": etag_of(body)})


def _written(row: WebhookEndpoint) -> Document:
    return said(
        id=row.endpoint_id,
        url=row.url_kept_in,
        secrets=row.secrets_kept_in or None,
        format=row.format if row.format != STANDARD else None,
        kinds=list(row.kinds),
        tenants=list(row.tenants),
        enabled=None if row.enabled else False,
    )


def _row(body: Document) -> WebhookEndpoint:
    """Return what a body says, as a row that is not saved yet.

    Raises:
        InvalidError: It breaks a rule.
    """
    problems: list[Problem] = []
    row = _read_fields(Fields(node_of(body), path=(), problems=problems))
    problems += check_id((ID,), row.endpoint_id)
    errors = [wrong(place_of(each.path), each.message) for each in problems]
    try:
        row.clean()
    except ValidationError as error:
        errors += [
            Wrong(
                field=KEPT_IN[name],
                what="is no place",
                remedy=" ".join(messages),
            )
            for name, messages in error.message_dict.items()
        ]
    if errors:
        raise InvalidError(errors)
    return row


def _read_fields(fields: Fields) -> WebhookEndpoint:
    row = WebhookEndpoint(
        endpoint_id=fields.need(ID, text, ""),
        url_kept_in=fields.need("url", _bounded, ""),
        secrets_kept_in=fields.may("secrets", _bounded, ""),
        format=fields.may("format", _named("format", FORMATS), STANDARD),
        kinds=[_known(fields, kind) for kind in fields.texts("kinds") or ()],
        tenants=list(fields.texts("tenants") or ()),
        enabled=fields.may("enabled", flag, default=True),
    )
    fields.close()
    return row


def _known(fields: Fields, kind: str) -> str:
    if kind not in KINDS:
        fields.note(("kinds",), f"one of them is no kind of alert; these are: {', '.join(KINDS)}")
    return kind


def _bounded(given: str) -> str:
    if len(given) > TEXT_CHARS_MAX:
        raise ValueError(f"is {len(given)} characters long; at most {TEXT_CHARS_MAX} are kept")
    return given


def _named(kind: str, names: tuple[str, ...]) -> Any:
    def read(given: str) -> str:
        if given not in names:
            raise UnknownNameError(given, kind=kind, choices=names)
        return given

    return read
