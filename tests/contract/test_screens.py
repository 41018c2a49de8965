"""The admin's pages of figures, over a real catalog, ledger and Redis."""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.test import Client, override_settings

from aforo_admin import store
from aforo_admin.control.models import AuditEntry, Deal, PlanVersion, Tenant, WebhookEndpoint
from aforo_admin.control.recording import Source
from aforo_admin.control.words import HINTS, LABELS
from aforo_admin.places import Places
from aforo_admin.screens import record, stores
from aforo_admin.screens.page import FRAGMENT
from aforo_meter.domain.periods import datetime_of, micros_of
from tests.contract.screens_lab import (
    EXAMPLE,
    KEY,
    NOW,
    World,
    client_of,
    empty_world,
    fill,
    period_of,
    text_of,
)

pytestmark = [pytest.mark.contract, pytest.mark.slow]

PAGES = (
    *("overview/", "margins/", "margins/globex/", "interventions/", "prices/", "tester/"),
    *("sessions/", "deliveries/", "letters/", "audit/"),
)
sqlite_only = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def empty(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, redis_url: str
) -> Iterator[World]:
    with empty_world(database, request, tmp_path, redis_url) as world:
        yield world


@pytest.fixture
def world(empty: World) -> World:
    fill(empty)
    return empty


def viewer() -> Client:
    """Return the browser of somebody who may look, and change nothing."""
    return client_of("vera", permissions=("view_tenant", "view_auditentry"))


def asked(client: Client, **fields: str) -> str:
    """Return what the decision tester answers."""
    call = {"by": "tenant", "method": "POST", "path": "/v1/chat/completions"}
    response = client.post("/admin/tester/", call | fields)
    assert response.status_code == 200
    return str(response.content.decode())


def test_overview_adds_up_what_all_tenants_bring_and_cost(world: World) -> None:
    """acme 36,000 and globex 500 a period; 378.08, 462.09 and 2.23 of COGS."""
    said = world.part("overview/")

    assert "Revenue, USD 36,500.00" in said
    assert "COGS, USD 842.40" in said
    assert "Gross margin 97.69 %" in said
    assert "3 of 4 in the catalog" in said


def test_overview_counts_tenants_by_level(world: World) -> None:
    said = world.part("overview/")

    assert "block L3 1 0.00 2.23 -2.23 throttle L2 1 500.00 462.09 37.91 warn L1 0" in said


def test_overview_names_who_moves_what_is_unpriced_and_how_old_it_is(world: World) -> None:
    said = world.part("overview/")

    assert f"globex {SOFTENED} 22.54 9.03 +13.51 +149.56 %" in said
    assert "gpu.ms openai – 40 1" in said
    assert "All usage is counted until 1 s ago Last complete sync 14 s ago" in said


def test_margins_are_listed_the_worst_first_and_can_be_chosen(world: World) -> None:
    every = world.part("margins/")

    assert every.index("initech") < every.index("globex") < every.index("acme")
    assert "globex" not in world.part("margins/", level="block")
    assert "acme" not in world.part("margins/", tenant="glo")
    assert "No tenant is like that." in world.part("margins/", tenant="g%")


SOFTENED = "warn L1 by override until 2026-11-27 17:00, reckoned throttle L2"


def test_a_level_in_force_by_an_override_is_told_beside_the_reckoned_one(world: World) -> None:
    said = world.part("margins/")

    assert f"globex {SOFTENED} 7.58 %" in said
    assert said.count("by override") == 1
    assert "initech block L3 " in said
    assert f"globex {SOFTENED}" in world.part("margins/", level="throttle")
    assert "globex" not in world.part("margins/", level="warn")
    assert "1 tenant has a margin override" in world.part("overview/")


