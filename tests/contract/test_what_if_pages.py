"""What-if by command and on pages, on a real catalog's database and a ledger written by consume."""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from aforo_admin import audit, scenario_drafts, scenario_store, simulating, store
from aforo_admin.catalog_database import open_database
from aforo_admin.control import plan_preview
from aforo_admin.control.models import AuditEntry, CostPrice, Feature, PlanVersion, Scenario
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.domain.catalog import Catalog
from aforo_admin.domain.catalog import CostPrice as Entry
from aforo_admin.domain.scenario import CostChange, DraftChoice, FeeChange, PriceChange
from aforo_admin.domain.scenario import Scenario as Asked
from aforo_admin.faults import CatalogError
from aforo_admin.ledger_reading import costliest
from aforo_admin.places import Places
from aforo_admin.previews import preview_prices, preview_version
from aforo_admin.screens.what_if import _play
from aforo_admin.screens.what_if_form import WhatIfForm
from aforo_admin.simulating import Ground
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import HOUR_MICROS, micros_of
from aforo_meter.domain.rate_card import PerUnit
from tests.contract.forms_lab import as_role
from tests.contract.ledgers import AuditedLedger, LedgerFile
from tests.contract.test_sync_process import aforo_admin
from tests.contract.what_if_lab import NOW, START, Hour, catalog_of, play

pytestmark = [pytest.mark.contract, pytest.mark.slow]

CHAT = ("chat", "openai", "large")
STEADY = [Hour(number=number, tokens={CHAT: 100_000}) for number in range(10)]
COMING = NOW + timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class World:
    """Ten hours of one tenant: $1.11 each, of a fee of $20."""

    url: str  # Of the catalog's database.
    ledger: AuditedLedger
    catalog: Catalog
    ground: Ground
    client: Client  # Of somebody in finance.

    def as_role(self, role: Role) -> Client:
        return as_role(role)

    def page(self, **fields: str) -> str:
        response = self.client.post("/admin/what-if/", fields)
        assert response.status_code == 200
        return str(response.content.decode())


@pytest.fixture
def world(database: str, redis_url: str, empty_ledger: Path, tmp_path: Path) -> Iterator[World]:
    file = LedgerFile(tmp_path / "ledger.db")
    file.path.write_bytes(empty_ledger.read_bytes())
    catalog = catalog_of(plan="flat")
    asyncio.run(play(catalog, STEADY, file, redis_url))
    store.apply_catalog(catalog, actor="tests")
    places = Places(ledger_url=file.url, redis_url=redis_url)
    with override_settings(AFORO_PLACES=places, ALLOWED_HOSTS=["testserver"]):
        yield World(
            url=database,
            ledger=file,
            catalog=catalog,
            ground=Ground(catalog=catalog, ledger_url=file.url, now=NOW),
            client=as_role(Role.FINANCE, "dana"),
        )


