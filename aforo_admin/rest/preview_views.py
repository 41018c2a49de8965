"""What publishing a draft would do to its tenants, by recorded usage. Nothing is changed."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin.control import plan_preview
from aforo_admin.control.roles import PUBLISH
from aforo_admin.previews import Amount, Preview, QuotaMove, TermsMove
from aforo_admin.rest.authentication import caller_for, require
from aforo_admin.rest.catalog_views import DIFFERENCES, differences_told
from aforo_admin.rest.operations import Operation, Schema
from aforo_admin.rest.plan_views import draft_of
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.what_if_views import exact
from aforo_admin.rest.writes import shown
from aforo_admin.simulation_text import outcome_written
from aforo_admin.written_values import amount
from aforo_authz.domain.quotas import Quota

OBJECTS: Final[Schema] = {"type": "array", "items": {"type": "object"}}
PREVIEW: Final[Schema] = {
    "type": "object",
    "properties": {
        "differences": DIFFERENCES["properties"]["differences"],
        "missing": {"type": "string", "description": "Why no usage could be looked at."},
        "currency": {"type": "string"},
        "tenants": {"type": "integer", "description": "That have the plan."},
        "looked_at": {"type": "integer", "description": "The first of them."},
        "moved": OBJECTS,
        "terms_only": {
            **OBJECTS,
            "description": "Whose terms change, and of whom moved says nothing: without usage.",
        },
    },
    "required": ["differences", "terms_only"],
}


def operations() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path="/plans/{plan}/versions/{number}/preview",
        view=get_preview,
        summary="What publishing a draft would do to its tenants: nothing is changed",
        tag="plans",
        gives=PREVIEW,
    )


def get_preview(request: HttpRequest, *, plan: str, number: str) -> HttpResponse:
    """Answer what the page shows to who is about to publish, so it takes who may."""
    callers = [caller_for(request, scope) for scope in (Scope.CATALOG_READ, Scope.MONEY_READ)]
    require(callers[0], f"control.{PUBLISH}")
    found = plan_preview.of_draft(draft_of(plan, number))
    preview: Preview | None = found.get("preview")
    return shown(
        {
            "differences": differences_told(found["differences"]),
            "terms_only": [_terms(name, move) for name, move in found["terms_only"].items()],
            **({"missing": found["preview_missing"]} if preview is None else _told(preview)),
        }
    )


def _told(preview: Preview) -> dict[str, Any]:
    return {
        "currency": preview.comparison.currency,
        "tenants": preview.tenants,
        "looked_at": preview.looked_at,
        "moved": [
            {**exact(outcome_written(each.outcome)), "quotas": _quotas(each.quotas)}
            for each in preview.moved
        ],
    }


def _terms(tenant_id: str, move: TermsMove) -> dict[str, Any]:
    amounts = {"fee": move.fee, "allowance": move.allowance}
    told = {
        name: dict(zip(("before", "after"), map(_amount, pair), strict=True))
        for name, pair in amounts.items()
        if pair is not None
    }
    return {"tenant": tenant_id, **told, "quotas": _quotas(move.quotas)}


def _amount(said: Amount) -> str:
    return f"{amount(said.nanos)} {said.currency}"


def _quotas(moves: Sequence[QuotaMove]) -> list[dict[str, Any]]:
    return [
        {"id": each.quota_id, "before": _quota(each.before), "after": _quota(each.after)}
        for each in moves
    ]


def _quota(quota: Quota | None) -> dict[str, Any] | None:
    if quota is None:
        return None
    limit = amount(quota.limit_units) if quota.is_of_money else quota.limit_units
    return {
        "meter": quota.meter,
        "limit": str(limit),
        "window": quota.window.value,
        "features": sorted(quota.features),
        "soft": quota.soft,
    }