def test_an_override_that_is_over_softens_no_level(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_micros = micros_of(datetime(2026, 11, 27, 17, tzinfo=UTC))
    monkeypatch.setattr(stores, "now_micros", lambda: until_micros - 1)
    assert "by override" in world.part("margins/")

    monkeypatch.setattr(stores, "now_micros", lambda: until_micros)
    assert "globex throttle L2 7.58 %" in world.part("margins/")
    assert "margin override" not in world.part("overview/")


@sqlite_only
def test_levels_are_as_reckoned_where_no_override_can_be_read(world: World) -> None:
    away = replace(world.places, redis_url="redis://127.0.0.1:1/0")
    with override_settings(AFORO_PLACES=away):
        said = world.part("margins/")

    assert "globex throttle L2" in said
    assert "127.0.0.1:1" in said


def test_a_tenants_page_shows_its_margin_beside_its_floors(world: World) -> None:
    page = world.get("margins/globex/")
    said = world.part("margins/globex/")

    assert "Gross margin 7.58 %" in said
    assert "block L3 0 % 2026-11-21 08:40 UTC, in 20 h 40 min" in said
    assert page.count('class="floor stroke-') == 3
    assert 'class="so-far"' in page
    assert 'class="ahead"' in page


def test_a_tenants_page_says_who_sets_each_floor(world: World) -> None:
    said = world.part("margins/acme/")

    assert "warn 30 % plan:enterprise" in said
    assert "throttle 15 % plan:enterprise" in said
    assert "block -5 % deal:acme-renewal" in said


def test_a_tenants_page_names_override_deal_quotas_and_interventions(world: World) -> None:
    said = world.part("margins/globex/")

    assert "its level is taken as warn L1 until 2026-11-27 17:00 UTC" in said
    assert "dana@example.com: Invoice 1043 is being corrected" in said
    assert "23,100,000 115.50 % 20,000,000" in said
    assert "throttle margin below the throttle floor margin_throttle 4" in said
    assert "acme-renewal 2026-01-15 00:00 2028-01-15 00:00 fee 36,000.00" in world.part(
        "margins/acme/"
    )


def test_costs_by_model_and_by_feature_come_to_the_ledgers_total(world: World) -> None:
    said = world.part("margins/globex/")
    charged = world.ledger.audited_cogs()["globex", "globex-1", period_of("globex").start_micros]

    assert charged == 462_088_000_000  # Nanos.
    assert "openai gpt-4o 462.08 99.99 % 99.99 %" in said
    assert "chat unpriced usage 462.09 100 % 100 %" in said


def test_completeness_of_who_has_no_whole_hour_yet_claims_nothing(world: World) -> None:
    """initech's calls were decided, and blocked, in no hour that is compared."""
    said = world.part("margins/initech/")

    assert "Completeness of the last day no whole hour with a decided call yet" in said
    assert "nothing was decided" not in said


def test_a_tenant_without_usage_or_of_the_ledger_alone_has_a_page_too(world: World) -> None:
    assert "This tenant has used nothing" in world.part("margins/umbrella/")
    with store.change(actor="dana", source=Source.SHELL):
        Tenant.objects.get(pk="initech").delete()

    assert "Level block L3" in world.part("margins/initech/")
    assert world.client.get("/admin/margins/nobody/").status_code == 404


def test_a_credential_is_known_by_its_beginning_alone(world: World) -> None:
    page = world.get("margins/initech/")

    assert f"{KEY[:8]}…" in page
    assert KEY[:9] not in page


def test_interventions_are_counted_by_reason_and_tenant(world: World) -> None:
    said = world.part("interventions/")

    assert "11 calls" in said
    assert "initech block margin below the block floor margin_limit_exceeded 7" in said
    assert "initech" not in world.part("interventions/", outcome="throttle")
    assert "4 calls" in world.part("interventions/", tenant="globex", span="30d")
    assert "No call like that" in world.part("interventions/", tenant="acme")
    assert '<option value="quota_exceeded">quota used up</option>' in world.get("interventions/")


def test_prices_show_what_holds_and_what_will(world: World) -> None:
    said = world.part("prices/", q="hosted-70b", whose="own")

    assert "4 prices" in said
    assert "from 200,000 input tokens llm.input_tokens own 4.00 for 1,000,000" in said
    assert "2.00 for 1,000,000" in world.part(
        "prices/one/",
        precedence="own",
        model="hosted-70b",
        meter="llm.input_tokens",
        tier="0",
        **{"from": "0", "to": "0"},
    )
    assert "There is no such price" in world.part("prices/one/", precedence="own", model="none")
    assert 'href="/admin/what-if/prices/"' in world.get("prices/")


def test_the_tester_decides_as_live_and_tells_every_check(world: World) -> None:
    page = asked(world.client, tenant="initech")

    assert "margin_limit_exceeded" not in asked(world.client, tenant="acme")
    for told in ("credential shown", "margin not at block", "quota left", "Route 1 matched"):
        assert told in page


def test_the_tester_says_its_reason_in_words_and_as_a_code(world: World) -> None:
    said = text_of(asked(world.client, by="nobody"))

    assert "Reason no credential shown unauthenticated" in said


def test_the_tester_knows_a_key_and_never_shows_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        page = asked(world.client, by="api_key", proof=KEY)

    assert "api_key main of tenant initech" in page
    assert KEY not in page
    assert KEY not in caplog.text


def test_the_tester_tells_an_unknown_key_a_subject_and_nobody_apart(world: World) -> None:
    assert "unknown_credential" in asked(world.client, by="api_key", proof="wrong")
    assert "jwt_subject ci of tenant acme" in asked(
        world.client, by="jwt_subject", proof="acme-ci@idp.example.com"
    )
    assert "unauthenticated" in asked(world.client, by="nobody")


def test_the_tester_counts_no_quota(world: World) -> None:
    before = {key: world.redis.dump(key) for key in world.redis.scan_iter()}

    for _ in range(3):
        asked(world.client, tenant="globex")

    assert {key: world.redis.dump(key) for key in world.redis.scan_iter()} == before


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tenant": ""}, "Say which tenant"),
        ({"by": "api_key"}, "Say it here"),
        ({"tenant": "acme", "path": "v1"}, "A path begins with a slash"),
        ({"tenant": "acme", "headers": "no colon"}, "Write each header as name: value"),
        ({"tenant": "acme", "headers": f"x-api-key: {KEY}"}, "x-api-key holds a credential"),
        ({"tenant": "nobody"}, "There is no tenant nobody: look its id up"),
    ],
)
@sqlite_only
def test_the_tester_says_at_the_field_what_is_wrong(
    world: World, fields: dict[str, str], told: str
) -> None:
    page = asked(world.client, **fields)

    assert told in page.replace("&#x27;", "'")
    assert KEY not in page
    assert "aforo:v1:" not in page


