"""The record of changes, read."""

from collections.abc import Iterator
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin import audit
from aforo_admin.control.models import AuditEntry
from aforo_admin.domain.problems import day
from aforo_admin.rest.authentication import caller_for
from aforo_admin.rest.operations import PAGING, Operation, Schema, listed, text_query
from aforo_admin.rest.paging import key_of, page
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import shown

TEXT: Final[Schema] = {"type": "string"}
ENTRY: Final[Schema] = {
    "type": "object",
    "properties": {
        "seq": {"type": "integer"},
        **dict.fromkeys(("at", "actor", "source", "kind", "name", "tenant", "reason"), TEXT),
        "before": {"type": ["object", "null"]},
        "after": {"type": ["object", "null"]},
        "hash": TEXT,
    },
}


def operations() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path="/audit",
        view=list_entries,
        summary="List changes, the last first",
        tag="audit",
        query={
            **PAGING,
            "tenant": text_query("Of this tenant alone."),
            "kind": text_query("Of rows of this kind, like feature or margin override."),
            "actor": text_query("By this one.", chars_max=200),
        },
        gives=listed(ENTRY),
    )
    yield Operation(
        method="GET",
        path="/audit/verified",
        view=verify,
        summary="Follow the record's chain, from its first entry",
        tag="audit",
        gives={
            "type": "object",
            "properties": {
                "entries": {"type": "integer"},
                "whole": {"type": "boolean"},
                "broken_at": {"type": "integer"},
                "why": TEXT,
            },
        },
    )


def list_entries(
    request: HttpRequest, *, limit: int, cursor: str, tenant: str, kind: str, actor: str
) -> HttpResponse:
    caller = caller_for(request, Scope.AUDIT_READ, tenant=tenant or request.auth.tenant_id)
    said = {"tenant_id": tenant or caller.tenant_id, "kind": kind, "actor": actor}
    query = AuditEntry.objects.filter(**{name: value for name, value in said.items() if value})
    after = key_of(cursor, int)
    if after is not None:
        query = query.filter(seq__lt=after[0])
    found = list(query.order_by("-seq")[: limit + 1])
    key = [found[:limit][-1].seq] if found else None
    return shown(page([_entry(each) for each in found], limit=limit, key=key))


def verify(request: HttpRequest) -> HttpResponse:
    caller_for(request, Scope.AUDIT_READ)
    found = audit.verify()
    body: dict[str, Any] = {"entries": found.entries, "whole": found.broken_at is None}
    if found.broken_at is not None:
        body |= {"broken_at": found.broken_at, "why": found.why}
    return shown(body)


def _entry(entry: AuditEntry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "at": day(entry.at),
        "actor": entry.actor,
        "source": entry.source,
        "kind": entry.kind,
        "name": entry.name,
        "tenant": entry.tenant_id,
        "before": entry.before,
        "after": entry.after,
        "reason": entry.reason,
        "hash": entry.hash,
    }
