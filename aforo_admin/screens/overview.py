"""The first page: where all tenants stand, and how old what it says is."""

from typing import Any

from aforo_admin.control.models import General, MarginOverride, PlanVersion, Tenant
from aforo_admin.control.models_plans import State
from aforo_admin.screens import charts, stores
from aforo_admin.screens.in_force import Overrides, in_force
from aforo_admin.screens.overview_reading import InLedger, read_overview
from aforo_admin.screens.page import ScreenView
from aforo_meter.domain.margin import BP
from aforo_meter.domain.periods import datetime_of


class OverviewView(ScreenView):
    template_name = "control/screens/overview.html"
    refresh_s = 5

    def figures(self, now_micros: int) -> dict[str, Any]:
        told = stores.run(read_overview(now_micros=now_micros))
        return {
            "missing": told.missing,
            "ledger": told.ledger,
            "redis": told.redis,
            "catalog_tenants": Tenant.objects.count(),
            "drafts": PlanVersion.objects.filter(state=State.DRAFT).count(),
            "overridden": MarginOverride.objects.filter(until__gt=datetime_of(now_micros)).count(),
            "has_catalog": General.objects.exists(),
            **(_drawn(told.ledger, told.overrides, now_micros) if told.ledger is not None else {}),
        }


def _drawn(ledger: InLedger, overrides: Overrides | None, now_micros: int) -> dict[str, Any]:
    ratios = [int(month.ratio * BP) for month in ledger.months if month.ratio is not None]
    return {
        "parts": charts.level_parts([(one.level, one.tenants) for one in ledger.levels]),
        "levels": ledger.levels[::-1],  # The worst first.
        "margin_spark": charts.spark(ratios, "Margin, month by month"),
        "revenue_spark": charts.spark(
            [month.revenue_nanos for month in ledger.months], "Revenue, month by month"
        ),
        "cogs_spark": charts.spark(
            [month.cogs_nanos for month in ledger.months], "COGS, month by month"
        ),
        "movers": [
            {
                "tenant_id": one.tenant_id,
                "level": in_force(one.tenant_id, one.level, overrides),
                "per_day_nanos": one.per_day_nanos(now_micros),
                "before_per_day_nanos": one.before_per_day_nanos,
                "change_nanos": one.change_nanos(now_micros),
                "change_bp": one.change_bp(now_micros),
            }
            for one in ledger.movers
        ],
    }