def test_a_session_that_has_ended_is_not_to_be_killed(world: World) -> None:
    kill = "<summary>Kill</summary>"
    before = world.get("sessions/", state="all").count(kill)
    world.ledger.execute(
        "UPDATE session SET ended_by = 'end', ended_micros = opened_micros WHERE session_id = 's-1'"
    )

    assert before > 0
    assert world.get("sessions/", state="all").count(kill) == before - 1


def test_a_tenants_page_leads_to_its_plan(world: World) -> None:
    version = PlanVersion.objects.get(plan_id="enterprise", state="published")

    link = f'<a href="/admin/control/planversion/{version.pk}/change/">enterprise</a>'
    assert link in world.get("margins/acme/")


def test_a_session_is_killed_by_who_may(world: World) -> None:
    assert "s-1" in world.part("sessions/")
    fields = {"tenant": "globex", "session": "s-1"}

    assert viewer().post("/admin/sessions/", fields).status_code == 403
    assert world.ledger.rows("SELECT COUNT(*) FROM session WHERE ended_by = 'killed'") == [(0,)]
    response = world.client.post(
        "/admin/sessions/", {**fields, "change_reason": "it loops"}, follow=True
    )

    assert "Session s-1 of globex is killed" in response.content.decode()
    assert world.ledger.row("session", "session_id = 's-1'")["ended_by"] == "killed"
    assert "No session is like that." in world.part("sessions/")
    assert "killed" in world.part("sessions/", state="all")
    entry = AuditEntry.objects.latest("seq")
    assert (entry.kind, entry.name, entry.tenant_id) == ("session", "s-1", "globex")
    assert (entry.source, entry.reason, list(entry.after)) == ("ui", "it loops", ["kill"])


