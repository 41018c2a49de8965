"""Scenarios of the what-if that are kept: listed, read, kept, removed, and turned into drafts.

By the code of the page, and by the same roles: control/roles.py says whose.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin import scenario_drafts, scenario_store, store
from aforo_admin.control.models import Scenario as Saved
from aforo_admin.control.models_scenarios import NAME_CHARS_MAX
from aforo_admin.control.recording import Change
from aforo_admin.control.roles import REMOVE_ANY_SCENARIO
from aforo_admin.domain.problems import day
from aforo_admin.rest import places
from aforo_admin.rest.authentication import caller_for, require
from aforo_admin.rest.described import scalar_schema
from aforo_admin.rest.documents import etag_of, json_of
from aforo_admin.rest.operations import PAGING, TEXT_PATTERN, Operation, Schema, listed
from aforo_admin.rest.paging import key_of, page
from aforo_admin.rest.places import ID, Document
from aforo_admin.rest.problems import ApiError, InvalidError, NotFoundError, invalid, wrong
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.tokens import Caller
from aforo_admin.rest.what_if_views import PERMISSION, exact, played, scenario_schema
from aforo_admin.rest.writes import Answer, check_match, repeated, shown, write
from aforo_admin.simulating import ground_of
from aforo_admin.yaml_scalars import instant

NUMBER_DIGITS_MAX: Final = 9
NAME: Final = "name"
BEGINS: Final = "begins"
TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "integer"}
HEAD: Final = {
    ID: NUMBER,
    **dict.fromkeys((NAME, "author", "month", "kept_at"), TEXT),
    "summary": {"type": "object"},
}
TURNED: Final[Schema] = {
    "type": "object",
    "properties": {
        "drafts": {
            "type": "array",
            "items": {"type": "object", "properties": {"plan": TEXT, "number": NUMBER}},
        },
        "prices": {"type": "integer", "description": "Coming entries of the price book."},
        "changes": {
            "type": "array",
            "items": TEXT,
            "description": "What each entry of the price book is instead of.",
        },
        "remarks": {"type": "array", "items": TEXT},
        "left_out": {"type": "array", "items": TEXT},
    },
    "required": ["drafts", "prices", "changes", "remarks", "left_out"],
}


def operations() -> Iterator[Operation]:
    said = scenario_schema()
    kept = {"type": "object", "properties": {**HEAD, "scenario": said}}
    name = {**TEXT, "maxLength": NAME_CHARS_MAX, "pattern": TEXT_PATTERN}
    body = {**said, "properties": {NAME: name, **said["properties"]}}
    named = {
        "type": "object",
        "properties": {NAME: name},
        "required": [NAME],
        "additionalProperties": False,
    }
    begins = {"type": "object", "properties": {BEGINS: scalar_schema(instant)}}
    all_of, one = "/scenarios", "/scenarios/{scenario}"
    yield _operation(
        "GET",
        all_of,
        list_scenarios,
        "List what-ifs that are kept, with their sums",
        query=PAGING,
        gives=listed({"type": "object", "properties": HEAD}),
    )
    yield _operation(
        "POST",
        all_of,
        add_scenario,
        "Play a what-if, and keep it with its sums under a name",
        body={**body, "required": [NAME]},
        gives=kept,
        status=HTTPStatus.CREATED,
    )
    yield _operation("GET", one, get_scenario, "Read a what-if that is kept", gives=kept)
    yield _operation(
        "PUT", one, put_scenario, "Replace one's own", body=body, gives=kept, matched=True
    )
    yield _operation(
        "PATCH",
        one,
        rename_scenario,
        "Give one's own another name",
        body=named,
        gives=kept,
        matched=True,
    )
    yield _operation(
        "DELETE",
        one,
        delete_scenario,
        "Remove a what-if: one's own, or as an owner",
        status=HTTPStatus.NO_CONTENT,
        matched=True,
    )
    yield _operation(
        "POST",
        f"{one}/drafts",
        turn,
        "Turn a what-if into drafts of plans, and coming prices",
        body={**begins, "required": [BEGINS], "additionalProperties": False},
        gives=TURNED,
        status=HTTPStatus.CREATED,
        matched=True,
    )


def _operation(method: str, path: str, view: Any, summary: str, **said: Any) -> Operation:
    return Operation(method=method, path=path, view=view, summary=summary, tag="scenarios", **said)


def list_scenarios(request: HttpRequest, *, limit: int, cursor: str) -> HttpResponse:
    _caller(request, PERMISSION, Scope.MONEY_READ)
    after = key_of(cursor, int)
    query = Saved.objects.order_by("pk")
    if after is not None:
        query = query.filter(pk__gt=after[0])
    found = list(query[: limit + 1])
    key = [found[:limit][-1].pk] if found else None
    return shown(page([_head(each) for each in found], limit=limit, key=key))


def get_scenario(request: HttpRequest, *, scenario: str) -> HttpResponse:
    _caller(request, PERMISSION, Scope.MONEY_READ)
    body = _body(_held(scenario))
    return shown(body, etag_from=body)


def add_scenario(request: HttpRequest) -> HttpResponse:
    # The answer has the sums, so keeping takes who may see them.
    caller = _caller(request, "control.add_scenario", Scope.MONEY_WRITE, Scope.MONEY_READ)
    name, body = _named(request)
    if name is None:
        raise _nameless()
    name = scenario_store.checked_name(name)
    first = repeated(request, caller)
    if first is not None:
        return first
    said, found = played(body)  # Before the change: others would wait for it.

    def work(made: Change) -> Answer:
        if Saved.objects.filter(name=name).exists():
            raise _taken(name)
        answer = _answer(scenario_store.keep(name, said, found, made))
        answer.status = HTTPStatus.CREATED
        answer.headers["Location"] = f"{request.path}/{answer.body[ID]}"
        return answer

    return write(request, caller, work, checked=True)


def put_scenario(request: HttpRequest, *, scenario: str) -> HttpResponse:
    caller = _caller(request, "control.change_scenario", Scope.MONEY_WRITE, Scope.MONEY_READ)
    name, body = _named(request)

    def mine() -> Saved:
        held = _held(scenario)
        check_match(request, _body(held))
        scenario_store.refuse_others(held, caller.actor)
        if name is not None and name.strip() != held.name:
            raise invalid(NAME, "is another one than it has", "leave it out, or PATCH it")
        return held

    first = repeated(request, caller)
    if first is not None:
        return first
    mine()  # Who may not is not kept waiting.
    said, found = played(body)

    def work(made: Change) -> Answer:
        return _answer(scenario_store.keep(str(mine().name), said, found, made))

    return write(request, caller, work, checked=True)


def rename_scenario(request: HttpRequest, *, scenario: str) -> HttpResponse:
    # Nothing is played, but the answer has the sums that are kept.
    caller = _caller(request, "control.change_scenario", Scope.MONEY_WRITE, Scope.MONEY_READ)
    name, rest = _named(request)
    for key in rest:
        raise invalid(key, "is no field of this", f"leave it out; send {NAME} alone, or PUT")
    if name is None:
        raise _nameless()
    name = scenario_store.checked_name(name)

    def work(made: Change) -> Answer:
        held = _held(scenario)
        check_match(request, _body(held))
        scenario_store.refuse_others(held, caller.actor)  # Before who has the name is told.
        if Saved.objects.filter(name=name).exclude(pk=held.pk).exists():
            raise _taken(name)
        scenario_store.rename(held, name, made)
        return _answer(held)

    return write(request, caller, work, checked=True)


def delete_scenario(request: HttpRequest, *, scenario: str) -> HttpResponse:
    caller = _caller(request, "control.delete_scenario", Scope.MONEY_WRITE)

    def work(made: Change) -> Answer:
        held = _held(scenario)
        check_match(request, _body(held))
        of_anybody = caller.has(f"control.{REMOVE_ANY_SCENARIO}")
        scenario_store.discard(held, made, of_anybody=of_anybody)
        return Answer(status=HTTPStatus.NO_CONTENT)

    return write(request, caller, work, checked=True)


def turn(request: HttpRequest, *, scenario: str) -> HttpResponse:
    caller = _caller(request, "control.add_planversion", Scope.CATALOG_WRITE, Scope.MONEY_READ)
    begins_at = _begins(places.mapping(json_of(request)))

    def work(_made: Change) -> Answer:
        held = _held(scenario)
        check_match(request, _body(held))
        ground = ground_of(store.load_catalog().catalog)
        said = scenario_store.read(held, ground.catalog)
        if said.costs:
            require(caller, scenario_drafts.PRICES)
        turned = scenario_drafts.turn_into_drafts(said, ground, begins_at=begins_at)
        drafts = [{"plan": each.plan_id, "number": each.number} for each in turned.drafts]
        return Answer(
            status=HTTPStatus.CREATED,
            body={
                "drafts": drafts,
                "prices": len(turned.prices),
                "changes": [each.told(turned.currency) for each in turned.prices],
                "remarks": list(turned.remarks),
                "left_out": list(turned.left),
            },
        )

    return write(request, caller, work)


def _caller(request: HttpRequest, permission: str, *scopes: Scope) -> Caller:
    caller, *_ = [caller_for(request, scope) for scope in scopes]
    require(caller, permission)
    return caller


def _named(request: HttpRequest) -> tuple[str | None, Document]:
    """Return the name, if the body has one, and the scenario that it writes."""
    body = places.mapping(json_of(request))
    name = body.get(NAME)
    if name is not None and not isinstance(name, str):
        raise invalid(NAME, "is no text", "write it in quotes")
    return name, {key: value for key, value in body.items() if key != NAME}


def _begins(body: Document) -> Any:
    for key in body.keys() - {BEGINS}:
        raise invalid(key, "is no field of this", f"leave it out; send {BEGINS} alone")
    given = body.get(BEGINS)
    if not isinstance(given, str):
        raise invalid(BEGINS, "is missing, or no text", "say from when prices hold: 2027-01-31")
    try:
        return instant(given)
    except ValueError as error:
        raise InvalidError([wrong(BEGINS, str(error))]) from None


def _held(scenario: str) -> Saved:
    known = scenario.isascii() and scenario.isdecimal() and len(scenario) <= NUMBER_DIGITS_MAX
    found: Saved | None = Saved.objects.filter(pk=int(scenario)).first() if known else None
    if found is None:
        raise NotFoundError("such scenario")
    return found


def _nameless() -> InvalidError:
    return invalid(NAME, "is missing", f"write a name of 1 to {NAME_CHARS_MAX} characters")


def _taken(name: str) -> ApiError:
    return ApiError(
        HTTPStatus.CONFLICT,
        "exists",
        f'there is a scenario "{name}" already: take another name, or PUT to replace your own',
    )


def _answer(saved: Saved) -> Answer:
    body = _body(saved)
    return Answer(body=body, headers={"ETag": etag_of(body)})


def _head(saved: Saved) -> Document:
    return {
        ID: saved.pk,
        NAME: saved.name,
        "author": saved.author,
        **({"month": saved.month} if saved.month else {}),
        "kept_at": day(saved.created_at),
        "summary": exact(saved.summary),
    }


def _body(saved: Saved) -> Document:
    return {**_head(saved), "scenario": saved.changes}
