"""The tables. What is of one catalog and of all tenants stands here; the rest beside it."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import models

from aforo_admin.catalog_yaml import PRICES_SUFFIX
from aforo_admin.control.fields import TextsColumn, UnitsColumn
from aforo_admin.control.models_api import ApiToken, IdempotentAnswer
from aforo_admin.control.models_base import (
    COST_KEY,
    ID_CHARS_MAX,
    CostColumns,
    Floors,
    NeverEditedError,
    Ordered,
    Recorded,
)
from aforo_admin.control.models_plans import Plan, PlanGuard, PlanQuota, PlanRateCard, PlanVersion
from aforo_admin.control.models_records import AuditEntry, Head, Lease
from aforo_admin.control.models_scenarios import Scenario
from aforo_admin.control.models_tenants import (
    Credential,
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
from aforo_meter.domain.metering import Quantity
from aforo_meter.domain.usage import MICROS_PER_UNIT

__all__ = [
    "ApiToken",
    "AuditEntry",
    "CostPrice",
    "Credential",
    "Deal",
    "DealGuard",
    "DealQuota",
    "DealRateCard",
    "ExchangeRate",
    "Feature",
    "FormerSubscription",
    "General",
    "Head",
    "IdempotentAnswer",
    "IngestKey",
    "Lease",
    "MarginOverride",
    "Meter",
    "MeteringRule",
    "NegotiatedCost",
    "Plan",
    "PlanChange",
    "PlanGuard",
    "PlanQuota",
    "PlanRateCard",
    "PlanVersion",
    "Route",
    "Scenario",
    "Subscription",
    "Tenant",
    "WebhookEndpoint",
]


class General(Floors, Recorded):
    """What holds for the whole catalog. One row; without it there is no catalog yet."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    currency = models.CharField(max_length=3)
    default_allows = models.BooleanField(
        default=False, help_text="A path that no route names is open to every known tenant."
    )
    built_in_costs = models.BooleanField(
        default=True, help_text="Use the published prices of language models too."
    )
    prices_file = models.TextField(
        blank=True, default="", help_text="Where they were imported to: an absolute path."
    )

    key_fields = ()

    class Meta:
        verbose_name = "general settings"
        verbose_name_plural = "general settings"
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="control_general_one_row")
        ]

    def clean(self) -> None:
        if self.prices_file and not self.prices_file.endswith(PRICES_SUFFIX):
            told = f"is no file of prices: its name ends with {PRICES_SUFFIX}"
            raise ValidationError({"prices_file": told})

    def save_base(self, *arguments: Any, **options: Any) -> None:
        if not self.built_in_costs:
            self.prices_file = ""  # Who names one uses them.
        super().save_base(*arguments, **options)

    def check_removal(self) -> None:
        raise NeverEditedError("without the general settings there is no catalog: edit them")


class Feature(Ordered):
    feature_id = models.CharField(max_length=ID_CHARS_MAX, primary_key=True)
    title = models.CharField(max_length=200)

    key_fields = ("feature_id",)

    class Meta:
        ordering = ("position", "feature_id")


class Meter(Ordered):
    meter = models.CharField(max_length=ID_CHARS_MAX, primary_key=True)
    title = models.CharField(max_length=200)
    unit = models.TextField(blank=True, default="", help_text="For people: page, minute.")
    aliases = TextsColumn(default=list, blank=True)

    key_fields = ("meter",)

    class Meta:
        ordering = ("position", "meter")


