"""Tenants, and all that belongs to one."""

from typing import Any, ClassVar, Self

from django.db import models
from django.utils import timezone

from aforo_admin.control.fields import NanosColumn, TextsColumn
from aforo_admin.control.models_base import (
    COST_KEY,
    ID_CHARS_MAX,
    CostColumns,
    Floors,
    GuardColumns,
    Ordered,
    RateCardColumns,
    Recorded,
)
from aforo_admin.control.models_plans import BASES, WINDOWS, Plan
from aforo_authz.domain.access import CredentialKind, Level, SubscriptionState


class Tenant(Floors, Recorded):
    tenant_id = models.CharField(max_length=64, primary_key=True)
    name = models.CharField(max_length=200)
    shadow = models.BooleanField(
        null=True, blank=True, help_text="Decide and count, but let pass. Empty: as the plan says."
    )

    key_fields = ("tenant_id",)

    class Meta:
        ordering = ("tenant_id",)


class Subscription(Recorded):
    tenant = models.OneToOneField(
        Tenant, models.CASCADE, primary_key=True, related_name="subscription"
    )
    subscription_id = models.CharField(max_length=ID_CHARS_MAX)
    plan = models.ForeignKey(Plan, models.PROTECT, help_text="As it starts.")
    started_at = models.DateTimeField()
    state = models.CharField(
        max_length=16,
        choices=[(each.value, each.value) for each in SubscriptionState],
        default=SubscriptionState.ACTIVE,
    )
    ended_at = models.DateTimeField(null=True, blank=True, help_text="Exclusive.")

    key_fields = ("tenant_id",)


class FormerSubscription(Recorded):
    """One that a tenant had before. Its changes of plan are written as in the YAML."""

    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="former_subscriptions")
    subscription_id = models.CharField(max_length=ID_CHARS_MAX)
    plan = models.ForeignKey(Plan, models.PROTECT, help_text="As it started.")
    started_at = models.DateTimeField()
    state = models.CharField(
        max_length=16, choices=[(each.value, each.value) for each in SubscriptionState]
    )
    ended_at = models.DateTimeField(null=True, blank=True, help_text="Exclusive.")
    changes = models.JSONField(default=list, blank=True)

    key_fields = ("tenant_id", "started_at")

    class Meta:
        ordering = ("started_at", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("tenant", "started_at"), name="control_formersubscription_one_a_date"
            )
        ]


class PlanChange(Recorded):
    """To another plan, from a date on."""

    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="plan_changes")
    plan = models.ForeignKey(Plan, models.PROTECT)
    effective_from = models.DateTimeField()

    key_fields = ("tenant_id", "effective_from")

    class Meta:
        ordering = ("effective_from", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("tenant", "effective_from"), name="control_planchange_one_a_date"
            )
        ]


class Credential(Ordered):
    """What identifies a tenant. Of an API key only the hash is known."""

    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="credentials")
    credential_id = models.CharField(max_length=ID_CHARS_MAX)
    kind = models.CharField(
        max_length=16, choices=[(each.value, each.value) for each in CredentialKind]
    )
    identity = models.TextField(
        help_text="The key's SHA-256, never the key; the JWT's subject; the certificate's URI."
    )
    prefix = models.CharField(max_length=16, blank=True, default="", help_text="To know it by.")
    revoked = models.BooleanField(default=False)
    expires_at = models.DateTimeField(null=True, blank=True)

    key_fields = ("tenant_id", "credential_id")
    masked = frozenset({"identity"})
    never_edited = ("kind", "identity")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("tenant", "credential_id"), name="control_credential_one_an_id"
            ),
            models.UniqueConstraint(
                fields=("kind", "identity"), name="control_credential_of_one_tenant"
            ),
        ]

    def clash_with(self, other: Self, column: str) -> str:
        if column != "identity":
            return super().clash_with(other, column)
        return (
            f"is the credential {other} already; a credential belongs to one tenant and stands "
            "once: leave it empty to make another, or remove that one"
        )


class Deal(Floors, Ordered):
    """What was agreed with one tenant beyond its plan. Empty: the plan's holds."""

    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="deals")
    deal_id = models.CharField(max_length=ID_CHARS_MAX)
    effective_from = models.DateTimeField()
    effective_until = models.DateTimeField(null=True, blank=True, help_text="Exclusive.")
    committed_fee_nanos = NanosColumn(null=True, blank=True)
    allowance_nanos = NanosColumn(null=True, blank=True)
    currency = models.CharField(max_length=3, blank=True, default="")
    basis = models.CharField(max_length=16, choices=BASES, null=True, blank=True)
    replaces_rate_cards = models.BooleanField(
        default=False, help_text="Its rate cards hold instead of all of the plan's."
    )
    prepaid_nanos = NanosColumn(null=True, blank=True)
    add_features = TextsColumn(default=list, blank=True)

    key_fields = ("tenant_id", "deal_id")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("tenant", "deal_id"), name="control_deal_one_an_id")
        ]


class DealQuota(Ordered):
    """What a deal says of one of the plan's quotas, or a further one. Empty: the plan's holds."""

    deal = models.ForeignKey(Deal, models.CASCADE, related_name="quotas")
    quota_id = models.CharField(max_length=ID_CHARS_MAX)
    meter = models.CharField(max_length=ID_CHARS_MAX, null=True, blank=True)
    limit_units = models.BigIntegerField(null=True, blank=True)
    unlimited = models.BooleanField(default=False)
    window = models.CharField(max_length=16, choices=WINDOWS, null=True, blank=True)
    features = TextsColumn(null=True, blank=True)
    soft = models.BooleanField(null=True, blank=True)

    key_fields = ("deal__tenant_id", "deal__deal_id", "quota_id")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("deal", "quota_id"), name="control_dealquota_one_an_id")
        ]

    def save_base(self, *arguments: Any, **options: Any) -> None:
        if self.unlimited:
            self.limit_units = None
        super().save_base(*arguments, **options)


class DealGuard(GuardColumns):
    deal = models.ForeignKey(Deal, models.CASCADE, related_name="guards")

    key_fields = ("deal__tenant_id", "deal__deal_id", "guard_id")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("deal", "guard_id"), name="control_dealguard_one_an_id")
        ]


class DealRateCard(RateCardColumns):
    deal = models.ForeignKey(Deal, models.CASCADE, related_name="rate_cards")

    key_fields = ("deal__tenant_id", "deal__deal_id", "effective_from")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("deal", "effective_from"), name="control_dealratecard_one_a_date"
            )
        ]


class MarginOverride(Recorded):
    """Finance lets a tenant through although the margin says otherwise."""

    tenant = models.OneToOneField(
        Tenant, models.CASCADE, primary_key=True, related_name="margin_override"
    )
    level_max = models.CharField(
        max_length=16,
        choices=[(each.name.lower(), each.name.lower()) for each in Level if each < Level.BLOCK],
    )
    until = models.DateTimeField(help_text="Exclusive.")
    reason = models.CharField(max_length=200)
    author = models.CharField(max_length=200)

    key_fields = ("tenant_id",)

    @property
    def is_over(self) -> bool:
        return bool(self.until <= timezone.now())


class NegotiatedCost(CostColumns):
    """What a tenant's usage costs us, where something else was agreed. Never edited."""

    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="negotiated_costs")

    key_fields = ("tenant_id", *COST_KEY)

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("tenant", *COST_KEY),
                name="control_negotiatedcost_one_a_date",
            )
        ]
