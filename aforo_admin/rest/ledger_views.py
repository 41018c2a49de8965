"""What came of it, by the ledger: margins, charges, interventions, sessions, alerts, and more."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin.acts import Act
from aforo_admin.control.roles import KILL_SESSION, RESEND_ALERT
from aforo_admin.rest import ledger_lists as lists
from aforo_admin.rest import places
from aforo_admin.rest.authentication import caller_for, require
from aforo_admin.rest.documents import json_of
from aforo_admin.rest.ledger_lists import Asked, Listing
from aforo_admin.rest.operations import PAGING, Operation, Parameters, Schema, listed, text_query
from aforo_admin.rest.paging import cursor_of, key_of
from aforo_admin.rest.problems import NotFoundError, invalid
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.tokens import Caller
from aforo_admin.rest.writes import perform, shown
from aforo_admin.screens import stores
from aforo_admin.screens.deliveries import endpoints_for
from aforo_admin.written_values import amount
from aforo_admin.yaml_scalars import instant
from aforo_meter.database import Sql
from aforo_meter.domain.inquiry import CostLine, Record
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import HOUR_MICROS, micros_of
from aforo_meter.domain.sessions import Session
from aforo_meter.domain.usage import MICROS_PER_UNIT
from aforo_meter.inquiries import Choice
from aforo_meter.inquiries_sql import SqlInquiries
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.outbox_reading import STATES, DeliveryLog, DeliveryRow
from aforo_meter.sessions_sql import SqlSessions

HOURS_LISTED: Final = 24
HOURS_LISTED_MAX: Final = 31 * 24
TENANT: Final = text_query("Of this tenant alone.")
TEXT: Final[Schema] = {"type": "string"}
LEVELS: Final = {level.name.lower(): level for level in Level}
LINE: Final[Schema] = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("meter", "provider", "model", "quantity", "estimated", "cogs"), TEXT),
        "price": {"type": ["object", "null"]},
    },
}


def operations() -> Iterator[Operation]:
    yield _list("/margins", lists.MARGINS, "Levels and margins in force", Scope.MONEY_READ,
                level=text_query(f"One of {', '.join(LEVELS)}."))  # fmt: skip
    yield _list("/charges", lists.CHARGES, "Sums of each tenant's periods", Scope.MONEY_READ)
    yield Operation(
        method="GET",
        path="/charges/{tenant}",
        view=get_charges,
        summary="What a period consists of, by meter, model and price",
        tag="ledger",
        query={"at": text_query("An instant of the period. Empty: the one in force.")},
        gives={"type": "object", "properties": {"lines": {"type": "array", "items": LINE}}},
    )
    yield _list("/interventions", lists.INTERVENTIONS, "Calls throttled and blocked, by hour",
                Scope.MONEY_READ, outcome=text_query("throttle or block."),
                reason=text_query("As decisions name it."))  # fmt: skip
    yield _list("/sessions", lists.SESSIONS, "Sessions, those seen last first",
                Scope.OPERATIONS_READ, state=text_query("open or ended."))  # fmt: skip
    yield _act("/sessions/kill", kill, "End a session for good", ("tenant", "session"))
    yield _list("/alerts", lists.ALERTS, "Alerts and their deliveries, the newest first",
                Scope.OPERATIONS_READ, kind=text_query("Of this kind."),
                endpoint=text_query("To this endpoint."),
                state=text_query(f"One of {', '.join(STATES)}."))  # fmt: skip
    yield _act("/alerts/resend", resend, "Send an alert once more", ("message", "endpoint"))
    yield Operation(
        method="GET",
        path="/completeness",
        view=list_completeness,
        summary="Decisions beside what the access log told, by hour",
        tag="ledger",
        query={
            **PAGING,
            "tenant": TENANT,
            "since": text_query("The first hour. Empty: a day before the end."),
            "until": text_query("The end, exclusive. Empty: now."),
        },
        gives=listed(lists.COMPLETENESS.schema),
    )


def _list(
    path: str, listing: Listing, summary: str, scope: Scope, **filters: tuple[type, Any]
) -> Operation:
    query: Parameters = {**PAGING, "tenant": TENANT, **filters}
    return Operation(
        method="GET",
        path=path,
        view=_view_of(listing, scope),
        summary=summary,
        tag="ledger",
        query=query,
        gives=listed(listing.schema),
    )


def _act(path: str, view: Any, summary: str, names: tuple[str, ...]) -> Operation:
    body = {
        "type": "object",
        "properties": dict.fromkeys(names, TEXT),
        "required": list(names),
        "additionalProperties": False,
    }
    return Operation(
        method="POST", path=path, view=view, summary=summary, tag="ledger", body=body, gives=body
    )


def _view_of(listing: Listing, scope: Scope) -> Callable[..., HttpResponse]:
    def view(
        request: HttpRequest, *, limit: int, cursor: str, tenant: str, **filters: str
    ) -> HttpResponse:
        caller = caller_for(request, scope, tenant=tenant or request.auth.tenant_id)
        given: dict[str, Any] = {"tenant": tenant or caller.tenant_id, **filters}
        if given.get("level"):
            given["level"] = _level(given["level"])
        return page(listing, given, limit=limit, cursor=cursor)

    return view


def _level(name: str) -> int:
    if name not in LEVELS:
        raise invalid("level", "is none", f"give one of {', '.join(LEVELS)}")
    return LEVELS[name].value


def page(
    listing: Listing,
    filters: Mapping[str, Any],
    *,
    limit: int,
    cursor: str,
    spans: Sequence[Mapping[str, Any]] = ({},),
) -> HttpResponse:
    """Return a page of the ledger as an answer.

    Args:
        listing: Of what.
        filters: What is empty is not asked for.
        limit: How many rows at most.
        cursor: Where it begins.
        spans: Values of the listing's source, each with more rows, until a page is full.
    """
    asked = Asked(
        filters={name: value for name, value in filters.items() if value != ""},
        after=key_of(cursor, *(each.kind for each in listing.order)),
        limit=limit,
    )

    *shorter, longest = spans

    def work(sql: Sql) -> tuple[list[dict[str, Any]], list[Any] | None]:
        for values in shorter:
            found = listing.read(sql, replace(asked, values=values))
            if found[1]:
                return found
        return listing.read(sql, replace(asked, values=longest))

    async def read(ledger: SqlLedger) -> tuple[list[dict[str, Any]], list[Any] | None]:
        return await ledger.read(work)

    items, following = stores.run(stores.from_ledger(read))
    return shown({"items": items, **({"next": cursor_of(following)} if following else {})})


def list_completeness(
    request: HttpRequest, *, limit: int, cursor: str, tenant: str, since: str, until: str
) -> HttpResponse:
    caller = caller_for(request, Scope.OPERATIONS_READ, tenant=tenant or request.auth.tenant_id)
    end = _micros("until", until) if until else stores.now_micros()
    start = _micros("since", since) if since else end - HOURS_LISTED * HOUR_MICROS
    if not 0 <= end - start <= HOURS_LISTED_MAX * HOUR_MICROS:
        raise invalid("since", "is after until, or more than 31 days before it", "ask for less")
    after = key_of(cursor, *(each.kind for each in lists.COMPLETENESS.order))
    if after is not None:
        end = min(end, after[0] + HOUR_MICROS)
    return page(
        lists.COMPLETENESS,
        {"tenant": tenant or caller.tenant_id},
        limit=limit,
        cursor=cursor,
        spans=_spans(start, end),
    )


def _spans(start_micros: int, end_micros: int) -> Sequence[Mapping[str, int]]:
    """Return spans of hours up to an end, each longer: an hour of many tenants fills a page."""
    found, hours = [], 1
    while end_micros - hours * HOUR_MICROS > start_micros:
        found.append({"start": end_micros - hours * HOUR_MICROS, "end": end_micros})
        hours *= 4
    return [*found, {"start": start_micros, "end": end_micros}]


def get_charges(request: HttpRequest, *, tenant: str, at: str) -> HttpResponse:
    caller_for(request, Scope.MONEY_READ, tenant=tenant)
    choice = Choice(tenant_id=tenant, at_micros=_micros("at", at) if at else None)

    async def read(ledger: SqlLedger) -> Record | None:
        return await SqlInquiries(ledger).record(choice)

    record = stores.run(stores.from_ledger(read))
    if record is None:
        raise NotFoundError("period of this tenant")
    state = record.state
    ratio = state.assessment.gross_margin_ratio
    return shown(
        {
            "tenant": state.tenant_id,
            "subscription": state.subscription_id,
            "period_start": lists.as_instant(state.period.start_micros),
            "period_end": lists.as_instant(state.period.end_micros),
            "level": state.level.name.lower(),
            "currency": state.currency,
            "revenue": lists.as_amount(state.revenue_nanos),
            "cogs": lists.as_amount(state.cogs_nanos),
            "gross_margin_ratio": None if ratio is None else str(ratio),
            "lines": [_line(line) for line in record.costs],
        }
    )


def _line(line: CostLine) -> dict[str, Any]:
    price = line.price
    return {
        "meter": line.meter,
        "provider": line.provider,
        "model": line.model,
        "quantity": _quantity(line.quantity_micros),
        "estimated": _quantity(line.estimated_micros),
        "cogs": str(amount(line.cogs_nanos)),
        "price": price
        and {
            "price": str(amount(price.price_nanos)),
            "per": price.per_units,
            "currency": price.currency,
            "from": lists.as_instant(price.effective_from_micros),
            "source": price.source,
        },
    }


def _quantity(micros: int) -> str:
    # An amount has nine decimals, a quantity six.
    return str(amount(micros * (10**9 // MICROS_PER_UNIT)))


def kill(request: HttpRequest) -> HttpResponse:
    body = _texts(request, "tenant", "session")
    tenant, session_id = body["tenant"], body["session"]
    caller = _operator(request, tenant, KILL_SESSION)

    async def find(ledger: SqlLedger) -> Session | None:
        return await SqlSessions(ledger).get(tenant, session_id)

    async def end(ledger: SqlLedger) -> Session | None:
        return await SqlSessions(ledger).kill(tenant, session_id, now_micros=stores.now_micros())

    if stores.run(stores.from_ledger(find)) is None:
        raise NotFoundError("such session")
    act = Act(what="kill", kind="session", name=session_id, tenant_id=tenant)
    killed = perform(request, caller, act, lambda: stores.run(stores.from_ledger(end)), body)
    if killed is None:  # It was pruned meanwhile.
        raise NotFoundError("such session")
    return killed


def resend(request: HttpRequest) -> HttpResponse:
    body = _texts(request, "message", "endpoint")
    caller: Caller = request.auth

    async def find(ledger: SqlLedger) -> list[DeliveryRow]:
        return list(await DeliveryLog(ledger).get(body["message"]))

    rows = stores.run(stores.from_ledger(find))
    if not rows or not caller.sees(rows[0].tenant_id):
        raise NotFoundError("such alert")
    caller = _operator(request, rows[0].tenant_id, RESEND_ALERT)
    allowed = endpoints_for(rows)
    if body["endpoint"] not in allowed:
        raise invalid(
            "endpoint", "is not for this alert", f"give one of: {', '.join(allowed) or '(none)'}"
        )

    async def send(ledger: SqlLedger) -> bool:
        await DeliveryLog(ledger).resend(rows[0], body["endpoint"], now_micros=stores.now_micros())
        return True

    act = Act(
        what=f"resend to {body['endpoint']}",
        kind="alert",
        name=body["message"],
        tenant_id=rows[0].tenant_id,
    )
    sent = perform(request, caller, act, lambda: stores.run(stores.from_ledger(send)), body)
    if sent is None:
        raise NotFoundError("such alert")
    return sent


def _operator(request: HttpRequest, tenant: str, act: str) -> Caller:
    caller = caller_for(request, Scope.OPERATIONS_WRITE, tenant=tenant)
    require(caller, f"control.{act}")
    return caller


def _texts(request: HttpRequest, *names: str) -> dict[str, str]:
    body = places.mapping(json_of(request))
    for name in names:
        if not isinstance(body.get(name), str):
            raise invalid(name, "is missing, or no text", "give the one that the list names")
    for name in body.keys() - set(names):
        raise invalid(name, "is no field here", f"these are: {', '.join(names)}")
    return body


def _micros(name: str, given: str) -> int:
    try:
        return micros_of(instant(given))
    except ValueError:
        raise invalid(name, "is no instant", "write 2026-01-31, or 2026-01-31T09:30Z") from None
