"""A catalog is written so that reading gives the same catalog."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from aforo_admin import written
from aforo_admin.catalog_differences import differences
from aforo_admin.catalog_yaml import read_file, read_text
from aforo_admin.domain.catalog import Catalog
from aforo_admin.rows import catalog_of, rows_of
from aforo_admin.yaml_writing import node_of, yaml_text
from lab.servers import ROOT
from tests.catalogs import catalogs

EXAMPLE = read_file(ROOT / "catalog.example.yaml")

any_catalog = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=25)


@any_catalog
@given(catalogs())
def test_what_is_written_reads_back_as_the_same_catalog(catalog: Catalog) -> None:
    assert read_text(yaml_text(written.catalog(catalog)).encode(), name="written") == catalog


@any_catalog
@given(catalogs())
def test_rows_make_up_the_catalog_that_they_came_from(catalog: Catalog) -> None:
    assert catalog_of(rows_of(catalog)) == catalog


@any_catalog
@given(catalogs(), catalogs())
def test_catalogs_differ_exactly_if_they_are_told_to(one: Catalog, other: Catalog) -> None:
    assert differences(one, one) == []
    assert bool(differences(one, other)) == (one != other)


def test_the_example_is_written_so_that_it_reads_back() -> None:
    text = yaml_text(written.catalog(EXAMPLE))

    assert read_text(text.encode(), name="written") == EXAMPLE
    assert "- {meter: api.calls, price: 0.4, per: 1000000, from: 2026-01-01}" in text


def test_differences_name_fields_as_the_catalog_does() -> None:
    plans = dict(EXAMPLE.plans)
    plans["pro"] = replace(plans["pro"], committed_fee_nanos=501 * 10**9, quotas=())
    changed = replace(EXAMPLE, plans=plans, routes=EXAMPLE.routes[:-1])

    told = [str(each) for each in differences(EXAMPLE, changed)]

    assert "~ plans.pro.committed_fee: 500 → 501" in told
    assert "- plans.pro.quotas.output-tokens.limit: 20000000" in told
    assert '- routes["any /v1/models"].path: /v1/models' in told


def test_no_hash_is_told_in_full() -> None:
    told = "\n".join(map(str, differences(None, EXAMPLE)))

    assert "tenants.acme.credentials.production.sha256: 1f0a55b1…" in told
    assert "1f0a55b1c5" not in told


@pytest.mark.parametrize("value", [0.5, None, {"price": [1.5]}])
def test_what_is_not_exact_is_refused_where_json_could_hold_it(value: object) -> None:
    with pytest.raises(ValueError, match="is not exact"):
        node_of(value)
