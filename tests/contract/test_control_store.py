"""The catalog in a database: what is applied is what is read; changes are recorded and checked."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings

from aforo_admin import audit, store, written
from aforo_admin.catalog_yaml import read_file, read_text
from aforo_admin.control import leases
from aforo_admin.control.models import (
    AuditEntry,
    Deal,
    Feature,
    IngestKey,
    PlanQuota,
    PlanRateCard,
    PlanVersion,
    Tenant,
    WebhookEndpoint,
)
from aforo_admin.control.models_base import NeverEditedError
from aforo_admin.control.recording import Source, UnrecordedError
from aforo_admin.domain import catalog as parts
from aforo_admin.domain.catalog import Catalog, CostPrice, Plan
from aforo_admin.faults import CatalogError, ChangedMeanwhileError, NoCatalogError
from aforo_admin.yaml_writing import yaml_text
from aforo_authz.domain.access import Level
from lab.servers import ROOT
from tests.catalogs import catalogs

pytestmark = [pytest.mark.contract, pytest.mark.slow]

EXAMPLE = read_file(ROOT / "catalog.example.yaml")


@pytest.fixture
def example(database: str) -> Catalog:  # noqa: ARG001 - Django uses it.
    applied(EXAMPLE)
    return EXAMPLE


def applied(catalog: Catalog, *, expected_seq: int | None = None) -> int:
    """Apply a catalog; say how many rows were written."""

    made = store.apply_catalog(catalog, actor="tests", reason="why not", expected_seq=expected_seq)
    return len(made.notes)


def loaded() -> Catalog:

    return store.load_catalog().catalog


def with_plan(catalog: Catalog, name: str, change: Callable[[Plan], Plan]) -> Catalog:
    return replace(catalog, plans={**catalog.plans, name: change(catalog.plans[name])})


def with_tenant(
    catalog: Catalog, name: str, change: Callable[[parts.Tenant], parts.Tenant]
) -> Catalog:
    return replace(catalog, tenants={**catalog.tenants, name: change(catalog.tenants[name])})


@pytest.mark.usefixtures("database")
def test_an_empty_database_holds_no_catalog() -> None:
    with pytest.raises(NoCatalogError, match="aforo-admin apply FILE"):
        loaded()


def test_what_is_applied_is_what_is_read(example: Catalog) -> None:
    assert loaded() == example


def test_applying_the_same_again_writes_nothing(example: Catalog) -> None:
    assert applied(example) == 0


@pytest.mark.usefixtures("database")
def test_any_catalog_can_follow_any_other() -> None:
    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=15)
    @given(catalogs())
    def apply_then_load(catalog: Catalog) -> None:
        applied(catalog)

        assert loaded() == catalog
        assert applied(catalog) == 0

    apply_then_load()


def test_gaps_that_forms_leave_are_no_difference(example: Catalog) -> None:
    """A quota and two deals are made by forms: their positions come after all others'."""
    with store.change(actor="tests", source=Source.UI) as made:
        draft = store.new_draft("pro")
        draft.quotas.create(quota_id="late", meter="api.calls", limit_units=7, window="day")
        store.publish(draft, made)
        for name in ("one", "two"):
            Deal.objects.create(
                tenant_id="globex",
                deal_id=name,
                effective_from=datetime(2030 + len(name), 1, 1, tzinfo=UTC),
                effective_until=datetime(2031 + len(name), 1, 1, tzinfo=UTC),
            )
            Feature.objects.create(feature_id=name, title=name)
        Deal.objects.get(deal_id="one").delete()
    held = loaded()
    assert held != example

    assert applied(held) == 0
    assert applied(with_tenant(held, "acme", lambda tenant: replace(tenant, name="A"))) == 1
    assert PlanVersion.objects.filter(plan_id="pro").count() == 2


