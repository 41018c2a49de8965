"""The catalog's forms. Plans, tenants, keys and users have modules of their own."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from aforo_admin.control import (  # noqa: F401 - they register theirs.
    admin_keys,
    admin_plans,
    admin_tenants,
    admin_users,
    models,
)
from aforo_admin.control.recorded_admin import RecordedAdmin


@admin.register(models.General)
class GeneralAdmin(RecordedAdmin):
    """One row: what holds for the whole catalog."""

    list_display = ("currency", "warn_below_bp", "throttle_below_bp", "block_below_bp")
    reason_required = True

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False  # `aforo-admin apply` puts a catalog there.

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False


@admin.register(models.Feature)
class FeatureAdmin(RecordedAdmin):
    list_display = ("feature_id", "title")
    search_fields = ("feature_id", "title")
    hidden = ("position",)


@admin.register(models.Route)
class RouteAdmin(RecordedAdmin):
    list_display = ("path_template", "methods", "features", "weight_units", "position")
    search_fields = ("path_template",)


@admin.register(models.Meter)
class MeterAdmin(RecordedAdmin):
    list_display = ("meter", "title", "unit")
    search_fields = ("meter", "title")
    hidden = ("position",)


@admin.register(models.MeteringRule)
class MeteringRuleAdmin(RecordedAdmin):
    list_display = ("rule_id", "meter", "path_template", "exclude", "position")
    search_fields = ("rule_id", "meter", "path_template")


class AddOnlyAdmin(RecordedAdmin):
    """What the past depends on: a change is a further row with a later date."""

    hidden = ("position",)

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False


@admin.register(models.CostPrice)
class CostPriceAdmin(AddOnlyAdmin):
    list_display = ("meter", "provider", "model", "price_nanos", "per_units", "effective_from")
    list_filter = ("provider",)
    search_fields = ("meter", "provider", "model")
    date_hierarchy = "effective_from"


@admin.register(models.ExchangeRate)
class ExchangeRateAdmin(AddOnlyAdmin):
    list_display = ("currency", "rate_nanos", "effective_from")
    list_filter = ("currency",)


@admin.register(models.WebhookEndpoint)
class WebhookEndpointAdmin(RecordedAdmin):
    list_display = ("endpoint_id", "format", "url_kept_in", "enabled")
    list_filter = ("enabled", "format")


@admin.register(models.AuditEntry)
class AuditEntryAdmin(ModelAdmin):
    """The record of changes, to be read."""

    list_display = ("seq", "at", "actor", "source", "kind", "name", "reason")
    list_filter = ("source", "kind")
    search_fields = ("name", "actor", "tenant_id")
    show_full_result_count = False
    ordering = ("-seq",)

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False
