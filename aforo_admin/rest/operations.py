"""One operation of the API: its address, what it takes and gives, and how it is described."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja import Query as NinjaQuery

from aforo_admin.rest.paging import CURSOR_CHARS_MAX, LIMIT, LIMIT_MAX
from aforo_admin.rest.problems import MEDIA_TYPE, ApiError, NotFoundError
from aforo_admin.rest.writes import KEY, KEY_CHARS_MAX, REASON, REASON_CHARS_MAX

Schema = Mapping[str, Any]
Parameters = Mapping[str, tuple[type, Any]]
View = Callable[..., HttpResponse]

JSON: Final = "application/json"
PATH_CHARS_MAX: Final = 256
Query: Any = NinjaQuery  # A function that says it is a generic class.
PAGING: Final[Parameters] = {
    "limit": (int, Query(LIMIT, ge=1, le=LIMIT_MAX, description="How many at most.")),
    "cursor": (
        str,
        Query("", max_length=CURSOR_CHARS_MAX, description="The `next` of the page before."),
    ),
}
TEXT_PATTERN: Final = r"^[^\x00-\x1f\x7f]*$"

_HEADERS_OF_WRITES: Final = [
    {
        "in": "header",
        "name": KEY,
        "description": "Makes a repeat harmless: it is answered as the first was, for 24 hours.",
        "schema": {"type": "string", "maxLength": KEY_CHARS_MAX, "pattern": "^[!-~]+$"},
    },
    {
        "in": "header",
        "name": REASON,
        "description": "Why, for the record of changes. Floors and overrides need it.",
        "schema": {"type": "string", "maxLength": REASON_CHARS_MAX, "pattern": "^[ -~]*$"},
    },
]
_IF_MATCH: Final = {
    "in": "header",
    "name": "If-Match",
    "description": "The ETag of what is edited, or * for any.",
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9a-f]{32}")$'},
}
_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    method: str
    path: str  # Its parameters are the view's, as texts.
    view: View
    summary: str
    tag: str
    query: Parameters = field(default_factory=dict)
    body: Schema | None = None
    body_type: str = JSON
    gives: Schema = field(default_factory=dict)
    gives_type: str = JSON
    status: HTTPStatus = HTTPStatus.OK
    matched: bool = False  # It edits what has an ETag.

    @property
    def operation_id(self) -> str:
        words = re.sub(r"[{}]", "", self.path).replace("/", "_").strip("_")
        return f"{self.method.lower()}_{words}"

    @property
    def writes(self) -> bool:
        return self.method != "GET"


def text_query(description: str, *, chars_max: int = 128) -> tuple[type, Any]:
    """Return a query parameter that holds a text; empty: any."""
    return str, Query("", max_length=chars_max, pattern=TEXT_PATTERN, description=description)


def flag_query(description: str) -> tuple[type, Any]:
    return bool, Query(default=False, description=description)


def register(api: NinjaAPI, operations: Iterable[Operation]) -> None:
    for operation in operations:
        api.default_router.add_api_operation(
            operation.path,
            [operation.method],
            _with_signature(operation),
            operation_id=operation.operation_id,
            summary=operation.summary,
            tags=[operation.tag],
            openapi_extra=_described(operation),
        )


def _with_signature(operation: Operation) -> View:
    """Return the view with parameters that ninja can read: those of its path, and of its query."""

    def view(request: HttpRequest, **given: Any) -> HttpResponse:
        for name in names:
            # No id of ours has such characters, and no database takes them all.
            if not given[name].isprintable() or len(given[name]) > PATH_CHARS_MAX:
                raise NotFoundError("such thing")
        if operation.body is not None:
            _check_type(request, operation.body_type)
        return operation.view(request, **given)

    names = re.findall(r"\{(\w+)\}", operation.path)
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("request", named, annotation=HttpRequest)]
    parameters += [inspect.Parameter(name, named, annotation=str) for name in names]
    parameters += [
        inspect.Parameter(name, named, annotation=kind, default=default)
        for name, (kind, default) in operation.query.items()
    ]
    view.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    view.__name__ = operation.operation_id
    return view


def _check_type(request: HttpRequest, wanted: str) -> None:
    """Refuse a body that says that it is something else; one that says nothing is read.

    Raises:
        ApiError: It does.
    """
    given = str(request.content_type or "").lower()
    # JSON is YAML as well.
    if given and given not in {wanted, JSON} and not (wanted == JSON and given.endswith("+json")):
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            f"the body says that it is {given}: send it with Content-Type: {wanted}",
            headers={"Accept": wanted},
        )


def _described(operation: Operation) -> dict[str, Any]:
    extra: dict[str, Any] = {"responses": _answers(operation), "parameters": []}
    if operation.writes:
        extra["parameters"] += _HEADERS_OF_WRITES
    if operation.matched:
        extra["parameters"].append(_IF_MATCH)
    if operation.body is not None:
        content = {operation.body_type: {"schema": operation.body}}
        extra["requestBody"] = {"required": True, "content": content}
    return extra


def _answers(operation: Operation) -> dict[Any, Any]:
    done: dict[str, Any] = {"description": operation.status.phrase}
    if operation.gives:
        done["content"] = {operation.gives_type: {"schema": operation.gives}}
    problem = {
        "description": "A problem (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
    }
    return {operation.status.value: done, "4XX": problem, "503": problem}


def listed(item: Schema) -> Schema:
    """Return the schema of a page."""
    properties = {"items": {"type": "array", "items": item}, "next": {"type": "string"}}
    return {"type": "object", "properties": properties, "required": ["items"]}
