"""Lines to begin a what-if with: what there is to change, each with a change to edit."""

from collections.abc import Iterator
from typing import Final

from aforo_admin.control.models import CostPrice, Feature, General, PlanRateCard, PlanVersion
from aforo_admin.control.models_plans import State

EACH_MAX: Final = 6
# Whose answers a gateway reads: the published prices have dozens of providers.
READ: Final = ("anthropic", "google", "openai")


def starts() -> dict[str, list[str]]:
    """Return lines by the names of the form's fields."""
    return {
        "provider_cost": [f"{each}=+20%" for each in _providers()],
        "price": [f"{each}=+10%" for each in _priced()],
        "fee": [f"{each}=+10%" for each in _with_a_fee()],
        "threshold": ["warn=30%", "throttle=15%", "block=5%"],
        "growth": ["+30%", *(f"feature:{each}=+30%" for each in _features())],
        "draft": [f"{plan}={number}" for plan, number in _drafts()],
    }


def _providers() -> list[str]:
    named = CostPrice.objects.exclude(provider="").values_list("provider", flat=True)
    ours = named.distinct().order_by("provider")[:EACH_MAX]
    published = READ if General.objects.filter(built_in_costs=True).exists() else ()
    return sorted({*ours, *published})[:EACH_MAX]


def _priced() -> list[str]:
    in_force = PlanRateCard.objects.filter(version__state=State.PUBLISHED)
    return list(
        in_force.values_list("version__plan", flat=True)
        .distinct()
        .order_by("version__plan")[:EACH_MAX]
    )


def _with_a_fee() -> list[str]:
    in_force = PlanVersion.objects.filter(state=State.PUBLISHED, committed_fee_nanos__gt=0)
    return list(in_force.order_by("plan").values_list("plan", flat=True)[:EACH_MAX])


def _features() -> list[str]:
    return list(Feature.objects.values_list("feature_id", flat=True)[:EACH_MAX])


def _drafts() -> Iterator[tuple[str, int]]:
    drafts = PlanVersion.objects.filter(state=State.DRAFT).order_by("plan", "number")
    yield from drafts.values_list("plan", "number")[:EACH_MAX]
