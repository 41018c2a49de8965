"""The first page: how many tenants there are, and what there is to do."""

from typing import Any

from aforo_admin.control.models import PlanVersion, Tenant
from aforo_admin.control.models_plans import State
from aforo_admin.control.page import PageView


class OverviewView(PageView):
    template_name = "control/overview.html"

    def get_context_data(self, **given: Any) -> dict[str, Any]:
        return super().get_context_data(
            tenants=Tenant.objects.count(),
            plans=PlanVersion.objects.filter(state=State.PUBLISHED).count(),
            drafts=PlanVersion.objects.filter(state=State.DRAFT).count(),
            **given,
        )
