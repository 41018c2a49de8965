"""Plans and their versions. A published version is immutable: a change is a further version."""

from typing import Any, ClassVar, Self

from django.db import models

from aforo_admin.control.fields import NanosColumn, TextsColumn
from aforo_admin.control.models_base import (
    ID_CHARS_MAX,
    Floors,
    GuardColumns,
    NeverEditedError,
    Ordered,
    RateCardColumns,
    Recorded,
)
from aforo_admin.domain.catalog import Billing
from aforo_authz.domain.quotas import WindowKind
from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.terms import RevenueBasis

WINDOWS = [(each.value, each.value) for each in WindowKind]
BASES = [(each.value, each.value) for each in RevenueBasis]


class State(models.TextChoices):
    DRAFT = "draft"
    PUBLISHED = "published"  # In force. One version of a plan at most.
    RETIRED = "retired"


NEXT_STATES = {State.DRAFT: State.PUBLISHED, State.PUBLISHED: State.RETIRED}


class Plan(Recorded):
    plan_id = models.CharField(max_length=ID_CHARS_MAX, primary_key=True)

    key_fields = ("plan_id",)

    class Meta:
        ordering = ("plan_id",)


class PlanVersion(Floors, Recorded):
    """What a plan says, from its publication until its retirement."""

    plan = models.ForeignKey(Plan, models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=State.choices, default=State.DRAFT)
    published_at = models.DateTimeField(null=True, blank=True, editable=False)
    retired_at = models.DateTimeField(null=True, blank=True, editable=False)
    title = models.CharField(max_length=200)
    committed_fee_nanos = NanosColumn(help_text="Per period.")
    allowance_nanos = NanosColumn(null=True, blank=True)
    currency = models.CharField(
        max_length=3, blank=True, default="", help_text="Empty: the catalog's."
    )
    cadence = models.CharField(
        max_length=16, choices=[(each.value, each.value) for each in Cadence], default=Cadence.MONTH
    )
    billing = models.CharField(
        max_length=16,
        choices=[(each.value, each.value) for each in Billing],
        default=Billing.ANNIVERSARY,
    )
    basis = models.CharField(max_length=16, choices=BASES, default=RevenueBasis.PERIOD)
    prepaid_nanos = NanosColumn(default=0)
    features = TextsColumn(default=list, blank=True)
    shadow = models.BooleanField(default=False)
    stale_margin_blocks = models.BooleanField(default=False)

    key_fields = ("plan_id", "number")
    lifecycle: ClassVar = frozenset({"state", "published_at", "retired_at"})

    class Meta:
        ordering = ("plan_id", "-number")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("plan", "number"), name="control_planversion_one_a_number"
            ),
            models.UniqueConstraint(
                fields=("plan",),
                condition=models.Q(state="published"),
                name="control_planversion_one_published",
            ),
        ]

    def check_edit(self, held: Self) -> None:
        if self.state != held.state and NEXT_STATES.get(held.state) != self.state:
            raise NeverEditedError(
                f"plan {self}: a version goes from draft to published to retired, "
                f"not from {held.state} to {self.state}; make a new version"
            )
        edited = [
            each.name
            for each in self._meta.concrete_fields
            if each.name not in self.lifecycle
            and getattr(self, each.attname) != getattr(held, each.attname)
        ]
        if held.state != State.DRAFT and edited:
            raise NeverEditedError(f"plan {self}: {_remedy(held, edited)}")

    def check_removal(self) -> None:
        if self.state != State.DRAFT:
            raise NeverEditedError(f"plan {self}: {_remedy(self, [])}")


def _remedy(version: PlanVersion, edited: list[str]) -> str:
    of_what = f", so {', '.join(edited)} can't change" if edited else ", so it stays"
    return f"this version is {version.state}{of_what}; make a new version and publish it"


class PartOfVersion(Recorded):
    """A row that belongs to a version, and is immutable with it."""

    class Meta:
        abstract = True

    def save_base(self, *arguments: Any, **options: Any) -> None:
        self.version.check_removal()
        super().save_base(*arguments, **options)

    def check_removal(self) -> None:
        self.version.check_removal()


class PlanQuota(PartOfVersion, Ordered):
    version = models.ForeignKey(PlanVersion, models.CASCADE, related_name="quotas")
    quota_id = models.CharField(max_length=ID_CHARS_MAX)
    meter = models.CharField(max_length=ID_CHARS_MAX)
    limit_units = models.BigIntegerField(help_text="Of money.cogs: billionths of the currency.")
    window = models.CharField(max_length=16, choices=WINDOWS)
    features = TextsColumn(default=list, blank=True)
    soft = models.BooleanField(default=False, help_text="Over the limit, calls pass.")

    key_fields = ("version__plan_id", "version__number", "quota_id")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("version", "quota_id"), name="control_planquota_one_an_id"
            )
        ]


class PlanGuard(PartOfVersion, GuardColumns):
    version = models.ForeignKey(PlanVersion, models.CASCADE, related_name="guards")

    key_fields = ("version__plan_id", "version__number", "guard_id")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("version", "guard_id"), name="control_planguard_one_an_id"
            )
        ]


class PlanRateCard(PartOfVersion, RateCardColumns):
    version = models.ForeignKey(PlanVersion, models.CASCADE, related_name="rate_cards")

    key_fields = ("version__plan_id", "version__number", "effective_from")

    class Meta:
        ordering = ("position", "id")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=("version", "effective_from"), name="control_planratecard_one_a_date"
            )
        ]
