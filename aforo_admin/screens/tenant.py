"""One tenant: its margin and where it goes, what costs, what is left, and what was agreed."""

from typing import Any, Final

from django.http import Http404

from aforo_admin.domain.margin_course import course_of
from aforo_admin.screens import charts, stores
from aforo_admin.screens.page import ScreenView
from aforo_admin.screens.tenant_catalog import tenant_in_catalog
from aforo_admin.screens.tenant_reading import (
    TenantTold,
    costs_by_feature,
    costs_by_model,
    gauges,
    read_tenant,
)
from aforo_meter.domain.floors import standings
from aforo_meter.domain.forecast import Outlook
from aforo_meter.domain.periods import datetime_of

POINTS_MAX: Final = 61
COSTS_SHOWN: Final = 12
FLOOR_TITLES: Final = {
    "warn_below_bp": "warn",
    "throttle_below_bp": "throttle",
    "block_below_bp": "block",
}


class TenantView(ScreenView):
    template_name = "control/screens/tenant.html"
    refresh_s = 5

    def figures(self, now_micros: int) -> dict[str, Any]:
        tenant_id = str(self.kwargs["tenant_id"])
        catalog = tenant_in_catalog(tenant_id, now=datetime_of(now_micros))
        told = stores.run(read_tenant(tenant_id, now_micros=now_micros))
        if catalog is None and told.record is None:
            raise Http404(f"there is no tenant {tenant_id}")
        return {
            "title": catalog.tenant.name if catalog is not None else tenant_id,
            "tenant_id": tenant_id,
            "missing": told.missing,
            "catalog": catalog,
            "rules": [(FLOOR_TITLES[one.name], one) for one in catalog.rules] if catalog else [],
            "record": told.record,
            "known": told.known,
            "complete": told.complete,
            "gauges": gauges(told.known, now_micros=now_micros) if told.known else [],
            **_level(told),
            **_costs(told),
            **_course(told),
        }


def _level(told: TenantTold) -> dict[str, Any]:
    explained = told.explanation
    if explained is None:
        return {}
    assessment = explained.record.state.assessment
    return {
        "currency": explained.currency,
        "decided_level": explained.decided_level,
        "override": explained.override,
        "guards": explained.guards,
        "revenue_lines": explained.revenue_lines,
        "standings": standings(assessment, explained.thresholds),
    }


def _costs(told: TenantTold) -> dict[str, Any]:
    if told.record is None:
        return {}
    return {
        "models": costs_by_model(told.record)[:COSTS_SHOWN],
        "features": costs_by_feature(told.record)[:COSTS_SHOWN],
        "assessment": told.record.state.assessment,
    }


def _course(told: TenantTold) -> dict[str, Any]:
    if told.forecast is None:
        return {}
    own = told.forecast.margins[0]
    outlook: Outlook = own.outlooks[0]  # By the last day's rate: what is going on now.
    course = course_of(own.at, outlook, points_max=POINTS_MAX)
    return {
        "outlook": outlook,
        "as_of_micros": own.at.as_of_micros,
        "chart": charts.margin_chart(course) if course is not None else None,
    }