@pytest.mark.usefixtures("database")
def test_what_is_exported_is_applied_and_exported_as_the_same_text() -> None:
    """Through the text of the file, onto whatever was there before."""

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=15)
    @given(catalogs(), catalogs())
    def export_apply_export(catalog: Catalog, other: Catalog) -> None:
        applied(catalog)
        text = yaml_text(written.catalog(loaded()))
        applied(other)
        applied(read_text(text.encode(), name="exported"))

        assert loaded() == catalog
        assert yaml_text(written.catalog(loaded())) == text
        assert audit.verify().broken_at is None

    export_apply_export()


def test_a_catalog_with_an_override_that_is_over_is_exported_and_applied(example: Catalog) -> None:
    over = parts.MarginOverride(
        level_max=Level.WARN, until=datetime(2020, 1, 1, tzinfo=UTC), reason="x", author="dana"
    )
    held = with_tenant(example, "globex", lambda tenant: replace(tenant, margin_override=over))
    applied(held)
    exported = yaml_text(written.catalog(loaded()))
    applied(example)

    applied(read_text(exported.encode(), name="exported"))

    assert loaded() == held


def test_only_what_differs_is_written(example: Catalog) -> None:
    assert applied(with_tenant(example, "acme", lambda tenant: replace(tenant, name="A"))) == 1


def test_a_catalog_that_breaks_a_rule_is_not_applied(example: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"plans.pro.title: must not be empty"):
        applied(with_plan(example, "pro", lambda plan: replace(plan, title=" ")))

    assert loaded() == example


def test_apply_refuses_a_database_that_has_changed_meanwhile(example: Catalog) -> None:
    seq = audit.last_seq()
    applied(with_tenant(example, "acme", lambda tenant: replace(tenant, name="A")))

    with pytest.raises(ChangedMeanwhileError, match=f"no longer at {seq}"):
        applied(example, expected_seq=seq)


def test_a_credential_moves_from_one_tenant_to_another(example: Catalog) -> None:
    moved = example.tenants["initech"].credentials
    catalog = with_tenant(example, "initech", lambda tenant: replace(tenant, credentials=()))
    catalog = with_tenant(catalog, "umbrella", lambda tenant: replace(tenant, credentials=moved))

    applied(catalog)

    assert loaded() == catalog


def test_a_change_of_a_plan_is_a_further_version(example: Catalog) -> None:
    applied(with_plan(example, "pro", lambda plan: replace(plan, committed_fee_nanos=1)))
    applied(replace(example, plans={**example.plans, "team": replace_id(example.plans["pro"])}))

    versions = PlanVersion.objects.filter(plan_id="pro").order_by("number")
    assert [(each.number, each.state) for each in versions] == [
        (1, "retired"),
        (2, "retired"),
        (3, "published"),
    ]
    assert versions[0].committed_fee_nanos == versions[2].committed_fee_nanos
    assert versions[1].retired_at == versions[2].published_at


def replace_id(plan: Plan) -> Plan:
    return replace(plan, plan_id="team")


