"""Calls that were throttled or blocked, by hour, reason and tenant."""

from typing import Any, Final

from aforo_admin.screens import charts, stores
from aforo_admin.screens.interventions_reading import (
    InterventionQuery,
    Interventions,
    read_interventions,
)
from aforo_admin.screens.page import ROWS_PER_PAGE, ScreenView
from aforo_authz.domain.access import Reason
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rating import SHADOW

SPANS: Final = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}
LONG: Final = "30d"  # Of one tenant alone: of all it would be too much to add up while one waits.
OUTCOMES: Final = ("block", "throttle", SHADOW)
REASONS: Final = tuple(str(reason) for reason in Reason if reason is not Reason.ALLOWED)


class InterventionsView(ScreenView):
    template_name = "control/screens/interventions.html"
    refresh_s = 10

    def figures(self, now_micros: int) -> dict[str, Any]:
        tenant_id = self.asked("tenant")
        spans = tuple(span for span in SPANS if tenant_id or span != LONG)
        span = self.asked("span", choices=spans) or spans[0]
        end_micros = (now_micros // HOUR_MICROS + 1) * HOUR_MICROS
        query = InterventionQuery(
            hours=PeriodMicros(end_micros - SPANS[span] * HOUR_MICROS, end_micros),
            tenant_id=tenant_id,
            outcome=self.asked("outcome", choices=OUTCOMES),
            reason=self.asked("reason", choices=REASONS),
        )
        missing = stores.Missing()
        found = stores.run(missing.of(self._read(query)))
        return {
            "missing": missing.said,
            "found": found,
            "rows": found.by_tenant[:ROWS_PER_PAGE] if found else [],
            "bars": charts.hour_bars(found.by_hour) if found else None,
            "query": query,
            "span": span,
            "spans": spans,
            "outcomes": OUTCOMES,
            "reasons": REASONS,
            **self.pages(len(found.by_tenant) if found else 0),
        }

    async def _read(self, query: InterventionQuery) -> Interventions:
        async with stores.opened_ledger() as ledger:
            return await ledger.read(
                lambda sql: read_interventions(
                    sql, query, count_max=ROWS_PER_PAGE, skipped=self.skipped
                )
            )