def test_the_command_tells_a_table_and_json(world: World) -> None:
    env = {"AFORO_ADMIN_DATABASE_URL": world.url, "AFORO_ADMIN_LEDGER_URL": world.ledger.url}
    asked = ["what-if", "--provider-cost", "openai:llm.input_tokens=+900%"]

    told = aforo_admin(*asked, env=env)
    document: Any = json.loads(aforo_admin(*asked, "--json", env=env).stdout)
    kept = aforo_admin(*asked, "--save", "openai tenfold", env=env)
    again = aforo_admin("what-if", "--saved", "openai tenfold", env=env)

    assert (told.returncode, told.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert lines[0] == "recorded same usage acted on"
    assert lines[2] == "COGS 11.1 USD 110.1 USD 22.02 USD"
    assert lines[3] == "margin 44.50 % -450.50 % -10.10 %"
    assert lines[6] == "calls blocked by margin 0 0 8"
    assert lines[-1] == "acme none → block 44.50 % → -10.10 % 11.1 USD → 22.02 USD 0 → 8 80.00 %"
    (tenant,) = document["tenants"]
    assert tenant["replayed"]["cogs_nanos"] == 110_100_000_000
    assert [step["level"] for step in tenant["acted"]["levels"]] == ["block"]
    assert document["totals"]["acted"]["blocked_calls"] == 8
    assert (kept.returncode, again.returncode) == (0, 0)
    assert again.stdout == told.stdout


def test_the_command_needs_no_database_beside_a_file(world: World, tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    aforo_admin("export", str(file), env={"AFORO_ADMIN_DATABASE_URL": world.url})
    scenario = tmp_path / "scenario.json"
    scenario.write_text(json.dumps({"fees": [{"plan": "flat", "fee": "12"}]}))
    asked = ["--catalog", str(file), "--ledger-url", world.ledger.url]

    done = aforo_admin("what-if", *asked, "--scenario", str(scenario))

    assert (done.returncode, done.stderr) == (0, "")
    assert "revenue 20 USD 12 USD 12 USD" in " ".join(done.stdout.split())


def test_what_is_wrong_is_told_with_its_remedy(world: World) -> None:
    env = {"AFORO_ADMIN_DATABASE_URL": world.url, "AFORO_ADMIN_LEDGER_URL": world.ledger.url}

    cases = [
        (["--provider-cost", "openai"], 2, "--provider-cost openai: write it like openai=+20%"),
        (["--fee", "flatt=5"], 2, 'fees[0].plan: no plan "flatt"; did you mean "flat"?'),
        (["--threshold", "block=120%"], 2, "block_below"),
        (["--provider-cost", "opnai=+20%"], 2, 'provider "opnai"; did you mean "openai"?'),
        (["--growth", "lots", "--fee", "x"], 2, "--fee x: write it like pro=+10%, or pro=550\n"),
        (["--growth", "lots", "--fee", "x"], 2, "--growth lots: write it like +30%"),
        (["--period", "soon"], 2, 'month: "soon" is no month: write it like 2026-11'),
        (["--saved", "spring"], 2, 'saved: no scenario "spring"'),
        (["--ledger-url", "sqlite:////nowhere/l.db"], 1, "there is no ledger at /nowhere/l.db"),
    ]

    for asked, code, told in cases:
        done = aforo_admin("what-if", *asked, env=env)
        assert (done.returncode, done.stdout) == (code, ""), asked
        assert told in done.stderr


def test_a_month_to_come_is_refused_at_its_field(world: World) -> None:
    env = {"AFORO_ADMIN_DATABASE_URL": world.url, "AFORO_ADMIN_LEDGER_URL": world.ledger.url}
    coming = f"{NOW + timedelta(days=31):%Y-%m}"

    by_page = WhatIfForm({"month": coming, "fee": "flat=+10%"})
    found = _play(by_page).found
    by_command = aforo_admin("what-if", "--period", coming, "--fee", "flat=+10%", env=env)

    (told,) = by_page.errors["month"]
    assert found is None
    assert f"is to come, and no usage of it is recorded: name a month up to {NOW:%Y-%m}" in told
    assert by_command.returncode == 2
    assert f'month: "{coming}" is to come' in by_command.stderr
    assert simulating.simulate(Asked(month=f"{NOW:%Y-%m}"), world.ground).outcomes


def test_fields_offer_what_there_is_to_change(world: World) -> None:
    with store.change(actor="tests", source=Source.SHELL):
        drafted = store.new_draft("flat")
    text = world.client.get("/admin/what-if/").content.decode()

    offered = re.findall(r'data-line="([^"]+)"', text)
    assert {"openai=+20%", "flat=+10%", "block=5%", "feature:chat=+30%"} <= set(offered)
    assert f"flat={drafted.number}" in offered
    # What is offered is understood.
    by_field = re.findall(r'data-of="id_(\w+)" hidden>(.*?)</p>', text)
    fields = {name: "\n".join(re.findall(r'data-line="([^"]+)"', row)) for name, row in by_field}
    assert "Side by side" in world.page(**fields)


def test_a_page_shows_the_change_beside_the_record(world: World) -> None:
    text = world.page(provider_cost="openai:llm.input_tokens=+900%")

    assert "11.10 USD" in text
    assert "110.10 USD" in text
    assert "block L3" in text
    assert "calls blocked by margin" in text
    assert "quotas and other reasons apart" in text
    assert "openai" in text
    assert world.client.get("/admin/what-if/").status_code == 200


def test_a_page_tells_a_fault_at_its_field_and_keeps_what_was_typed(world: World) -> None:
    text = world.page(fee="flatt=5", provider_cost="openai", threshold="block=120%")

    assert "openai: write it like openai=+20%" in text
    assert ">flatt=5</textarea>" in text.replace("\n", "")
    refused = world.page(threshold="plan:flat/block=120%").replace("\n", "")
    field = refused[refused.index('for="id_threshold"') : refused.index('for="id_model"')]
    assert 'role="alert">plans.flat.thresholds.block_below' in field
    refused = world.page(provider_cost="opnai=+20%").replace("\n", "")
    field = refused[refused.index('for="id_provider_cost"') : refused.index('for="id_price"')]
    assert "no provider &quot;opnai&quot;; did you mean &quot;openai&quot;?" in field
    typo = world.page(provider_cost="openai/smoll=+20%")
    assert "openai/smoll=+20%: no model &quot;smoll&quot;; did you mean &quot;small&quot;?" in typo
    text = world.page(fee="flatt=5")
    assert "flatt=5: no plan &quot;flatt&quot;; did you mean &quot;flat&quot;?" in text


def test_all_wrong_lines_are_told_at_once_in_their_own_words(world: World) -> None:
    text = world.page(
        fee="flat=+1%\nflatt=5",
        provider_cost="openai=20\nopnai=+20%",
        growth="lots\n+5%",
        tenants="acmee",
    )

    told = re.findall(r'role="alert">([^<]+)<', text)
    assert [each.replace("&quot;", '"').partition("; ")[0] for each in told] == [
        'acmee: no tenant "acmee"',
        (
            "openai=20: write openai=+20%, or a price with its meter, like"
            " openai:llm.output_tokens=20"
        ),
        'opnai=+20%: no provider "opnai"',
        'flatt=5: no plan "flatt"',
        "lots: write it like +30%, tenant:acme=+30%, or feature:chat=-10%",
    ]


def test_a_scenario_is_kept_and_loaded(world: World) -> None:
    fields = {"fee": "flat=+10%", "step": "save", "name": "more fee"}
    response = world.client.post("/admin/what-if/", fields)

    assert response.headers["Location"] == "/admin/what-if/?saved=more+fee&step=play"
    played = world.client.get(response.headers["Location"]).content.decode()
    assert "Side by side" in played
    assert "22.00 USD" in played
    assert ">Remove more fee</button>" in played
    saved = Scenario.objects.get(name="more fee")
    assert (saved.author, saved.changes) == (
        "dana",
        {"fees": [{"plan": "flat", "percent": "+10%"}]},
    )
    assert saved.summary["totals"]["replayed"]["revenue_nanos"] == 22 * 10**9
    loaded = world.client.get("/admin/what-if/", {"saved": "more fee"}).content.decode()
    for page in (loaded, played):
        form = page[page.index('name="written"') :]
        assert "plan: flat, percent: +10%" in form[: form.index("</textarea>")]
    assert "Side by side" not in loaded
    assert scenario_store.load("more fee") == Asked(
        fees=(FeeChange(plan_id="flat", percent_bp=1000),)
    )
    world.client.post("/admin/what-if/", {"step": "remove", "saved": "more fee"})
    assert not Scenario.objects.exists()


def test_a_scenario_is_replaced_by_its_author_alone(world: World) -> None:
    first = {"fee": "flat=+10%", "step": "save", "name": "more fee"}
    world.client.post("/admin/what-if/", first)
    others = world.as_role(Role.PRODUCT).post("/admin/what-if/", {**first, "fee": "flat=+20%"})
    changes = Scenario.objects.get(name="more fee").changes
    world.client.post("/admin/what-if/", {**first, "fee": "flat=+30%"})

    assert "it is dana&#x27;s: keep yours under another name" in others.content.decode()
    assert changes == {"fees": [{"plan": "flat", "percent": "+10%"}]}
    assert Scenario.objects.get(name="more fee").changes["fees"][0]["percent"] == "+30%"


def test_a_scenario_is_removed_by_its_author_or_an_owner(world: World) -> None:
    fields = {"fee": "flat=+10%", "step": "save", "name": "more fee"}
    product, owner = world.as_role(Role.PRODUCT), world.as_role(Role.OWNER)
    button = ">Remove more fee</button>"

    def pages() -> list[bool]:
        world.client.post("/admin/what-if/", fields)
        clients = (world.client, product, owner)
        return [button in loaded(client) for client in clients]

    def loaded(client: Client) -> str:
        answer = client.get("/admin/what-if/", {"saved": "more fee"})
        return str(answer.content.decode())

    shown = pages()
    gone = {"step": "remove", "saved": "more fee"}
    refused = product.post("/admin/what-if/", gone, follow=True).content.decode()
    held = Scenario.objects.filter(name="more fee").exists()
    owner.post("/admin/what-if/", gone)
    after_owner = Scenario.objects.exists()
    pages()
    world.client.post("/admin/what-if/", gone)

    assert shown == [True, False, True]
    assert "Not removed: " in refused
    assert "it is dana&#x27;s: ask them, or an owner" in refused
    assert (held, after_owner, Scenario.objects.exists()) == (True, False, False)


def test_keeping_replacing_and_removing_a_scenario_is_on_the_record(world: World) -> None:
    seq = audit.last_seq()
    fields = {"fee": "flat=+10%", "step": "save", "name": "more fee"}
    world.client.post("/admin/what-if/", fields)
    world.client.post("/admin/what-if/", {**fields, "fee": "flat=+20%"})
    world.client.post("/admin/what-if/", {"step": "remove", "saved": "more fee"})

    entries = list(AuditEntry.objects.filter(seq__gt=seq))
    ten, twenty = (
        {
            "author": "dana",
            "month": "",
            "changes": {"fees": [{"plan": "flat", "percent": f"+{percent}%"}]},
        }
        for percent in (10, 20)
    )
    assert [(each.actor, each.source, each.kind, each.name) for each in entries] == [
        ("dana", "ui", "scenario", "more fee")
    ] * 3
    assert [(each.before, each.after) for each in entries] == [
        (None, ten),
        (ten, twenty),
        (twenty, None),
    ]
    assert audit.verify().broken_at is None
    assert audit.tenants_since(seq) == frozenset()


def test_sync_has_nothing_to_do_for_a_scenario(world: World) -> None:
    found = simulating.simulate(Asked(), world.ground)

    async def polled() -> list[bool]:
        source = await open_database()
        seen = []
        for name in ("one", "other"):
            await asyncio.to_thread(keep, name)
            seen.append(await source.poll())
        await asyncio.to_thread(add_feature)
        seen.append(await source.poll())
        await source.close()
        return seen

    def keep(name: str) -> None:
        scenario_store.save(name, Asked(), found, author="tests", source=Source.SHELL)
        connection.close()

    def add_feature() -> None:
        with store.change(actor="tests", source=Source.SHELL):
            Feature.objects.create(feature_id="spare", title="Spare")
        connection.close()

    assert asyncio.run(polled()) == [False, False, True]


def test_a_viewer_may_ask_and_keeps_nothing(world: World) -> None:
    client = world.as_role(Role.VIEWER)

    played = client.post("/admin/what-if/", {"fee": "flat=+10%"})
    kept = client.post("/admin/what-if/", {"fee": "flat=+10%", "step": "save", "name": "x"})

    assert (played.status_code, kept.status_code) == (200, 200)
    assert "Your role may not do this" in kept.content.decode()
    assert not Scenario.objects.exists()


def test_a_scenario_becomes_a_draft_and_coming_prices(world: World) -> None:
    fields = {
        "fee": "flat=25",
        "price": "pro=+10%",
        "provider_cost": "openai=+20%",
        "step": "turn",
        "begins": f"{COMING:%Y-%m-%d}",
        "change_reason": "OpenAI raises its prices",
    }
    response = world.client.post("/admin/what-if/", fields)

    assert response.status_code == 302
    drafts = PlanVersion.objects.filter(state="draft").order_by("plan_id")
    assert [(each.plan_id, each.committed_fee_nanos) for each in drafts] == [
        ("flat", 25 * 10**9),
        ("pro", 20 * 10**9),
    ]
    held, coming = store.load_with_draft(drafts[1], ()).plans["pro"].rate_cards
    assert held == world.catalog.plans["pro"].rate_cards[0]
    assert coming.effective_from_micros == micros_of(COMING.replace(hour=0))
    (tokens,) = coming.components
    assert tokens.pricing.tiers[0].price == PerUnit(price_nanos=22_000_000)  # type: ignore[union-attr]
    price = CostPrice.objects.get(effective_from=COMING.replace(hour=0))
    assert (price.provider, price.meter, price.price_nanos) == (
        "openai",
        "llm.input_tokens",
        13_200_000_000,
    )
    reasons = set(AuditEntry.objects.filter(actor="dana").values_list("reason", flat=True))
    assert reasons == {"OpenAI raises its prices"}
    assert store.load_catalog().catalog.plans == world.catalog.plans


def test_product_makes_drafts_of_prices_and_none_of_costs(world: World) -> None:
    client = world.as_role(Role.PRODUCT)
    fields = {"step": "turn", "begins": f"{COMING:%Y-%m-%d}", "fee": "flat=25"}

    # Of what they may not do at all no other fault is told first.
    past = {**fields, "provider_cost": "openai=+20%", "begins": "2020-01-01"}
    refused = client.post("/admin/what-if/", past).content.decode()
    assert "your role may not change this" in refused
    assert "is past" not in refused
    assert not PlanVersion.objects.filter(state="draft").exists()
    client.post("/admin/what-if/", fields)
    assert PlanVersion.objects.filter(state="draft").exists()


def test_prices_that_change_twice_are_told(world: World) -> None:
    """$11 for 1,000 become 13.2, and from a later date on 15.84."""
    fields = {"step": "turn", "provider_cost": "openai=+20%"}

    def turned(days: int, **more: str) -> list[str]:
        begins = f"{COMING + timedelta(days=days):%Y-%m-%d}"
        response = world.client.post(
            "/admin/what-if/", {**fields, "begins": begins, **more}, follow=True
        )
        return [str(each) for each in response.context["messages"]]

    first, date = turned(0), f"{COMING:%Y-%m-%d}"
    again = turned(0)
    second = turned(30)
    past = turned(0, begins="2020-01-01")

    assert first == [
        (
            "Made: 1 coming entry of the price book (openai llm.input_tokens: 11 → 13.2 USD per"
            f" 1,000 from {date})."
        )
    ]
    assert again == [
        (
            f'Nothing was changed: Prices from: "{date}" is the date of an entry that there is'
            " already, of openai llm.input_tokens: name another date"
        )
    ]
    assert "13.2 → 15.84 USD per 1,000" in second[0]
    assert second[1].startswith(f"1 price had a coming change already, from {date} on, and this")
    assert past == ['Nothing was changed: Prices from: "2020-01-01" is past: write a date to come']


def test_pages_ask_few_questions(world: World) -> None:
    with store.change(actor="tests", source=Source.SHELL):
        draft = store.new_draft("flat")
    scenario_store.save(
        "kept",
        Asked(),
        simulating.simulate(Asked(), world.ground),
        author="tests",
        source=Source.SHELL,
    )
    addresses = (
        "/admin/what-if/",
        "/admin/what-if/?saved=kept",
        "/admin/what-if/prices/",
        f"/admin/control/planversion/{draft.pk}/publish/",
    )

    for address in addresses:
        with CaptureQueriesContext(connection) as queries:
            assert world.client.get(address).status_code == 200
        told = [query["sql"][:80] for query in queries]
        assert len(queries) < 30, told


def test_what_can_not_be_a_draft_is_told(world: World) -> None:
    scenario = Asked(costs=(CostChange(provider="nobody", percent_bp=1),))

    def turn(asked: Asked, **more: Any) -> None:  # noqa: ANN401
        with store.change(actor="tests", source=Source.SHELL):
            scenario_drafts.turn_into_drafts(asked, world.ground, **({"begins_at": COMING} | more))

    with pytest.raises(CatalogError, match=r"costs\[0\]: is about no price that there is"):
        turn(scenario)
    with pytest.raises(CatalogError, match="nothing here becomes a draft"):
        turn(Asked())
    with pytest.raises(CatalogError, match=r'begins: "[^"]+" is past: write a date to come'):
        turn(scenario, begins_at=START)


def test_publishing_shows_whose_price_quota_or_level_changes(world: World) -> None:
    """A fee of $12 instead of $20: a margin of 7.5 %, below 15 %."""
    with store.change(actor="tests", source=Source.SHELL):
        draft: Any = store.new_draft("flat")
        draft.committed_fee_nanos = 12 * 10**9
        draft.save()
    choice = DraftChoice(plan_id="flat", number=draft.number)
    drafts = scenario_drafts.drafts_of(Asked(drafts=(choice,)))

    preview = preview_version(choice, drafts, world.ground)
    page = world.client.get(f"/admin/control/planversion/{draft.pk}/publish/").content.decode()

    (moved,) = preview.moved
    assert (moved.changes_price, moved.changes_level) == (True, True)
    assert moved.outcome.replayed.level is Level.THROTTLE
    assert (preview.tenants, preview.looked_at) == (1, 1)
    assert "What it would have done" in page
    assert "20.00 → 12.00" in page


def test_publishing_tells_of_who_has_used_nothing_what_becomes_of_their_terms(
    world: World,
) -> None:
    acme = world.catalog.tenants["acme"]
    coming = NOW + timedelta(days=900)
    others = {
        name: replace(
            acme,
            tenant_id=name,
            subscription=replace(
                acme.subscription, subscription_id=f"{name}-1", started_at=started_at
            ),
        )
        for name, started_at in (("t2", START), ("t5", coming))
    }
    catalog = replace(world.catalog, tenants={**world.catalog.tenants, **others})
    store.apply_catalog(catalog, actor="tests")
    with store.change(actor="tests", source=Source.SHELL):
        draft: Any = store.new_draft("flat")
        draft.committed_fee_nanos = 30 * 10**9
        draft.save()
    path = f"/admin/control/planversion/{draft.pk}/publish/"

    shown = _words(world.client.get(path).content.decode())
    with override_settings(AFORO_PLACES=Places()):
        blind = _words(world.client.get(path).content.decode())

    assert "3 tenants have the plan" in shown
    assert "acme 20.00 → 30.00" in shown
    assert "t2 20.00 USD → 30.00 USD – – t5 20.00 USD → 30.00 USD – –" in shown
    assert "acme 20.00 USD" not in shown
    assert "No preview: " in blind
    assert "acme 20.00 USD → 30.00 USD – – t2 20.00 USD → 30.00 USD" in blind


def _words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_of_many_tenants_those_are_looked_at_who_cost_most(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert costliest(world.ground.ledger_url, count_max=10) == ["acme"]
    monkeypatch.setattr(plan_preview, "TENANTS_MAX", 1)

    assert plan_preview._by_cost(["aaa", "acme", "zzz"]) == ["acme", "aaa", "zzz"]


def test_new_prices_tell_who_crosses_which_level_and_when(world: World) -> None:
    """At 0.018 a token an hour is $1.81: the eighth ends with $14.48, a margin of 27.6 %."""
    entry = Entry(
        meter="llm.input_tokens",
        price_nanos=18 * 10**9,
        per_units=1000,
        effective_from=COMING,
        provider="openai",
    )

    found, (crossing,) = preview_prices([entry], world.ground)
    page = world.client.post(
        "/admin/what-if/prices/",
        {
            "meter": "llm.input_tokens",
            "provider": "openai",
            "price": "18",
            "per": "1k",
            "begins": f"{COMING:%Y-%m-%d}",
        },
    ).content.decode()

    assert (crossing.before, crossing.after) == (Level.NONE, Level.THROTTLE)
    assert crossing.at_micros == micros_of(START) + 8 * HOUR_MICROS
    assert found.outcomes[0].replayed.cogs_nanos == 18_100_000_000
    assert "Who crosses a level" in page
    assert f"{START + timedelta(hours=8):%Y-%m-%d %H:%M}" in page
    with pytest.raises(CatalogError, match="overlaps"):
        preview_prices([replace(world.catalog.costs[1], price_nanos=1)], world.ground)


def test_a_wrong_price_is_told_at_its_field(world: World) -> None:
    fields = {"meter": "api.cals", "price": "much", "per": "1", "begins": "2027-01-01"}

    text = world.client.post("/admin/what-if/prices/", fields).content.decode()

    assert "&quot;much&quot; is no amount: write digits and a point" in text


def test_without_a_ledger_a_page_says_what_is_missing(world: World) -> None:
    with override_settings(AFORO_PLACES=Places()):
        text = world.page(fee="flat=5")
        draft_page = world.client.get("/admin/what-if/prices/")

    assert "set AFORO_ADMIN_LEDGER_URL" in text
    assert draft_page.status_code == 200


def test_a_page_waits_no_longer_than_it_may(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aforo_admin.screens.what_if.SECONDS_MAX", -1)

    text = world.page(fee="flat=5")

    assert "a page waits no longer: name tenants, or run it in a shell" in text


def test_periods_of_other_months_are_looked_at_by_their_end(world: World) -> None:
    before = START - timedelta(days=40)
    asked = Asked(month=f"{before:%Y-%m}", prices=(PriceChange(plan_id="pro", percent_bp=1000),))

    assert simulating.simulate(asked, world.ground).outcomes == ()
    now = simulating.instant_of(Asked(month=f"{NOW:%Y-%m}"), NOW)
    assert now <= NOW
