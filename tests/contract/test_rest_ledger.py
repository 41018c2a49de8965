"""What came of it, over REST: from a ledger that consume's own writer filled, and from Redis."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import pytest
import redis
from django.db import connection, connections
from django.test import override_settings

from aforo_admin import acts, audit, store
from aforo_admin.control.models import AuditEntry, IdempotentAnswer, WebhookEndpoint
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.control_work import entry_text
from aforo_admin.domain.catalog import COGS, Quota
from aforo_admin.places import Places
from aforo_admin.rest.entitlement_views import ENTITLEMENT
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import UNDER_WAY, UNDER_WAY_FOR
from aforo_authz.domain.quotas import WindowKind
from aforo_authz.read_model import counter_key, margin_key
from aforo_meter.completeness import Decided
from aforo_meter.completeness_sql import SqlCompleteness
from aforo_meter.database import Sql
from aforo_meter.domain.periods import HOUR_MICROS, datetime_of
from aforo_meter.domain.sessions import Session
from aforo_meter.ledger_sessions import write_session
from aforo_meter.ledger_sql import SqlLedger
from aforo_proto.margin_pb2 import LEVEL_BLOCK, Margin
from lab.servers import KafkaServer
from tests.conftest import KafkaAt
from tests.contract.answers_lab import fill
from tests.contract.ledger_lab import START
from tests.contract.ledgers import AuditedLedger
from tests.contract.outbox_lab import OutboxLab
from tests.contract.rest_lab import EXAMPLE, Api, api_of, applied, fill_redis, forget_failures
from tests.contract.test_screens_letters import put as put_letters

pytestmark = [pytest.mark.contract, pytest.mark.slow]

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def example(sqlite_database: str) -> None:  # noqa: ARG001 - Django uses it.
    forget_failures()
    applied()


@pytest.fixture
def outbox(file: AuditedLedger) -> OutboxLab:
    return OutboxLab(file)


@pytest.fixture
def places(file: AuditedLedger, redis_url: str) -> Iterator[Places]:
    found = Places(ledger_url=file.url, redis_url=redis_url)
    with override_settings(AFORO_PLACES=found):
        yield found


@pytest.fixture
def owner(places: Places) -> Api:
    """The API over a filled ledger."""
    asyncio.run(_fill(places.ledger_url))
    return api_of(Role.OWNER)


async def _fill(url: str) -> None:
    async with SqlLedger(url) as ledger:
        await fill(ledger)
        for number in range(3):
            session = Session(
                tenant_id="acme" if number < 2 else "globex",
                session_id=f"s/{number}",
                opened_micros=START,
                last_seen_micros=START + number,
            )
            await ledger.write(partial(_put, session))
        hours = (START, START + HOUR_MICROS)
        await SqlCompleteness(ledger).keep_decided(
            Decided(hour, "acme", "chat", "allow", "p1", 10) for hour in hours
        )


def _put(session: Session, sql: Sql) -> None:
    write_session(sql, session)


def test_margins_are_what_the_ledger_has_in_force(owner: Api) -> None:
    (found,) = owner.get("/margins").body["items"]

    assert (found["tenant"], found["level"]) == ("acme", "throttle")
    assert (found["revenue"], found["cogs"], found["currency"]) == ("10", "9.25", "USD")
    assert found["period_start"] == "2026-11-01"
    assert owner.get("/margins?level=none").body["items"] == []
    assert owner.get("/margins?level=odd").fields == ["level"]


def test_charges_are_told_by_period_and_line_by_line(owner: Api) -> None:
    """Lines: 3.00 and 1.50 of input, 4.00 of output, 0.75 of calls; gpu.ms has no price."""
    (period,) = owner.get("/charges?tenant=acme").body["items"]
    detail = owner.get("/charges/acme?at=2026-11-02").body

    assert (period["cogs"], period["unpriced_rows"]) == ("9.25", 1)
    assert detail["gross_margin_ratio"] == "0.0750"
    lines = {(line["meter"], line["cogs"]) for line in detail["lines"]}
    assert lines == {
        ("llm.output_tokens", "4"),
        ("llm.input_tokens", "3"),
        ("llm.input_tokens", "1.5"),
        ("api.calls", "0.75"),
        ("gpu.ms", "0"),
    }
    assert owner.get("/charges/acme?at=2020-01-01").status == 404
    assert owner.get("/charges/acme?at=yesterday").fields == ["at"]


def test_interventions_are_told_by_hour(owner: Api) -> None:
    (found,) = owner.get("/interventions?tenant=acme&outcome=block").body["items"]

    assert found["calls"] == 3


def test_lists_go_on_behind_their_last_row(owner: Api) -> None:
    first = owner.get("/sessions?limit=2").body
    second = owner.get(f"/sessions?limit=2&cursor={first['next']}").body

    assert [each["session"] for each in first["items"]] == ["s/2", "s/1"]
    assert [each["session"] for each in second["items"]] == ["s/0"]
    assert "next" not in second


def test_a_session_is_killed_by_who_may_and_recorded(owner: Api) -> None:
    wanted = {"tenant": "acme", "session": "s/1"}

    refused = api_of(Role.FINANCE).post("/sessions/kill", wanted)
    foreign = api_of(Role.OWNER, tenant="globex").post("/sessions/kill", wanted)
    unknown = owner.post("/sessions/kill", {**wanted, "session": "s/9"})
    killed = api_of(Role.DEVELOPER).post("/sessions/kill", wanted, X_Aforo_Reason="it loops")

    assert (refused.status, foreign.status, unknown.status, killed.status) == (403, 404, 404, 200)
    (ended,) = owner.get("/sessions?state=ended").body["items"]
    assert (ended["session"], ended["ended_by"]) == ("s/1", "killed")
    entry = AuditEntry.objects.latest("seq")
    assert (entry.kind, entry.name, entry.reason) == ("session", "s/1", "it loops")
    told = entry_text(entry)
    assert " via REST: changed session s/1 (it loops)\n    kill: – → begun" in told


def test_an_entry_tells_what_changed_and_nothing_else() -> None:
    held = {"author": "kim", "month": "", "name": "dearer"}
    entry = AuditEntry(
        seq=7,
        at=datetime_of(0),
        actor="kim",
        source="rest",
        kind="scenario",
        name="dearer",
        before=held,
        after={**held, "month": "2026-11"},
    )

    assert entry_text(entry).splitlines()[1:] == ["    Month: – → 2026-11"]


def test_nothing_is_done_that_the_record_can_not_tell_of(owner: Api) -> None:
    wanted = {"tenant": "acme", "session": "s/1"}
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER full BEFORE INSERT ON control_auditentry"
            " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )

    refused = owner.post("/sessions/kill", wanted)

    assert refused.status == 409  # The catalog's database refuses.
    assert owner.get("/sessions?state=ended").body["items"] == []


# Sessions that can't be written to, and can again.
IN_FILE = (
    (
        (
            "CREATE TRIGGER no_room BEFORE UPDATE ON session"
            " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        ),
    ),
    "DROP TRIGGER no_room",
)
ON_SERVER = (
    (
        (
            "CREATE FUNCTION no_room() RETURNS trigger AS"
            " 'BEGIN RAISE EXCEPTION ''the disk is full''; END' LANGUAGE plpgsql"
        ),
        "CREATE TRIGGER no_room BEFORE UPDATE ON session EXECUTE FUNCTION no_room()",
    ),
    "DROP TRIGGER no_room ON session",
)


def test_what_was_begun_and_failed_has_two_entries_and_is_done_when_asked_again(
    owner: Api, file: AuditedLedger
) -> None:
    wanted = {"tenant": "acme", "session": "s/1"}
    refuse, admit = ON_SERVER if file.url.startswith("postgresql") else IN_FILE
    for statement in refuse:
        file.execute(statement)
    refused = owner.post("/sessions/kill", wanted, Idempotency_Key="k")
    begun, failed = AuditEntry.objects.order_by("-seq")[:2][::-1]
    file.execute(admit)

    assert refused.status >= 500

    killed = owner.post("/sessions/kill", wanted, Idempotency_Key="k")
    seq = audit.last_seq()
    repeated = owner.post("/sessions/kill", wanted, Idempotency_Key="k")

    assert (begun.before, begun.after) == ({"kill": None}, {"kill": acts.BEGUN})
    assert (failed.before, failed.after) == ({"kill": acts.BEGUN}, {"kill": acts.FAILED})
    assert (killed.status, repeated.status) == (200, 200)
    assert repeated.headers["Idempotent-Replayed"] == "true"
    assert audit.last_seq() == seq
    assert len(owner.get("/sessions?state=ended").body["items"]) == 1


def put_delivered(outbox: OutboxLab, message_id: str) -> None:
    """Put an alert that endpoint `ops` has had."""
    outbox.put(message_id)
    outbox.execute(
        "INSERT INTO delivery (outbox_id, endpoint_id, tenant_id, attempts,"  # noqa: S608 - our own.
        " next_attempt_at_micros, delivered_at_micros) SELECT outbox_id, 'ops', tenant_id, 1, 0, 1"
        f" FROM outbox WHERE message_id = '{message_id}'"
    )


def test_an_alert_is_sent_again(owner: Api, outbox: OutboxLab) -> None:
    put_delivered(outbox, "msg_1")
    outbox.put("msg_2", tenant="globex")

    listed = owner.get("/alerts").body["items"]
    wanted = {"message": "msg_1", "endpoint": "ops"}
    foreign = api_of(Role.OWNER, tenant="globex").post("/alerts/resend", wanted)
    elsewhere = owner.post("/alerts/resend", {**wanted, "endpoint": "else"})
    with store.change(actor="tests", source=Source.SHELL):
        WebhookEndpoint.objects.create(endpoint_id="hook", url_kept_in="env:X", tenants=["globex"])
    globex_s = owner.post("/alerts/resend", {**wanted, "endpoint": "hook"})
    sent = owner.post("/alerts/resend", wanted)

    assert [(each["message"], each["state"]) for each in listed] == [
        ("msg_2", ""),
        ("msg_1", "delivered"),
        (listed[2]["message"], ""),  # Of the ledger's own: acme's level has changed.
    ]
    assert (foreign.status, elsewhere.fields, sent.status) == (404, ["endpoint"], 200)
    assert globex_s.fields == ["endpoint"]
    (waiting,) = owner.get("/alerts?state=waiting").body["items"]
    assert waiting["message"] == "msg_1"


def test_repeats_at_the_same_time_send_an_alert_once(owner: Api, outbox: OutboxLab) -> None:
    """Eight threads ask: one is answered, the others that it is under way, or the same."""
    put_delivered(outbox, "msg_1")
    wanted = {"message": "msg_1", "endpoint": "ops"}
    heard: list[tuple[int, str]] = []

    def send() -> None:
        try:
            said = Api(token=owner.token).post("/alerts/resend", wanted, Idempotency_Key="one")
            heard.append((said.status, said.body.get("type", "")))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    later = owner.post("/alerts/resend", wanted, Idempotency_Key="one")

    assert set(heard) <= {(200, ""), (409, "urn:aforo:problem:under-way")}
    assert (200, "") in heard
    assert (later.status, later.headers["Idempotent-Replayed"]) == (200, "true")
    assert AuditEntry.objects.filter(kind="alert", name="msg_1").count() == 1


def test_what_nobody_finished_is_done_again_after_a_minute(owner: Api, outbox: OutboxLab) -> None:
    put_delivered(outbox, "msg_1")
    wanted = {"message": "msg_1", "endpoint": "ops"}
    owner.post("/alerts/resend", wanted, Idempotency_Key="one")
    IdempotentAnswer.objects.update(status=UNDER_WAY)  # As one that was killed leaves it.
    soon = owner.post("/alerts/resend", wanted, Idempotency_Key="one")
    IdempotentAnswer.objects.update(
        made_at=datetime.now(UTC) - UNDER_WAY_FOR - timedelta(seconds=1)
    )
    later = owner.post("/alerts/resend", wanted, Idempotency_Key="one")

    assert (soon.status, later.status) == (409, 200)
    assert "Idempotent-Replayed" not in later.headers


def test_completeness_is_told_by_hour(owner: Api) -> None:
    found = owner.get("/completeness?since=2026-11-01&until=2026-11-02&limit=1").body
    rest = owner.get(f"/completeness?since=2026-11-01&until=2026-11-02&cursor={found['next']}").body

    assert found["items"] == [
        {
            "hour_start": "2026-11-01T01:00:00Z",
            "tenant": "acme",
            "decided": 10,
            "logged": 0,
            "missing": 10,
        }
    ]
    assert [each["hour_start"] for each in rest["items"]] == ["2026-11-01"]
    assert owner.get("/completeness?since=2020-01-01").status == 422


def test_completeness_of_scattered_hours_is_told_page_by_page(owner: Api, places: Places) -> None:
    """Hours that nothing was decided in are passed over, however many lie between."""
    asyncio.run(_decide(places.ledger_url, [3, 4, 30, 31, 200, 500]))
    asked = "/completeness?since=2026-11-01&until=2026-12-01"
    whole = owner.get(f"{asked}&limit=200").body
    pages = [owner.get(f"{asked}&limit=2").body]
    while "next" in pages[-1]:
        pages.append(owner.get(f"{asked}&limit=2&cursor={pages[-1]['next']}").body)

    assert [each for page in pages for each in page["items"]] == whole["items"]
    assert "next" not in whole
    assert len(whole["items"]) == 2 + 6


async def _decide(url: str, hours: Sequence[int]) -> None:
    async with SqlLedger(url) as ledger:
        await SqlCompleteness(ledger).keep_decided(
            Decided(START + hour * HOUR_MICROS, "globex", "chat", "allow", "p1", 10)
            for hour in hours
        )


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("/margins?level=bad", "none, warn, throttle, block"),
        ("/interventions?outcome=allow", "throttle, block"),
        ("/sessions?state=closed", "open, ended"),
        ("/alerts?state=sent", "waiting, delivered, gave-up"),
    ],
)
def test_an_unknown_value_of_a_filter_is_refused_with_those_there_are(
    owner: Api, asked: str, allowed: str
) -> None:
    said = owner.get(asked)

    assert (said.status, said.fields) == (422, [asked.partition("?")[2].partition("=")[0]])
    assert said.body["errors"][0]["remedy"] == f"give one of {allowed}"


def test_a_token_of_one_tenant_sees_its_rows_alone(owner: Api) -> None:
    globex = api_of(Role.VIEWER, tenant="globex")

    assert [each["session"] for each in globex.get("/sessions").body["items"]] == ["s/2"]
    assert globex.get("/margins").body["items"] == []
    assert owner.get("/margins").body["items"] != []
    assert globex.get("/charges/acme").status == 404


@pytest.fixture
def synced(redis_url: str) -> Iterator[redis.Redis]:
    """Redis as sync leaves it; there is no ledger."""
    with (
        redis.Redis.from_url(redis_url) as client,
        override_settings(AFORO_PLACES=Places(redis_url=redis_url)),
    ):
        fill_redis(client)
        yield client


def test_an_entitlement_tells_nothing_of_quotas_of_money(synced: redis.Redis) -> None:
    plan = EXAMPLE.plans["pro"]
    tight = Quota(quota_id="spend", meter=COGS, limit_units=7, window=WindowKind.DAY)
    plans = {**EXAMPLE.plans, "pro": replace(plan, quotas=(*plan.quotas, tight))}
    alone = {**EXAMPLE.plans, "pro": replace(plan, quotas=(tight,))}
    portal = api_of(Role.VIEWER, tenant="globex", scopes=(Scope.ENTITLEMENTS_READ,))

    fill_redis(synced, replace(EXAMPLE, plans=plans))
    beside = portal.get("/entitlements/globex/chat").body
    fill_redis(synced, replace(EXAMPLE, plans=alone))
    by_itself = portal.get("/entitlements/globex/chat").body

    assert beside["remaining_quota"] == 600
    assert (by_itself["remaining_quota"], by_itself["quota_reset"]) == (None, None)
    assert beside.keys() == by_itself.keys() == ENTITLEMENT["properties"].keys()


def test_an_entitlement_is_what_would_be_decided_now(synced: redis.Redis) -> None:
    api = api_of(Role.VIEWER)
    keys = sorted(synced.keys())

    before = datetime.now(UTC)
    chat = api.get("/entitlements/globex/chat")
    twice = api.get("/entitlements/globex/chat")
    reports = api.get("/entitlements/globex/reports").body

    assert chat.status == 200
    assert chat.body["allowed"] is True
    assert (chat.body["plan"], chat.body["remaining_quota"]) == ("pro", 600)
    assert chat.body["entitlements"] == ["chat", "embeddings"]
    assert datetime.fromisoformat(chat.body["quota_reset"]) > before
    assert twice.body["remaining_quota"] == 600  # Nothing was counted.
    assert sorted(synced.keys()) == keys
    assert (reports["allowed"], reports["reason"]) == (False, "feature_not_entitled")


def test_an_entitlement_counts_what_was_used(synced: redis.Redis) -> None:
    now_s = int(datetime.now(UTC).timestamp())
    for start_s in (now_s - now_s % 60, now_s - now_s % 60 + 60):  # If a minute ends meanwhile.
        synced.set(counter_key("globex", "calls-per-minute", start_s), 590)
    ten = api_of(Role.VIEWER).get("/entitlements/globex/chat").body
    for start_s in (now_s - now_s % 60, now_s - now_s % 60 + 60):
        synced.set(counter_key("globex", "calls-per-minute", start_s), 600)
    none = api_of(Role.VIEWER).get("/entitlements/globex/chat").body

    assert (ten["allowed"], ten["remaining_quota"]) == (True, 10)
    assert (none["allowed"], none["reason"], none["remaining_quota"]) == (
        False,
        "quota_exceeded",
        0,
    )


def test_an_entitlement_is_refused_below_the_floor(synced: redis.Redis) -> None:
    now_micros = int(datetime.now(UTC).timestamp() * 1_000_000)
    margin = Margin(tenant_id="acme", level=LEVEL_BLOCK, as_of_micros=now_micros)
    synced.set(margin_key("acme"), margin.SerializeToString())

    found = api_of(Role.VIEWER).get("/entitlements/acme/chat").body

    assert (found["allowed"], found["reason"]) == (False, "margin_limit_exceeded")
    assert not {"revenue", "cogs", "level"} & found.keys()


def test_a_store_that_is_away_is_said_so() -> None:
    with override_settings(AFORO_PLACES=Places(redis_url=NOWHERE)):
        away = api_of(Role.VIEWER).get("/entitlements/globex/chat")
    with override_settings(AFORO_PLACES=Places()):
        unset = api_of(Role.VIEWER).get("/margins")

    assert (away.status, away.body["type"]) == (503, "urn:aforo:problem:store-away")
    assert unset.status == 503
    assert "AFORO_ADMIN_LEDGER_URL" in unset.body["detail"]


def test_dead_letters_are_listed_the_newest_first(kafka_server: KafkaServer | KafkaAt) -> None:
    topic = f"letters-{uuid4().hex}"
    asyncio.run(put_letters(kafka_server.bootstrap, topic))
    told = Places(kafka_bootstrap=kafka_server.bootstrap, dead_letter_topic=topic)
    with override_settings(AFORO_PLACES=told):
        api = api_of(Role.VIEWER)
        found = api.get("/dead_letters").body["items"]
        one = api.get("/dead_letters?limit=1").body["items"]
        ship = api.get("/dead_letters?stage=ship").body["items"]
        foreign = api_of(Role.VIEWER, tenant="acme").get("/dead_letters")

    assert [(each["place"], each["reason"]) for each in found] == [
        ("0:2", "not JSON"),
        ("0:1", "not an entry"),
        ("0:0", "no tenant"),
    ]
    assert one == found[:1]
    assert [each["stage"] for each in ship] == ["ship"]
    assert ship[0]["retried_at"] is not None
    assert found[0]["payload"] == "ff00 1b5b324a"
    assert foreign.status == 404
