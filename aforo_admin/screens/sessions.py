"""Sessions of agents and MCP servers, and an end for one that must stop."""

from typing import Any, Final

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from aforo_admin import acts
from aforo_admin.acts import Act
from aforo_admin.control.forms import REASON
from aforo_admin.control.recorded_admin import recorded
from aforo_admin.control.roles import KILL_SESSION
from aforo_admin.screens import stores
from aforo_admin.screens.page import ROWS_PER_PAGE, ScreenView, may
from aforo_meter.domain.sessions import EndedBy, Session
from aforo_meter.sessions import SessionQuery
from aforo_meter.sessions_sql import SqlSessions

MAY_KILL: Final = f"control.{KILL_SESSION}"
# An idle one is not among them: whatever comes next opens it again, unless it is killed.
ENDED: Final = frozenset({EndedBy.END, EndedBy.KILLED})
STATES: Final = ("open", "all")


class SessionsView(ScreenView):
    template_name = "control/screens/sessions.html"
    refresh_s = 10

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - as all pages.
        state = self.asked("state", choices=STATES) or "open"
        tenant_id = self.asked("tenant")
        query = SessionQuery(
            tenant_id=tenant_id or None,
            only_open=state == "open",
            count_max=ROWS_PER_PAGE + 1,
            skipped=self.skipped,
        )
        missing = stores.Missing()
        rows = stores.run(missing.of(_find(query))) or []
        return {
            "missing": missing.said,
            "rows": rows[:ROWS_PER_PAGE],
            "tenant": tenant_id,
            "state": state,
            "states": STATES,
            "ended": ENDED,
            "may_kill": may(self.request, MAY_KILL),
            **self.pages(len(rows)),
        }

    def post(self, request: HttpRequest, *_arguments: Any, **_given: Any) -> HttpResponse:
        """End a session for good."""
        if not may(request, MAY_KILL):
            raise PermissionDenied
        tenant_id, session_id = request.POST.get("tenant", ""), request.POST.get("session", "")
        missing = stores.Missing()
        killed = stores.run(missing.of(_get(tenant_id, session_id)))
        if killed is not None:
            killed = acts.do(
                Act(what="kill", kind="session", name=session_id, tenant_id=tenant_id),
                lambda: stores.run(missing.of(_kill(tenant_id, session_id))),
                lambda: recorded(request, request.POST.get(REASON, ""), checked=True),
            )
        if killed is not None:
            messages.success(
                request,
                f"Session {session_id} of {tenant_id} is killed: its next event is refused.",
            )
        else:
            why = missing.said or [f"There is no session {session_id} of {tenant_id} any more."]
            messages.error(request, why[0])
        return HttpResponseRedirect(reverse("admin:sessions") + self.address())


async def _find(query: SessionQuery) -> list[Session]:
    async with stores.opened_ledger() as ledger:
        return list(await SqlSessions(ledger).find(query))


async def _get(tenant_id: str, session_id: str) -> Session | None:
    async with stores.opened_ledger() as ledger:
        return await SqlSessions(ledger).get(tenant_id, session_id)


async def _kill(tenant_id: str, session_id: str) -> Session | None:
    async with stores.opened_ledger() as ledger:
        return await SqlSessions(ledger).kill(tenant_id, session_id, now_micros=stores.now_micros())
