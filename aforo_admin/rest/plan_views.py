"""Plans and their versions: drafts are edited, put in force, and retired."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin import plan_drafts, store, written
from aforo_admin.control.models import Plan, PlanVersion
from aforo_admin.control.models_plans import State
from aforo_admin.control.recording import Change
from aforo_admin.domain.catalog import Plan as CatalogPlan
from aforo_admin.domain.problems import check_id, day
from aforo_admin.rest import editing, places
from aforo_admin.rest.authentication import caller_for
from aforo_admin.rest.described import Schema, part_schema
from aforo_admin.rest.documents import etag_of, json_of
from aforo_admin.rest.operations import PAGING, Operation, listed
from aforo_admin.rest.paging import key_of, page
from aforo_admin.rest.places import ID, Document
from aforo_admin.rest.problems import ApiError, NotFoundError, invalid, wrong
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.tokens import Caller
from aforo_admin.rest.writes import Answer, check_match, shown, write

NUMBER_DIGITS_MAX: Final = 9
STATE: Final[Schema] = {"enum": list(State.values)}
VERSION: Final = {
    "number": {"type": "integer"},
    "state": STATE,
    "published_at": {"type": "string"},
    "retired_at": {"type": "string"},
}
PLAN: Final[Schema] = {
    "type": "object",
    "properties": {
        ID: {"type": "string"},
        "versions": {"type": "array", "items": {"type": "object", "properties": VERSION}},
    },
}


def operations() -> Iterator[Operation]:
    said = part_schema("plans", "*")
    version = {"type": "object", "properties": {**VERSION, "plan": said}}
    versions, one = "/plans/{plan}/versions", "/plans/{plan}/versions/{number}"
    yield _operation("GET", "/plans", list_plans, "List plans", query=PAGING, gives=listed(PLAN))
    yield _operation("GET", "/plans/{plan}", get_plan, "Read a plan and its versions", gives=PLAN)
    yield _operation(
        "POST",
        versions,
        add_draft,
        "Draft a version of a plan, also of a new one",
        body=said,
        gives=version,
        status=HTTPStatus.CREATED,
    )
    yield _operation("GET", one, get_version, "Read a version", gives=version)
    yield _operation(
        "PUT", one, put_draft, "Replace a draft", body=said, gives=version, matched=True
    )
    yield _operation(
        "DELETE",
        one,
        delete_draft,
        "Remove a draft",
        status=HTTPStatus.NO_CONTENT,
        matched=True,
    )
    for act, view in (("publish", publish), ("retire", retire)):
        yield _operation(
            "POST",
            f"{one}/{act}",
            view,
            f"{act.capitalize()} a version",
            gives=version,
            matched=True,
        )


def _operation(method: str, path: str, view: Any, summary: str, **said: Any) -> Operation:
    return Operation(method=method, path=path, view=view, summary=summary, tag="plans", **said)


def list_plans(request: HttpRequest, *, limit: int, cursor: str) -> HttpResponse:
    caller_for(request, Scope.CATALOG_READ)
    after = key_of(cursor, str)
    query = Plan.objects.order_by("plan_id").prefetch_related("versions")
    if after is not None:
        query = query.filter(pk__gt=after[0])
    found = list(query[: limit + 1])
    return shown(
        page(
            [_plan(each) for each in found],
            limit=limit,
            key=[found[:limit][-1].plan_id] if found else None,
        )
    )


def get_plan(request: HttpRequest, *, plan: str) -> HttpResponse:
    caller_for(request, Scope.CATALOG_READ)
    return shown(_plan(_held(plan)))


def get_version(request: HttpRequest, *, plan: str, number: str) -> HttpResponse:
    caller_for(request, Scope.CATALOG_READ)
    body = _version_body(_version(plan, number))
    return shown(body, etag_from=body)


def add_draft(request: HttpRequest, *, plan: str) -> HttpResponse:
    caller = caller_for(request, Scope.CATALOG_WRITE)
    body = places.mapping(json_of(request))
    for problem in check_id((ID,), plan):
        raise invalid(ID, *_told(problem.message))

    def work(_made: Change) -> Answer:
        return _kept(request, _read(plan, body), None)

    return write(request, caller, work)


def put_draft(request: HttpRequest, *, plan: str, number: str) -> HttpResponse:
    caller = caller_for(request, Scope.CATALOG_WRITE)
    body = places.mapping(json_of(request))

    def work(_made: Change) -> Answer:
        version = draft_of(plan, number)
        check_match(request, _version_body(version))
        return _kept(request, _read(plan, body), version.number)

    return write(request, caller, work)


def delete_draft(request: HttpRequest, *, plan: str, number: str) -> HttpResponse:
    caller = caller_for(request, Scope.CATALOG_WRITE)

    def work(_made: Change) -> Answer:
        version = draft_of(plan, number)
        check_match(request, _version_body(version))
        version.delete()
        return Answer(status=HTTPStatus.NO_CONTENT)

    return write(request, caller, work)


def publish(request: HttpRequest, *, plan: str, number: str) -> HttpResponse:
    caller = caller_for(request, Scope.CATALOG_WRITE)

    def work(made: Change) -> Answer:
        version = draft_of(plan, number)
        check_match(request, _version_body(version))
        store.publish(version, made)
        return _answer(version)

    return write(request, caller, work)


def retire(request: HttpRequest, *, plan: str, number: str) -> HttpResponse:
    caller: Caller = caller_for(request, Scope.CATALOG_WRITE)

    def work(made: Change) -> Answer:
        version = _version(plan, number)
        if version.state != State.PUBLISHED:
            raise _wrong_state(version, "only the version in force can be retired")
        check_match(request, _version_body(version))
        store.retire(plan, made)
        version.refresh_from_db()
        return _answer(version)

    return write(request, caller, work)


def _read(plan: str, body: Document) -> CatalogPlan:
    """Return what a body says of a plan, as if that were in force."""
    document = editing.document()
    document.setdefault("plans", {})[plan] = body
    return editing.read(document, within=("plans", plan)).plans[plan]


def _kept(request: HttpRequest, plan: CatalogPlan, number: int | None) -> Answer:
    answer = _answer(plan_drafts.write_draft(plan, number))
    if number is None:
        answer.status = HTTPStatus.CREATED
        answer.headers["Location"] = f"{request.path}/{answer.body['number']}"
    return answer


def _answer(version: PlanVersion) -> Answer:
    body = _version_body(version)
    return Answer(body=body, headers={"ETag": etag_of(body)})


def _held(plan: str) -> Plan:
    found: Plan | None = Plan.objects.filter(pk=plan).first()
    if found is None:
        raise NotFoundError("such plan")
    return found


def _version(plan: str, number: str) -> PlanVersion:
    if not (number.isascii() and number.isdecimal() and len(number) <= NUMBER_DIGITS_MAX):
        raise NotFoundError("such version")
    query = PlanVersion.objects.filter(plan_id=plan, number=int(number))
    found: PlanVersion | None = query.first()
    if found is None:
        raise NotFoundError("such version")
    return found


def draft_of(plan: str, number: str) -> PlanVersion:
    """Return a draft.

    Raises:
        ApiError: There is none, or it is a draft no longer.
    """
    version = _version(plan, number)
    if version.state != State.DRAFT:
        raise _wrong_state(version, "it stays as it is: draft a further version")
    return version


def _wrong_state(version: PlanVersion, remedy: str) -> ApiError:
    return ApiError(
        HTTPStatus.CONFLICT, "wrong-state", f"this version is {version.state}: {remedy}"
    )


def _plan(plan: Plan) -> Document:
    return {ID: plan.plan_id, "versions": [_version_head(each) for each in plan.versions.all()]}


def _version_head(version: PlanVersion) -> Document:
    dates = {"published_at": version.published_at, "retired_at": version.retired_at}
    return {
        "number": version.number,
        "state": str(version.state),
        **{name: day(at) for name, at in dates.items() if at is not None},
    }


def _version_body(version: PlanVersion) -> Document:
    said = written.plan(store.load_plans(version).plans[version.plan_id])
    return {**_version_head(version), "plan": said}


def _told(message: str) -> tuple[str, str]:
    told = wrong("", message)
    return told.what, told.remedy