def test_a_plan_that_is_gone_is_retired_and_kept(example: Catalog) -> None:
    plans = {name: plan for name, plan in example.plans.items() if name != "pilot"}
    applied(replace(example, plans=plans))

    assert PlanVersion.objects.get(plan_id="pilot").state == "retired"
    assert "pilot" not in loaded().plans


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE control_planversion SET committed_fee_nanos = 1 WHERE plan_id = 'pro'",
        "UPDATE control_planversion SET state = 'draft' WHERE plan_id = 'pro'",
        "UPDATE control_planquota SET limit_units = 1",
        "DELETE FROM control_planquota",
        "DELETE FROM control_planguard",
        "UPDATE control_costprice SET price_nanos = price_nanos + 1",
        "UPDATE control_negotiatedcost SET per_units = per_units + 1",
        "UPDATE control_exchangerate SET rate_nanos = 1",
        "UPDATE control_auditentry SET actor = 'nobody' WHERE seq = 2",
        "DELETE FROM control_auditentry WHERE seq = 2",
    ],
)
def test_the_database_itself_refuses_to_rewrite_the_past(example: Catalog, statement: str) -> None:
    with (
        pytest.raises(IntegrityError, match=r"never edited|immutable|append-only|draft to"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)

    assert loaded() == example


def test_a_draft_may_be_edited_until_it_is_published(example: Catalog) -> None:
    with store.change(actor="dana", source=Source.UI):
        draft = PlanVersion.objects.create(
            plan_id="pro", number=2, title="Pro", committed_fee_nanos=7, features=["chat"]
        )
        PlanQuota.objects.create(
            version=draft, quota_id="q", meter="api.calls", limit_units=1, window="day"
        )
        draft.committed_fee_nanos = 9
        draft.save()
    assert loaded() == example

    with store.change(actor="dana", source=Source.UI) as made:
        store.publish(draft, made)
    assert loaded().plans["pro"].committed_fee_nanos == 9

    draft.committed_fee_nanos = 10
    with (
        pytest.raises(NeverEditedError, match="make a new version"),
        store.change(actor="dana", source=Source.UI),
    ):
        draft.save()


def test_a_draft_that_breaks_a_rule_can_not_be_published(example: Catalog) -> None:
    with store.change(actor="dana", source=Source.UI):
        draft = PlanVersion.objects.create(
            plan_id="pro", number=2, title="Pro", committed_fee_nanos=7, features=["chatt"]
        )
    with (
        pytest.raises(CatalogError, match='no feature "chatt"; did you mean "chat"'),
        store.change(actor="dana", source=Source.UI) as made,
    ):
        store.publish(draft, made)

    assert loaded() == example


def test_nothing_changes_unless_somebody_answers_for_it(example: Catalog) -> None:
    acme = Tenant.objects.get(pk="acme")
    acme.name = "A"

    with pytest.raises(UnrecordedError, match="who changes this"):
        acme.save()
    with pytest.raises(UnrecordedError):
        acme.delete()
    with pytest.raises(UnrecordedError):
        Tenant.objects.update(name="A")
    with pytest.raises(UnrecordedError):
        Tenant.objects.all().delete()
    with pytest.raises(UnrecordedError):
        Tenant.objects.create(pk="new", name="New")
    assert loaded() == example


def test_a_change_that_breaks_a_rule_changes_nothing(example: Catalog) -> None:
    seq = audit.last_seq()
    with (
        pytest.raises(CatalogError, match=r"tenants.new.subscription: is missing"),
        store.change(actor="dana", source=Source.REST),
    ):
        Tenant.objects.create(pk="new", name="New")
    with (
        pytest.raises(CatalogError, match=r'plans.enterprise.features\[2\]: no feature "reports"'),
        store.change(actor="dana", source=Source.REST),
    ):
        Feature.objects.get(pk="reports").delete()

    assert loaded() == example
    assert audit.last_seq() == seq


@pytest.mark.parametrize("edit", ["draft", "webhook", "feature's title"])
def test_what_reaches_no_tenant_is_saved_without_reading_any(example: Catalog, edit: str) -> None:
    with CaptureQueriesContext(connection) as queries, store.change(actor="d", source=Source.UI):
        if edit == "draft":
            store.new_draft("pro")
        elif edit == "webhook":
            WebhookEndpoint.objects.create(pk="ops", url_kept_in="env:HOOK")
        else:
            feature = Feature.objects.get(pk="reports")
            feature.title = "All reports"
            feature.save()

    assert not [each for each in queries if "control_subscription" in each["sql"]]
    assert loaded().tenants == example.tenants


def test_what_reaches_tenants_is_checked_with_them(example: Catalog) -> None:
    unused = replace(
        example, features=(*example.features, parts.Feature(feature_id="beta", title="Beta"))
    )
    deal = replace(example.tenants["umbrella"].deals[0], add_features=("beta",))
    applied(with_tenant(unused, "umbrella", lambda held: replace(held, deals=(deal,))))

    with (
        pytest.raises(CatalogError, match=r'tenants.umbrella.deals\[0\].*: no feature "beta"'),
        store.change(actor="dana", source=Source.UI),
    ):
        Feature.objects.get(pk="beta").delete()


def test_keys_confined_to_a_tenant_let_others_change(example: Catalog) -> None:
    key = replace(example.ingest_keys[0], tenants=("acme",))
    confined = replace(example, ingest_keys=(key,))
    applied(confined)

    with store.change(actor="dana", source=Source.UI):
        globex = Tenant.objects.get(pk="globex")
        globex.name = "Globex Inc."
        globex.save()
    assert store.load_checked({"globex"}).catalog.tenants["globex"].name == "Globex Inc."
    with (
        pytest.raises(CatalogError, match=r'ingest_keys\[0\].tenants\[0\]: no tenant "acme"'),
        store.change(actor="dana", source=Source.UI),
    ):
        Tenant.objects.get(pk="acme").delete()


def test_a_tenants_credential_does_not_become_a_key_for_usage(example: Catalog) -> None:
    held = next(each for each in example.tenants["acme"].credentials if len(each.identity) == 64)

    with (
        pytest.raises(CatalogError, match="a tenant's key must not report usage"),
        store.change(actor="dana", source=Source.UI),
    ):
        IngestKey.objects.create(pk="bridge", sha256=held.identity, scopes=["usage:ingest"])


@pytest.mark.usefixtures("example")
def test_a_removed_tenant_takes_along_all_that_is_its() -> None:
    seq = audit.last_seq()
    with store.change(actor="dana", source=Source.UI, reason="left us") as made:
        Tenant.objects.get(pk="acme").delete()

    assert sorted(loaded().tenants) == ["globex", "initech", "umbrella"]
    assert {(note.kind, note.name) for note in made.notes} >= {
        ("tenant", "acme"),
        ("credential", "acme/mesh"),
        ("deal quota", "acme/acme-renewal/batch-calls"),
    }
    assert audit.tenants_since(seq) == frozenset({"acme"})


def test_prices_are_replaced_and_never_edited(example: Catalog) -> None:
    first, *others = example.costs
    cheaper = replace(first, price_nanos=first.price_nanos - 1)
    applied(replace(example, costs=(cheaper, *others)))

    removed, added = AuditEntry.objects.filter(kind="cost price").order_by("-seq")[:2][::-1]
    assert (removed.after, added.before) == (None, None)
    assert added.after["price_nanos"] == cheaper.price_nanos


def test_the_record_says_who_why_what_and_holds_no_hash(example: Catalog) -> None:
    applied(with_tenant(example, "acme", lambda tenant: replace(tenant, name="Acme Inc.")))

    (last,) = audit.entries_of(tenant_id="acme", limit=1)
    assert (last.actor, last.source, last.reason) == ("tests", "yaml", "why not")
    assert (last.kind, last.name) == ("tenant", "acme")
    assert (last.before, last.after) == ({"name": "Acme GmbH"}, {"name": "Acme Inc."})
    hashes = [c.identity for t in example.tenants.values() for c in t.credentials]
    hashes += [key.sha256 for key in example.ingest_keys]
    text = str([(e.before, e.after) for e in audit.entries_of(tenant_id=None, limit=1000)])
    assert not [each for each in hashes if each in text]


@pytest.mark.usefixtures("example")
def test_the_chain_of_the_record_breaks_where_it_was_tampered_with() -> None:
    whole = audit.verify()
    assert (whole.entries, whole.broken_at) == (audit.last_seq(), None)

    table = "ON control_auditentry" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        for event in ("update", "delete"):
            cursor.execute(f"DROP TRIGGER control_auditentry_{event}_refused {table}")
        cursor.execute("UPDATE control_auditentry SET actor = 'nobody' WHERE seq = 5")
    edited = audit.verify()
    assert (edited.broken_at, edited.why) == (5, "says something else than when it was written")

    with connection.cursor() as cursor:
        cursor.execute("UPDATE control_auditentry SET actor = 'tests' WHERE seq = 5")
        cursor.execute("DELETE FROM control_auditentry WHERE seq = %s", [whole.entries])
    assert audit.verify().broken_at == whole.entries

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM control_auditentry WHERE seq = 7")
    assert audit.verify().broken_at == 7


@pytest.mark.usefixtures("example")
def test_a_record_rewritten_from_its_beginning_is_told_by_a_head_kept_elsewhere() -> None:
    kept = audit.verify().head
    assert kept is not None
    applied(with_tenant(loaded(), "acme", lambda tenant: replace(tenant, name="A")))
    assert audit.verify(kept).broken_at is None

    entries = list(AuditEntry.objects.all())
    entries[2].actor = "somebody else"
    previous = ""
    for entry in entries:
        entry.previous_hash = previous
        entry.hash = previous = audit.hash_of(entry)
    table = "ON control_auditentry" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER control_auditentry_update_refused {table}")
        cursor.execute("UPDATE control_head SET last_hash = %s", [previous])
    AuditEntry.objects.bulk_update(entries, ["actor", "previous_hash", "hash"])

    assert audit.verify().broken_at is None
    told = audit.verify(kept)
    assert (told.broken_at, told.why, told.head) == (kept.seq, audit.NOT_KEPT, None)
    later = audit.verify(replace(kept, seq=len(entries) + 1))
    assert later.broken_at == len(entries) + 1
    assert "was kept elsewhere, so it was there" in later.why


def test_a_catalog_of_many_tenants_is_read_in_as_few_queries(example: Catalog) -> None:
    tenants = {
        f"t{number}": replace(
            example.tenants["umbrella"],
            tenant_id=f"t{number}",
            deals=(replace(example.tenants["umbrella"].deals[0], deal_id=f"d{number}"),),
        )
        for number in range(300)
    }
    applied(replace(example, tenants=tenants))

    with CaptureQueriesContext(connection) as queries:
        assert len(loaded().tenants) == 300
    assert len(queries) < 30


def test_some_tenants_are_read_without_the_others(example: Catalog) -> None:
    part = store.load_catalog({"acme", "nobody"}).catalog

    assert part == replace(example, tenants={"acme": example.tenants["acme"]})


@pytest.mark.usefixtures("database")
def test_one_holder_has_the_lease_until_it_expires() -> None:
    assert leases.acquire("sync", holder="a", for_s=600)
    assert not leases.acquire("sync", holder="b", for_s=600)
    assert leases.acquire("sync", holder="a", for_s=-1)
    assert leases.acquire("sync", holder="b", for_s=600)

    leases.release("sync", holder="a")
    assert not leases.acquire("sync", holder="a", for_s=600)
    leases.release("sync", holder="b")
    assert leases.acquire("sync", holder="a", for_s=600)


@pytest.mark.usefixtures("database")
def test_migrations_make_the_tables_that_the_models_describe() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)  # Else it exits with 1.


