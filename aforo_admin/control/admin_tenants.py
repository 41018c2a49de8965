"""Tenants with their subscriptions; deals, overrides and negotiated costs beside them."""

from typing import Any, Final

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from aforo_admin.control import deal_preview, permitting
from aforo_admin.control.forms import REASON, PartFormSet, RecordedForm
from aforo_admin.control.limits import QuotaForm
from aforo_admin.control.models import (
    Deal,
    DealGuard,
    DealQuota,
    DealRateCard,
    FormerSubscription,
    MarginOverride,
    NegotiatedCost,
    PlanChange,
    Subscription,
    Tenant,
)
from aforo_admin.control.recorded_admin import Part, PartTable, RecordedAdmin
from aforo_admin.control.recording import current

PREVIEW = "_preview"  # The button that asks for it.


class SubscriptionPart(Part):
    model = Subscription
    min_num = 1
    can_delete = False


class PlanChangeTable(PartTable):
    model = PlanChange
    verbose_name_plural = "changes of plan"


class FormerTable(PartTable):
    model = FormerSubscription
    verbose_name_plural = "former subscriptions"

    def has_add_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission


@admin.register(Tenant)
class TenantAdmin(RecordedAdmin):
    list_display = ("tenant_id", "name", "plan", "state", "is_shadow")
    list_filter = ("subscription__state", "subscription__plan")
    list_select_related = ("subscription",)
    search_fields = ("tenant_id", "name")
    inlines = (SubscriptionPart, PlanChangeTable, FormerTable)
    change_form_before_template = "control/tenant_before.html"

    @admin.display(ordering="subscription__plan_id")
    def plan(self, tenant: Tenant) -> str:
        return str(tenant.subscription.plan_id)

    @admin.display(ordering="subscription__state")
    def state(self, tenant: Tenant) -> str:
        return str(tenant.subscription.state)

    @admin.display(description="shadow mode", ordering="shadow")
    def is_shadow(self, tenant: Tenant) -> str:
        return {None: "as the plan says", True: "yes", False: "no"}[tenant.shadow]


class OfTenantAdmin(RecordedAdmin):
    """Rows that belong to a tenant and have a form of their own."""

    autocomplete_fields = ("tenant",)
    list_filter: tuple[str, ...] = ()
    list_select_related = ("tenant",)
    search_fields: tuple[str, ...] = ("tenant__tenant_id",)
    hidden = ("position",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fixed = super().get_readonly_fields(request, obj)
        return [*fixed, "tenant"] if obj is not None else fixed


CARDS_IDLE: Final = (
    "none of these would hold: tick that the deal's rate cards hold instead of the plan's, or "
    "remove them"
)


class DealQuotaTable(PartTable):
    model = DealQuota
    form = QuotaForm


class DealGuardPart(Part):
    model = DealGuard


class DealCardFormSet(PartFormSet):
    def clean(self) -> None:
        super().clean()
        if self._kept() and not self.instance.replaces_rate_cards:
            raise ValidationError(CARDS_IDLE)


class DealRateCardPart(Part):
    model = DealRateCard
    formset = DealCardFormSet


@admin.register(Deal)
class DealAdmin(OfTenantAdmin):
    list_display = (
        *("tenant", "deal_id", "effective_from", "effective_until"),
        *("committed_fee_nanos", "block_below_bp"),
    )
    list_display_links = ("deal_id",)
    search_fields = ("tenant__tenant_id", "deal_id")
    inlines = (DealQuotaTable, DealGuardPart, DealRateCardPart)
    change_form_after_template = "control/deal_after.html"

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> Any:
        self._stop_if_tried(request, obj)
        return super().response_add(request, obj, post_url_continue)

    def response_change(self, request: HttpRequest, obj: Any) -> Any:
        self._stop_if_tried(request, obj)
        return super().response_change(request, obj)

    def _stop_if_tried(self, request: HttpRequest, deal: Deal) -> None:
        if PREVIEW in request.POST:
            permitting.check(current(), request.user.has_perm)
            raise deal_preview.tried(deal)


class OverrideForm(RecordedForm):
    """An override has a reason of its own."""

    change_reason = None


@admin.register(MarginOverride)
class MarginOverrideAdmin(OfTenantAdmin):
    form = OverrideForm
    list_display = ("tenant", "level_max", "until", "state", "reason", "author")
    hidden = ("author",)

    def named(self, row: MarginOverride) -> str:
        """Its key is the tenant's, which stays."""
        return f"the margin override of {row}"

    @admin.display(ordering="until")
    def state(self, override: MarginOverride) -> str:
        return "over" if override.is_over else "in force"

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return [
            each for each in super().get_fieldsets(request, obj) if REASON not in each[1]["fields"]
        ]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        obj.author = request.user.get_username()
        super().save_model(request, obj, form, change)
        current().reason = obj.reason


@admin.register(NegotiatedCost)
class NegotiatedCostAdmin(OfTenantAdmin):
    """Never edited: a change is a further row with a later date."""

    list_display = (
        *("tenant", "meter", "provider", "model"),
        *("price_nanos", "per_units", "effective_from"),
    )

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False
