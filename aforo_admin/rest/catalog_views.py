"""The catalog as a whole: exported, compared, and made equal to a file, as far as was shown."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin import audit, store, written
from aforo_admin.catalog_differences import Difference, differences, digest_of
from aforo_admin.catalog_yaml import read_text
from aforo_admin.control.recording import Change
from aforo_admin.control.roles import APPLY_CATALOG
from aforo_admin.domain.catalog import Catalog
from aforo_admin.faults import CatalogError, NoCatalogError
from aforo_admin.rest.authentication import caller_for, require
from aforo_admin.rest.described import catalog_schema
from aforo_admin.rest.documents import body_of
from aforo_admin.rest.operations import Operation, Schema, text_query
from aforo_admin.rest.problems import NO_STORE, ApiError, InvalidError, Wrong, wrong
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.tokens import Caller
from aforo_admin.rest.writes import Answer, shown, write
from aforo_admin.yaml_nodes import BYTES_MAX
from aforo_admin.yaml_writing import yaml_text

YAML: Final = "application/yaml"
NAME: Final = "catalog"
READ: Final = (Scope.CATALOG_READ, Scope.TENANTS_READ)
PERMISSION: Final = f"control.{APPLY_CATALOG}"
TEXT: Final[Schema] = {"type": "string"}
DIFFERENCES: Final[Schema] = {
    "type": "object",
    "properties": {
        "change": {"type": "integer"},
        "digest": TEXT,
        "differences": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"place": TEXT, "before": TEXT, "after": TEXT},
            },
        },
    },
}


def operations() -> Iterator[Operation]:
    catalog = catalog_schema()
    yield _operation(
        "GET",
        "/catalog",
        export,
        "Export the catalog as YAML",
        gives={"type": "object"},
        gives_type=YAML,
    )
    yield _operation(
        "POST",
        "/catalog/diff",
        diff,
        "Say what applying a catalog would change: nothing is changed",
        body=catalog,
        body_type=YAML,
        gives=DIFFERENCES,
    )
    yield _operation(
        "POST",
        "/catalog/apply",
        apply,
        "Make the catalog equal to the one that the differences were told of",
        body=catalog,
        body_type=YAML,
        query={"digest": text_query("What /catalog/diff gave.")},
        gives=DIFFERENCES,
    )


def _operation(method: str, path: str, view: Any, summary: str, **said: Any) -> Operation:
    return Operation(method=method, path=path, view=view, summary=summary, tag="catalog", **said)


def _caller(request: HttpRequest, *scopes: Scope) -> Caller:
    """Return who asks: a whole catalog has its tenants in it, so it takes their scope too."""
    callers = [caller_for(request, scope) for scope in scopes]
    return callers[0]


def export(request: HttpRequest) -> HttpResponse:
    _caller(request, *READ)
    text = yaml_text(written.catalog(store.load_catalog().catalog))
    return HttpResponse(text, content_type=f"{YAML}; charset=utf-8", headers=NO_STORE)


def diff(request: HttpRequest) -> HttpResponse:
    _caller(request, *READ)
    catalog = _read(request)
    before, seq = _held()
    return shown(_body(differences(before, catalog), seq, catalog))


def apply(request: HttpRequest, *, digest: str) -> HttpResponse:
    # What it answers is what was there.
    caller = _caller(request, *READ, Scope.CATALOG_WRITE, Scope.TENANTS_WRITE)
    require(caller, PERMISSION)
    catalog = _read(request)

    def work(made: Change) -> Answer:
        before, seq = _held()
        body = _body(differences(before, catalog), seq, catalog)
        if digest != body["digest"]:
            raise ApiError(
                HTTPStatus.CONFLICT,
                "not-as-shown",
                "this is not what was shown: ask /catalog/diff what would change now, and give "
                "its digest",
            )
        store.make_equal(catalog, made)
        return Answer(body=body)

    return write(request, caller, work)


def _held() -> tuple[Catalog | None, int]:
    """Return the catalog, if there is one, and the change that it reflects."""
    try:
        held = store.load_catalog()
    except NoCatalogError:
        return None, audit.last_seq()
    return held.catalog, held.seq


def _read(request: HttpRequest) -> Catalog:
    try:
        return read_text(body_of(request, bytes_max=BYTES_MAX), name=NAME)
    except CatalogError as error:
        raise InvalidError(
            Wrong(
                field=f"line {fault.line}: {fault.place}" if fault.line else fault.place,
                what=told.what,
                remedy=told.remedy,
            )
            for fault in error.faults
            for told in [wrong(fault.place, fault.message)]
        ) from None


def _body(found: list[Difference], seq: int, catalog: Catalog) -> dict[str, Any]:
    return {
        "change": seq,
        "digest": digest_of(seq, catalog),
        "differences": differences_told(found),
    }


def differences_told(found: Sequence[Difference]) -> list[dict[str, str]]:
    """Return differences as the API tells them."""
    return [
        {
            name: value
            for name, value in {
                "place": each.place,
                "before": each.before,
                "after": each.after,
            }.items()
            if value is not None
        }
        for each in found
    ]