class MeteringRule(Ordered):
    """Which calls count, and on what. Empty lists: anything."""

    rule_id = models.CharField(max_length=ID_CHARS_MAX, primary_key=True)
    methods = TextsColumn(default=list, blank=True)
    path_template = models.TextField(blank=True, default="")
    routes = TextsColumn(default=list, blank=True)
    features = TextsColumn(default=list, blank=True)
    statuses = TextsColumn(default=list, blank=True)
    execution_statuses = TextsColumn(default=list, blank=True)
    exclude = models.BooleanField(default=False)
    meter = models.CharField(max_length=ID_CHARS_MAX, blank=True, default="")
    quantity = models.CharField(
        max_length=32, default="one", choices=[(each.value, each.value) for each in Quantity]
    )
    quantity_micros = UnitsColumn(
        default=MICROS_PER_UNIT, help_text="With one: for each call, in millionths."
    )

    key_fields = ("rule_id",)

    class Meta:
        ordering = ("position", "rule_id")

    def save_base(self, *arguments: Any, **options: Any) -> None:
        if self.quantity != Quantity.ONE:
            # It is counted elsewhere.
            self.quantity_micros = MICROS_PER_UNIT  # type: ignore[assignment] # A number.
        super().save_base(*arguments, **options)


class Route(Ordered):
    """Which features a call needs. The first that matches wins."""

    methods = TextsColumn(default=list, blank=True)
    path_template = models.TextField()
    features = TextsColumn(default=list, blank=True)
    weight_units = models.BigIntegerField(default=1)

    key_fields = ("path_template", "methods")

    class Meta:
        ordering = ("position", "id")

    def __str__(self) -> str:
        return f"{'|'.join(self.methods) or 'any'} {self.path_template}"


class IngestKey(Ordered):
    """A key of the owner's own programs. Only its hash is known."""

    key_id = models.CharField(max_length=ID_CHARS_MAX, primary_key=True)
    sha256 = models.CharField(max_length=64, unique=True)
    prefix = models.CharField(max_length=16, blank=True, default="", help_text="To know it by.")
    scopes = TextsColumn(default=list)
    installation = models.TextField(blank=True, default="")
    tenants = TextsColumn(default=list, blank=True)
    revoked = models.BooleanField(default=False)
    expires_at = models.DateTimeField(null=True, blank=True)

    key_fields = ("key_id",)
    masked = frozenset({"sha256"})
    never_edited = ("sha256",)

    class Meta:
        ordering = ("position", "key_id")


class CostPrice(CostColumns):
    """What a meter costs us. Never edited: a change is a further entry with a later date."""

    key_fields = COST_KEY

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=COST_KEY, name="control_costprice_one_a_date")
        ]


class ExchangeRate(Ordered):
    """What one unit of a currency is worth in the catalog's, from a date on. Never edited."""

    currency = models.CharField(max_length=3)
    rate_nanos = models.BigIntegerField()
    effective_from = models.DateTimeField()

    key_fields = ("currency", "effective_from")
    never_edited = ("currency", "rate_nanos", "effective_from")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("currency", "effective_from"), name="control_exchangerate_one_a_date"
            )
        ]


class WebhookEndpoint(Recorded):
    """Who gets alerts. URL and secrets are kept elsewhere; here it says where."""

    endpoint_id = models.CharField(max_length=ID_CHARS_MAX, primary_key=True)
    url_kept_in = models.TextField(help_text="env:NAME of a variable, or file:/path.")
    secrets_kept_in = models.TextField(
        blank=True, default="", help_text="env:NAME of a variable, or file:/path."
    )
    format = models.CharField(
        max_length=16, default="standard", choices=[("standard", "standard"), ("slack", "slack")]
    )
    kinds = TextsColumn(default=list, blank=True, help_text="Empty: all.")
    tenants = TextsColumn(default=list, blank=True, help_text="Empty: all.")
    enabled = models.BooleanField(default=True)

    key_fields = ("endpoint_id",)

    class Meta:
        ordering = ("endpoint_id",)

    def clean(self) -> None:
        check_kept_in(self, "url_kept_in", "secrets_kept_in")


def check_kept_in(row: Any, *names: str) -> None:
    """Refuse a secret that stands where only its place should.

    Raises:
        ValidationError: At the column; what was given is not repeated.
    """
    faults = {
        name: "say where it is kept, never the value itself: env:NAME, or file:/path"
        for name in names
        if (given := getattr(row, name)) and not given.startswith(("env:", "file:/"))
    }
    if faults:
        raise ValidationError(faults)
