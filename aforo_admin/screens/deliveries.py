"""Alerts, what became of each, attempt by attempt; and once more, for who may say so."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from aforo_admin import acts
from aforo_admin.acts import Act
from aforo_admin.control.forms import REASON
from aforo_admin.control.models import WebhookEndpoint
from aforo_admin.control.recorded_admin import recorded
from aforo_admin.control.roles import RESEND_ALERT
from aforo_admin.screens import stores
from aforo_admin.screens.page import ROWS_PER_PAGE, ScreenView, may
from aforo_meter.alerts import KINDS, LEVEL_CHANGED, PRICE_CHANGED
from aforo_meter.domain.margin import Level
from aforo_meter.outbox_reading import STATES, AttemptRow, DeliveryLog, DeliveryRow, LogQuery

MAY_RESEND: Final = f"control.{RESEND_ALERT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutLevel:
    """The level that an alert is about."""

    level: Level
    before: Level
    guard_id: str = ""  # Whose level it is; empty: the tenant's own.


class DeliveriesView(ScreenView):
    template_name = "control/screens/deliveries.html"
    refresh_s = 10

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - as all pages.
        given = {
            "tenant_id": self.asked("tenant"),
            "kind": self.asked("kind", choices=KINDS),
            "endpoint_id": self.asked("endpoint"),
            "state": self.asked("state", choices=STATES),
        }
        query = LogQuery(
            count_max=ROWS_PER_PAGE + 1,
            before_outbox_id=self.asked_number("before"),
            **{name: value for name, value in given.items() if value},
        )
        missing = stores.Missing()
        rows = (stores.run(missing.of(_find(query))) or [])[::-1]  # The newest first.
        shown, next_before = _page(rows)
        return {
            "missing": missing.said,
            "rows": [(row, about_level(row)) for row in shown],
            "asked": given,
            "kinds": KINDS,
            "states": STATES,
            "next": self.address(before=str(next_before)) if next_before is not None else "",
        }


class DeliveryView(ScreenView):
    """One message: what it says, and what became of it."""

    template_name = "control/screens/delivery.html"

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - as all pages.
        missing = stores.Missing()
        found = stores.run(missing.of(_read(str(self.kwargs["message_id"]))))
        if found is None:
            return {"missing": missing.said}
        rows, attempts = found
        if not rows:
            raise Http404("there is no such message, or it was pruned")
        return {
            "missing": missing.said,
            "message": rows[0],
            "about": about_level(rows[0]),
            "deliveries": [row for row in rows if row.endpoint_id],
            "attempts": attempts,
            "payload": _pretty(rows[0].payload),
            "may_resend": may(self.request, MAY_RESEND),
            "endpoints": endpoints_for(rows),
        }

    def post(self, request: HttpRequest, *_arguments: Any, **given: Any) -> HttpResponse:
        """Make the message due once more."""
        if not may(request, MAY_RESEND):
            raise PermissionDenied
        message_id, endpoint_id = str(given["message_id"]), request.POST.get("endpoint", "")
        missing = stores.Missing()
        rows, _ = stores.run(missing.of(_read(message_id))) or ([], [])
        if endpoint_id in endpoints_for(rows):
            acts.do(
                Act(
                    what=f"resend to {endpoint_id}",
                    kind="alert",
                    name=message_id,
                    tenant_id=rows[0].tenant_id,
                ),
                lambda: stores.run(missing.of(_resend(rows[0], endpoint_id))),
                lambda: recorded(request, request.POST.get(REASON, ""), checked=True),
            )
        elif not missing.said:
            missing.said.append(f"{endpoint_id or '(none)'}: choose one of the endpoints listed.")
        if missing.said:
            messages.error(request, missing.said[0])
        else:
            messages.success(request, f"It is due for {endpoint_id} now; deliver sends it.")
        return HttpResponseRedirect(reverse("admin:delivery", args=[message_id]))


def about_level(row: DeliveryRow) -> AboutLevel | None:
    """Return the level that an alert tells of; None: it is about none."""
    try:
        data = json.loads(row.payload)["data"]
        if row.kind == LEVEL_CHANGED:
            before, after = data["from"], data["to"]
        elif row.kind == PRICE_CHANGED:
            before, after = data["before"]["level"], data["after"]["level"]
        else:
            return None
        guard: Mapping[str, Any] = data.get("guard") or {}
        return AboutLevel(
            level=Level[after.upper()],
            before=Level[before.upper()],
            guard_id=str(guard.get("id", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # Of another version: the page of the alert shows what it says.


def _page(rows: list[DeliveryRow]) -> tuple[list[DeliveryRow], int | None]:
    """Return whole messages, with all their deliveries, and what the next page comes before."""
    if len(rows) <= ROWS_PER_PAGE:
        return rows, None
    cut = rows[ROWS_PER_PAGE].outbox_id
    return [row for row in rows if row.outbox_id > cut] or rows[:ROWS_PER_PAGE], cut + 1


async def _find(query: LogQuery) -> list[DeliveryRow]:
    async with stores.opened_ledger() as ledger:
        return list(await DeliveryLog(ledger).find(query))


async def _read(message_id: str) -> tuple[list[DeliveryRow], list[AttemptRow]]:
    async with stores.opened_ledger() as ledger:
        log = DeliveryLog(ledger)
        rows = list(await log.get(message_id))
        return rows, list(await log.attempts(rows[0].outbox_id)) if rows else []


async def _resend(row: DeliveryRow, endpoint_id: str) -> bool:
    async with stores.opened_ledger() as ledger:
        await DeliveryLog(ledger).resend(row, endpoint_id, now_micros=stores.now_micros())
        return True


def endpoints_for(rows: list[DeliveryRow]) -> list[str]:
    """Return where a message may go: where it went, and where the catalog says.

    Never where the catalog says that it may not: an endpoint may be another customer's.
    """
    if not rows:
        return []
    listed = WebhookEndpoint.objects.in_bulk()
    wanting = {name for name, one in listed.items() if _wants(one, rows[0])}
    went = {row.endpoint_id for row in rows if row.endpoint_id}
    return sorted(wanting | (went - listed.keys()))


def _wants(endpoint: WebhookEndpoint, row: DeliveryRow) -> bool:
    return (
        endpoint.enabled
        and (not endpoint.tenants or row.tenant_id in endpoint.tenants)
        and (not endpoint.kinds or row.kind in endpoint.kinds)
    )


def _pretty(payload: str) -> str:
    try:
        return json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except ValueError:
        return payload