def test_a_rate_card_is_kept_as_the_catalog_writes_it(example: Catalog) -> None:
    card = PlanRateCard.objects.filter(version__plan_id="metered").order_by("position")[0]
    assert card.components[0]["graduated"][1] == {"price": "0.5", "per": 1000}

    with store.change(actor="dana", source=Source.UI) as made:
        draft = PlanVersion.objects.create(
            plan_id="metered", number=2, title="Metered", committed_fee_nanos=0, features=["chat"]
        )
        PlanRateCard.objects.create(
            version=draft,
            effective_from=datetime(2026, 1, 1, tzinfo=UTC),
            components=[{"id": "calls", "meter": "api.calls", "price": "0.5 EUR", "per": "1k"}],
        )
    with (
        pytest.raises(
            CatalogError,
            match=r"plans.metered.rate_card\[0\].components\[0\].price: is in EUR",
        ),
        store.change(actor="dana", source=Source.UI) as made,
    ):
        store.publish(draft, made)
    assert loaded() == example


def test_a_second_price_from_the_same_date_is_refused(example: Catalog) -> None:
    price = CostPrice(
        meter="api.calls",
        price_nanos=1,
        per_units=1,
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
    )
    with pytest.raises(CatalogError, match="overlaps"):
        applied(replace(example, costs=(*example.costs, price)))
