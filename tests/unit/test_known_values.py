"""What was worked out of tenants before is worked out again only where something has changed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Catalog, Feature, Thresholds
from aforo_admin.read_model import Known, build
from aforo_meter.domain.terms import ExchangeRate
from lab.servers import ROOT
from tests.catalogs import catalogs

EXAMPLE = read_file(ROOT / "catalog.example.yaml")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=400)
RATE = ExchangeRate(
    currency="EUR", to_currency="USD", rate_nanos=2 * 10**9, effective_from_micros=0
)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=60)
@given(catalogs(), catalogs())
def test_what_was_known_of_any_catalog_changes_no_value_of_another(
    before: Catalog, after: Catalog
) -> None:
    known = Known()
    # Tenants and plans of one catalog among those of the other: some stay, some change, some go.
    mixed = replace(after, tenants=before.tenants, plans={**after.plans, **before.plans})
    for catalog, now in ((before, NOW), (mixed, NOW), (before, LATER), (after, LATER)):
        assert build(catalog, now, (), known) == build(catalog, now, ())


def recomputed(after: Catalog, now: datetime = NOW) -> set[str]:
    """Return whose values are worked out again when the example becomes another catalog."""
    known = Known()
    known.bring_up_to(EXAMPLE, NOW)
    before = dict(known.values)
    known.bring_up_to(after, now)
    return {name for name, value in known.values.items() if value is not before.get(name)}


def test_nothing_that_is_of_no_tenant_is_worked_out_again() -> None:
    further = (*EXAMPLE.features, Feature(feature_id="new", title="New"))
    assert recomputed(replace(EXAMPLE, features=further)) == set()
    assert recomputed(replace(EXAMPLE, routes=(), costs=(), metering=(), ingest_keys=())) == set()


def test_a_plan_concerns_its_tenants_alone() -> None:
    pro = replace(EXAMPLE.plans["pro"], committed_fee_nanos=1)

    assert recomputed(replace(EXAMPLE, plans={**EXAMPLE.plans, "pro": pro})) == {"globex"}


def test_a_tenant_concerns_nobody_else() -> None:
    acme = replace(EXAMPLE.tenants["acme"], shadow=True)

    assert recomputed(replace(EXAMPLE, tenants={**EXAMPLE.tenants, "acme": acme})) == {"acme"}


@pytest.mark.parametrize(
    "changed",
    [{"thresholds": Thresholds(warn_below_bp=1)}, {"exchange_rates": (RATE,)}],
    ids=lambda changed: next(iter(changed)),
)
def test_what_all_contracts_depend_on_concerns_all(changed: dict[str, object]) -> None:
    after = replace(EXAMPLE, **changed)  # type: ignore[arg-type] # Of the field that is named.

    assert recomputed(after) == EXAMPLE.tenants.keys()


def test_a_period_that_ends_concerns_who_has_it() -> None:
    """globex's period ends on 30 November, initech's on 2 December; acme's lasts a year."""
    at_once = recomputed(EXAMPLE, datetime(2026, 11, 30, tzinfo=UTC))

    assert at_once == {"globex"}