def test_an_unknown_session_is_told(world: World) -> None:
    fields = {"tenant": "globex", "session": "s-9"}
    response = world.client.post("/admin/sessions/", fields, follow=True)

    assert "There is no session s-9 of globex any more." in response.content.decode()


def test_an_alert_is_sent_again_by_who_may(world: World) -> None:
    said = world.part("deliveries/", state="gave-up")
    message_id = world.ledger.rows(
        "SELECT message_id FROM outbox JOIN delivery USING (outbox_id)"
        " WHERE gave_up_at_micros IS NOT NULL ORDER BY outbox_id DESC LIMIT 1"
    )[0][0]
    address = f"/admin/deliveries/{message_id}/"

    assert "500 Internal Server Error" in said
    assert "level changed warn L1 from none initech finance" in said
    assert "level changed warn L1 from none , guard chat-margin globex" in said
    assert viewer().post(address, {"endpoint": "finance"}).status_code == 403
    with store.change(actor="tests", source=Source.SHELL):
        WebhookEndpoint.objects.create(
            endpoint_id="others", url_kept_in="env:X", tenants=["somebody-else"]
        )
        WebhookEndpoint.objects.create(
            endpoint_id="quotas", url_kept_in="env:X", kinds=["quota.reached"]
        )
    for name in ("elsewhere", "others", "quotas"):
        wrong = world.client.post(address, {"endpoint": name}, follow=True)
        assert f"{name}: choose one of the endpoints listed." in wrong.content.decode()
    seq = AuditEntry.objects.latest("seq").seq
    world.client.post(address, {"endpoint": "finance", "change_reason": "they were down"})

    entry = AuditEntry.objects.latest("seq")
    assert (entry.seq, entry.kind, entry.name) == (seq + 1, "alert", message_id)
    assert (entry.reason, entry.after) == ("they were down", {"resend to finance": "begun"})
    page = world.part(f"deliveries/{message_id}/")
    assert "finance waiting" in page
    assert '"type": "margin.level_changed"' in page
    assert "41 ms 500 Internal Server Error" in page
    assert world.client.get("/admin/deliveries/none/").status_code == 404


def test_each_word_beside_a_field_is_of_a_column() -> None:
    columns = {
        name
        for model in apps.get_app_config("control").get_models()
        for each in model._meta.fields
        for name in (each.name, f"{model.__name__}.{each.name}")
    }

    assert {*HINTS, *LABELS} - columns == set()


def test_the_audit_shows_before_and_after_and_follows_the_chain(world: World) -> None:
    with store.change(actor="kim", source=Source.UI, reason="contract 7"):
        tenant = Tenant.objects.get(pk="acme")
        tenant.name = "Acme Inc."
        tenant.save()
    with store.change(actor="lee", source=Source.UI, reason="renewed"):
        deal = Deal.objects.create(
            tenant=Tenant.objects.get(pk="globex"),
            deal_id="renewal",
            effective_from=datetime_of(NOW),
            committed_fee_nanos=30_500_000_000,
            warn_below_bp=2_500,
        )

    said = world.part("audit/", actor="kim")
    assert "kim via admin page" in said
    assert "dana via catalog file" in world.part("audit/", source="yaml")
    assert "changed tenant acme" in said
    assert "“contract 7” 1 field Field Before After Name Acme GmbH Acme Inc." in said
    added = world.part("audit/", actor="lee")
    assert f"added deal globex/{deal.deal_id}" in added
    assert "Committed fee 30.5 " in added
    assert "Warn below 25% " in added
    assert f"Effective from {datetime_of(NOW):%Y-%m-%d %H:%M:%S} UTC" in added
    assert "1 entries from the first to the last on this page follow" in said
    assert "No change is like that." in world.part("audit/", source="rest")
    assert "'1.1.' is no date" in world.get("audit/", since="1.1.").replace("&#x27;", "'")


