"""All operations in one API, and how what goes wrong is answered."""

import functools
import traceback
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import structlog
from django.core.exceptions import DisallowedHost
from django.db import DataError, IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, ValidationError

from aforo_admin.control.models_base import NeverEditedError
from aforo_admin.control.permitting import NotPermittedError, ReasonMissingError
from aforo_admin.faults import CatalogError, NoCatalogError
from aforo_admin.rest import (
    audit_views,
    catalog_views,
    decide_views,
    endpoint_views,
    entitlement_views,
    ledger_views,
    letter_views,
    plan_views,
    preview_views,
    scenario_views,
    tenant_views,
    what_if_views,
)
from aforo_admin.rest.authentication import Bearer, forbidden, unauthenticated
from aforo_admin.rest.described_names import with_components
from aforo_admin.rest.key_views import KeyViews
from aforo_admin.rest.operations import register
from aforo_admin.rest.part_views import PartViews
from aforo_admin.rest.places import PARTS
from aforo_admin.rest.problems import (
    ApiError,
    InvalidError,
    NotFoundError,
    Wrong,
    invalid,
    of_catalog,
)
from aforo_admin.rest.writes import REASON
from aforo_admin.scenario_store import NotTheirsError
from aforo_admin.screens.stores import AWAY

log = structlog.get_logger()

TEXT: Final = {"type": "string"}
PROBLEM: Final = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("type", "title", "detail"), TEXT),
        "status": {"type": "integer"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": dict.fromkeys(("field", "what", "remedy"), TEXT),
                "required": ["field", "what", "remedy"],
            },
        },
    },
    "required": ["type", "title", "status", "detail"],
}


VIEWS: Final[Any] = (
    *(tenant_views, plan_views, preview_views, endpoint_views, catalog_views, audit_views),
    *(ledger_views, letter_views, entitlement_views, what_if_views, scenario_views, decide_views),
)


def make_api() -> NinjaAPI:
    """Return the API, with all its operations."""
    api = NinjaAPI(
        title="Aforo",
        version="1",
        description="The control plane: what is sold, to whom, what it costs, and what came of it.",
        urls_namespace="api",
        auth=Bearer(),
        docs_url=None,  # ninja's pages need scripts of others, or in the page itself.
    )
    for part in PARTS:
        register(api, (KeyViews if part.keys else PartViews)(part).operations())
    for views in VIEWS:
        register(api, views.operations())
    for kind, handler in HANDLERS.items():
        api.add_exception_handler(kind, _answered(handler))
    _describe_problems(api)
    return api


def _describe_problems(api: NinjaAPI) -> None:
    get_schema = api.get_openapi_schema

    def with_problems(**options: Any) -> Any:
        schema = get_schema(**options)
        schema["components"]["schemas"]["Problem"] = PROBLEM
        return with_components(schema)

    api.get_openapi_schema = with_problems  # type: ignore[method-assign]


def _answered(handler: Callable[[Any], ApiError]) -> Callable[[HttpRequest, Any], HttpResponse]:
    return lambda _request, error: handler(error).response()


def _of_parameters(error: ValidationError) -> ApiError:
    return InvalidError(
        Wrong(
            field=str(each["loc"][-1]),
            what=str(each["msg"]),
            remedy="give what /api/v1/openapi.json describes",
        )
        for each in error.errors
    )


def _of_conflict(error: Exception) -> ApiError:
    log.warning("the database refused a change", error=type(error).__name__)
    return ApiError(
        HTTPStatus.CONFLICT,
        "conflict",
        "the database refuses this: something of it exists already, elsewhere in the catalog, or "
        "is never edited",
    )


def _of_outage(error: Exception) -> ApiError:
    log.error("the catalog's database can't be used", error=type(error).__name__)
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "database-away",
        "the catalog's database does not answer: try again",
        headers={"Retry-After": "1"},
    )


def _of_failure(error: Exception) -> ApiError:
    """Return how our own faults are told: the log has them, as it has those of pages."""
    log.error("the API failed", trace="".join(traceback.format_exception(error)))
    return failed()


def _of_data(_error: DataError) -> ApiError:
    return ApiError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid",
        "nothing was changed: a value is larger, or longer, than the database keeps",
    )


def _no_catalog(error: NoCatalogError) -> ApiError:
    return ApiError(HTTPStatus.CONFLICT, "no-catalog", str(error))


def _without_reason(error: ReasonMissingError) -> ApiError:
    return invalid(REASON, "is missing", str(error))


def _never_edited(error: NeverEditedError) -> ApiError:
    return ApiError(HTTPStatus.CONFLICT, "never-edited", str(error))


def _itself(error: ApiError) -> ApiError:
    return error


HANDLERS: Final[dict[type[Exception], Callable[[Any], ApiError]]] = {
    ApiError: _itself,
    AuthenticationError: lambda _: unauthenticated(),
    ValidationError: _of_parameters,
    Http404: lambda _: NotFoundError("such thing"),
    CatalogError: of_catalog,
    NoCatalogError: _no_catalog,
    NotPermittedError: lambda error: forbidden(str(error)),
    NotTheirsError: lambda error: forbidden(error.faults[0].message),
    ReasonMissingError: _without_reason,
    NeverEditedError: _never_edited,
    IntegrityError: _of_conflict,
    DataError: _of_data,
    **dict.fromkeys((OperationalError, InterfaceError), _of_outage),
    **dict.fromkeys(AWAY, entitlement_views.away),
    Exception: _of_failure,
}


def urls() -> Any:
    """Return the addresses of the API, for Django."""
    patterns, *names = api.urls
    for pattern in patterns:
        pattern.callback = _telling(pattern.callback)
    return (patterns, *names)


def _telling(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Return a view that says in the API's way that it has no such method."""

    @functools.wraps(view)  # Its marks too, which Django goes by.
    def told(request: HttpRequest, *arguments: Any, **given: Any) -> HttpResponse:
        answer = view(request, *arguments, **given)
        if answer.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
            return answer
        allowed = answer.headers["Allow"]
        return ApiError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "no-such-method",
            f"this address has no {request.method}; it has {allowed}",
            headers={"Allow": allowed},
        ).response()

    return told


def refused(_request: HttpRequest, error: Exception) -> HttpResponse:
    """Answer what Django itself refuses, before any operation is asked."""
    host = isinstance(error, DisallowedHost)
    return ApiError(
        HTTPStatus.BAD_REQUEST,
        "malformed",
        "the Host header names none of this server's hosts: ask for one of those that "
        "AFORO_ADMIN_HOSTS lists"
        if host
        else "the request can't be read: see that its address, headers and body are well-formed",
    ).response()


def failed() -> ApiError:
    return ApiError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "this is a fault of the server, and its log says which: try again, or report it",
    )


def missing(_request: HttpRequest, _rest: str = "") -> HttpResponse:
    """Answer what is asked beside all operations."""
    return NotFoundError("such address").response()


api = make_api()
