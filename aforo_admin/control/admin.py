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
    codes,
    models,
)
from aforo_admin.control.fields import amount_field, in_plain_words
from aforo_admin.control.recorded_admin import RecordedAdmin
from aforo_admin.written_values import amount, factor, hours_of_day
from aforo_meter.domain.metering import Quantity


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
    list_display = ("rule_id", "meter", "counts", "path_template", "exclude", "position")
    search_fields = ("rule_id", "meter", "path_template")

    @admin.display(description="quantity", ordering="quantity")
    def counts(self, rule: models.MeteringRule) -> str:
        if rule.exclude:
            return "\N{EN DASH}"
        return factor(rule.quantity_micros) if rule.quantity == Quantity.ONE else rule.quantity


class AddOnlyAdmin(RecordedAdmin):
    """What the past depends on: a change is a further row with a later date."""

    hidden = ("position",)

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False


@admin.register(models.CostPrice)
class CostPriceAdmin(AddOnlyAdmin):
    list_display = (
        *("meter", "provider", "model", "price_nanos", "per", "effective_from"),
        *("input_tokens_from", "hours"),
    )
    list_filter = ("provider",)
    search_fields = ("meter", "provider", "model")
    date_hierarchy = "effective_from"
    list_before_template = "control/prices_before.html"

    @admin.display(ordering="per_units")
    def per(self, price: models.CostPrice) -> str:
        return f"{price.per_units:,}"

    @admin.display(description="hours, UTC", ordering="day_from_s")
    def hours(self, price: models.CostPrice) -> str:
        return hours_of_day(price.day_from_s, price.day_to_s)


@admin.register(models.ExchangeRate)
class ExchangeRateAdmin(AddOnlyAdmin):
    list_display = ("currency", "rate", "effective_from")
    list_filter = ("currency",)

    @admin.display(description="worth, in the catalog's currency")
    def rate(self, row: models.ExchangeRate) -> str:
        return amount(row.rate_nanos)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        names = list(super().get_fields(request, obj))
        return names if obj is None else [n if n != "rate_nanos" else "rate" for n in names]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fixed = super().get_readonly_fields(request, obj)
        return fixed if obj is None else [*fixed, "rate"]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        if db_field.name == "rate_nanos":
            return in_plain_words(db_field, amount_field(db_field, {}))
        return super().formfield_for_dbfield(db_field, request, **options)


@admin.register(models.WebhookEndpoint)
class WebhookEndpointAdmin(RecordedAdmin):
    list_display = ("endpoint_id", "format", "url_kept_in", "enabled")
    empty_words = (
        "No endpoint is written down here. aforo-meter deliver sends by its own settings all the "
        "same: the one that AFORO_METER_DELIVER_WEBHOOK_URL names is called default in Alerts "
        "(docs/alerts.md)."
    )
    list_filter = ("enabled", "format")


@admin.register(models.AuditEntry)
class AuditEntryAdmin(ModelAdmin):
    """The record of changes, to be read."""

    list_display = ("seq", "at", "actor", "via", "kind", "name", "reason")
    list_filter = ("source", "kind")
    search_fields = ("name", "actor", "tenant_id")
    show_full_result_count = False
    ordering = ("-seq",)

    @admin.display(ordering="source")
    def via(self, entry: models.AuditEntry) -> str:
        return codes.source(entry.source)

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False