@sqlite_only
def test_the_audit_follows_no_chain_without_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "FOLLOWED_MAX", 2)

    assert "stand too far apart" in world.part("audit/", tenant="acme")


@sqlite_only
def test_the_audit_says_where_the_chain_is_broken(world: World) -> None:
    last = AuditEntry.objects.order_by("-seq").first()
    assert last is not None
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in cursor.fetchall():
            cursor.execute(f'DROP TRIGGER "{name}"')
        cursor.execute("UPDATE control_auditentry SET actor = 'eve' WHERE seq = %s", [last.seq])

    assert f"The chain is broken : entry {last.seq} says something else" in world.part("audit/")


@pytest.mark.parametrize("address", PAGES)
@sqlite_only
def test_a_page_says_what_is_missing_and_shows_the_rest(empty: World, address: str) -> None:
    store.apply_catalog(EXAMPLE, actor="tests")
    away = Places(
        ledger_url="sqlite:////nonexistent/ledger.db",
        redis_url="redis://127.0.0.1:1/0",
        kafka_bootstrap="",
    )
    with override_settings(AFORO_PLACES=away):
        said = empty.part(address)

    if address == "letters/":
        assert "Dead letters can't be shown : this process is not told where Kafka is" in said
        assert "Set AFORO_ADMIN_KAFKA_BOOTSTRAP" in said
    elif address not in ("audit/", "tester/"):
        assert "Not all is shown." in said
        assert re.search("there is no ledger at|127.0.0.1:1|where Kafka is", said)
    assert "--redis-url" not in said


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("overview/", "aforo-admin apply catalog.yaml puts one here"),
        ("overview/", "The ledger knows no tenant yet"),
        ("margins/", "it has one from its first call on"),
        ("interventions/", "No call like that was throttled or blocked"),
        ("prices/", "run: aforo-admin sync"),
        ("sessions/", "Show those that ended too."),
        ("deliveries/", "There was nothing to tell yet."),
    ],
)
@sqlite_only
def test_an_empty_page_says_what_to_do(empty: World, address: str, told: str) -> None:
    assert told in empty.part(address)


@pytest.mark.parametrize("address", PAGES)
@sqlite_only
def test_pages_are_for_whom_may_see_them(world: World, address: str) -> None:
    assert viewer().get(f"/admin/{address}").status_code == 200
    assert client_of("nobody", permissions=()).get(f"/admin/{address}").status_code == 403
    stranger = Client().get(f"/admin/{address}")
    assert (stranger.status_code, stranger.headers["Location"]) == (
        302,
        f"/admin/login/?next={quote(f'/admin/{address}')}",
    )
    assert world.client.get(f"/admin/{address}").headers["Cache-Control"].startswith("max-age=0")


@pytest.mark.parametrize("address", PAGES)
@sqlite_only
def test_pages_have_no_style_or_script_of_their_own_and_ask_nobody_else(
    world: World, address: str
) -> None:
    page = world.get(address)
    asking = page[page.index('id="content"') : page.index('id="live"')]
    part = world.client.get(f"/admin/{address}", headers={FRAGMENT: "1"}).content.decode()

    for ours in (asking, part):
        assert not re.search(r"\sstyle=|<style|<script|\son[a-z]+=", ours)
    for target in re.findall(r'(?:href|src|action)="([^"]*)"', page):
        assert target.startswith(("/", "?", "#")) or not target, target


@sqlite_only
def test_a_part_is_renewed_without_its_frame(world: World) -> None:
    part = world.client.get("/admin/overview/", headers={FRAGMENT: "1"}).content.decode()

    assert "Tenants by level" in part
    assert "<html" not in part
    assert 'data-every-s="5"' in world.get("overview/")


@sqlite_only
def test_a_process_that_was_told_no_places_names_the_settings(world: World) -> None:
    with override_settings(AFORO_PLACES=replace(world.places, ledger_url="", redis_url="")):
        said = world.part("overview/")

    assert "set AFORO_ADMIN_LEDGER_URL" in said
    assert "set AFORO_ADMIN_REDIS_URL" in said
    assert world.places == settings.AFORO_PLACES
