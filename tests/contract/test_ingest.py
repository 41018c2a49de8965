"""Events over HTTP → charges: a running ingest, real Redis, Kafka and consumer, a tenant a test."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from aforo_proto import margin_pb2, policy_pb2
from lab.servers import HANG_S, KafkaServer, ask_tcp
from tests.conftest import KafkaAt
from tests.contract.ingest_lab import (
    INGEST,
    INSTALLATION,
    QUOTAS,
    IngestLab,
    event,
    ingest_lab,
    key_name,
)

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

PATHS = ("/v1/ingest", "/v1/ingest/batch", "/v1/ingest/async-batch", "/v1/events")

RESTARTS_MAX = 10


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[IngestLab]:
    home = tmp_path_factory.mktemp("ingest")
    async with ingest_lab(kafka_server.bootstrap, home) as made:
        yield made


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_each_endpoint_takes_its_own_shape(lab: IngestLab, prefix: str) -> None:
    tenant = lab.tenant(f"shapes{prefix.replace('/', '-')}")

    answers = [
        await lab.post(f"{prefix}/v1/ingest", event(tenant)),
        await lab.post(f"{prefix}/v1/ingest/batch", {"events": [event(tenant), event(tenant)]}),
        await lab.post(f"{prefix}/v1/ingest/async-batch", [event(tenant)]),
    ]

    assert [answer.counts for answer in answers] == [(1, 0, 0), (2, 0, 0), (1, 0, 0)]
    assert all("killedSessionIds" not in answer.data for answer in answers)
    await lab.meters_are(tenant, {"api.calls": 4})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/ingest", {"events": [event("warm-up")]}),
        ("/v1/ingest", [event("warm-up")]),
        ("/v1/ingest", "text"),
        ("/v1/ingest/batch", [event("warm-up")]),
        ("/v1/ingest/batch", {"events": []}),
        ("/v1/ingest/batch", {"events": {}}),
        ("/v1/ingest/batch", {}),
        ("/v1/ingest/batch", {"events": [event("warm-up")] * 1001}),
        ("/v1/ingest/async-batch", {"events": [event("warm-up")]}),
        ("/v1/ingest/async-batch", []),
        ("/v1/ingest/async-batch", [1] * 10_001),
        ("/v1/events", "text"),
        ("/v1/events", []),
        ("/v1/quota/check", []),
        ("/v1/quota/check", {}),
        ("/v1/quota/check", {"customerId": "acme", "estimatedQuantity": -1}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_wrong_shape_is_a_400(lab: IngestLab, path: str, body: object) -> None:
    answer = await lab.post(path, body)

    assert answer.status == 400
    assert answer.problem


async def test_a_bad_event_is_told_by_its_index_and_the_others_are_taken(lab: IngestLab) -> None:
    tenant = lab.tenant("one-bad")
    events = [event(tenant) for _ in range(10_000)]
    events[5000] = event(tenant, agentId="x" * 37)

    answer = await lab.post("/v1/ingest/async-batch", events)

    assert answer.counts == (9999, 0, 1)
    (error,) = answer.data["errors"]
    assert error["index"] == 5000
    assert error["message"].startswith("agentId: at most 36 characters")
    await lab.meters_are(tenant, {"api.calls": 9999})


async def test_every_kind_of_bad_event_is_told_in_order(lab: IngestLab) -> None:
    tenant = lab.tenant("all-bad")
    answer = await lab.batch(
        event("nobody-at-all"),
        event(tenant, metricName="flights"),
        event(tenant, quantity=0),
        event(tenant),
        event(tenant, executionStatus="FINE"),
        event(tenant, occurredAt="2019-01-01T00:00:00Z"),
        event(tenant, idempotencyKey=None),
    )

    assert answer.counts == (1, 0, 6)
    told = [(error["index"], error["message"].partition(":")[0]) for error in answer.data["errors"]]
    assert told == [
        *((0, "customerId"), (1, "metricName"), (2, "quantity"), (4, "executionStatus")),
        *((5, "occurredAt"), (6, "idempotencyKey")),
    ]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"metricName": "flights"}, 422),
        ({"customerId": "nobody-at-all"}, 422),
        ({"quantity": 0}, 400),
        ({"occurredAt": None}, 400),
    ],
    ids=str,
)
async def test_a_single_bad_event_is_an_error(
    lab: IngestLab, fields: dict[str, Any], status: int
) -> None:
    answer = await lab.post("/v1/ingest", event("warm-up", **fields))

    assert answer.status == status
    assert answer.problem.startswith(next(iter(fields)))


async def test_a_repeated_key_is_a_duplicate_wherever_it_comes_again(lab: IngestLab) -> None:
    """Within a request, in the next one, of another process, and after the ledger has it."""
    tenant = lab.tenant("repeats")
    first, second = event(tenant), event(tenant)

    assert (await lab.batch(first, first)).counts == (1, 1, 0)
    assert (await lab.batch(first, second)).counts == (1, 1, 0)
    assert (await lab.post("/v1/ingest", second)).counts == (0, 1, 0)
    await lab.meters_are(tenant, {"api.calls": 2})
    assert (await lab.batch(first, second, event(tenant))).counts == (1, 2, 0)
    await lab.meters_are(tenant, {"api.calls": 3})


async def test_a_restart_knows_by_the_ledger_what_it_accepted(lab: IngestLab) -> None:
    tenant = lab.tenant("restart")
    first = event(tenant)
    await lab.batch(first)
    await lab.meters_are(tenant, {"api.calls": 1})

    sent, found = 0, (0, 0, 0)
    while found != (1, 1, 0) and sent < RESTARTS_MAX:
        # It waits for the ledger no longer than clients should have to, and says so.
        assert not sent or "the ledger does not answer" in lab.program.log_since_start()
        lab.program.kill()
        await asyncio.to_thread(lab.program.start)
        found = (await lab.batch(first, event(tenant))).counts
        sent += 1

    assert found == (1, 1, 0)
    await lab.meters_are(tenant, {"api.calls": 1 + sent})


async def test_one_key_of_two_tenants_is_two_events(lab: IngestLab) -> None:
    names = [lab.tenant("left"), lab.tenant("right")]

    answer = await lab.batch(*(event(name, idempotencyKey="same") for name in names))

    assert answer.counts == (2, 0, 0)


async def test_a_key_may_come_as_bearer(lab: IngestLab) -> None:
    answer = await lab.post(
        "/v1/ingest",
        event("warm-up"),
        key="",
        headers={"Authorization": f"Bearer {lab.key}", "X-Tenant-Id": INSTALLATION},
    )

    assert answer.status == 202


@pytest.mark.parametrize("path", [*PATHS, "/v1/quota/check"])
async def test_no_key_is_a_401(lab: IngestLab, path: str) -> None:
    for key in ("", "guessed-key", "x" * 5000):
        answer = await lab.post(path, {}, key=key)

        assert answer.status == 401
        assert "key" in answer.problem
        assert key not in answer.problem or not key
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_scopes_are_needed_each_for_its_own(lab: IngestLab) -> None:
    lab.allow("reader", scopes=[QUOTAS])
    lab.allow("writer", scopes=[INGEST])
    question = {"customerId": "warm-up"}

    for path in PATHS:
        assert (await lab.post(path, event("warm-up"), key="reader")).status == 403
    assert (await lab.post("/v1/quota/check", question, key="writer")).status == 403
    assert (await lab.post("/v1/quota/check", question, key="reader")).status == 200


async def test_another_tenant_id_is_a_403_and_nothing_is_stored(lab: IngestLab) -> None:
    tenant = lab.tenant("confirmed")
    lab.allow("nameless", installation="")
    one = event(tenant)

    for key, said in ((lab.key, "inst-2"), ("nameless", INSTALLATION)):
        answer = await lab.post("/v1/ingest", one, key=key, headers={"X-Tenant-Id": said})
        assert answer.status == 403
        assert answer.problem
    assert (await lab.post("/v1/ingest", one)).counts == (1, 0, 0)


async def test_a_key_for_some_tenants_reports_for_no_other(lab: IngestLab) -> None:
    mine, other = lab.tenant("mine"), lab.tenant("other")
    lab.allow("partner", tenants=[mine])

    answer = await lab.batch(event(mine), event(other), key="partner")

    assert answer.counts == (1, 0, 1)
    assert "may not report" in answer.data["errors"][0]["message"]
    assert (await lab.post("/v1/ingest", event(other), key="partner")).status == 403


async def until(
    lab: IngestLab, body: dict[str, Any], *, status: int, key: str | None = None
) -> None:
    """Send an event again and again until it is answered so."""
    async with asyncio.timeout(HANG_S):
        while (await lab.post("/v1/ingest", body, key=key)).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("end", ["revoked", "expired", "deleted"])
async def test_a_key_that_ends_is_refused_soon(lab: IngestLab, end: str) -> None:
    secret = f"short-lived-{end}"
    lab.allow(secret)
    assert (await lab.post("/v1/ingest", event("warm-up"), key=secret)).status == 202

    if end == "deleted":
        lab.consume.redis.delete(key_name(secret))
    elif end == "revoked":
        lab.allow(secret, revoked=True)
    else:
        lab.allow(secret, expires_at_micros=time.time_ns() // 1000)

    await until(lab, event("warm-up"), status=401, key=secret)


async def test_a_catalogs_meters_and_aliases_become_known(lab: IngestLab) -> None:
    from aforo_proto import metering_pb2  # noqa: PLC0415 - for this test alone.

    tenant = lab.tenant("meters")
    metering = metering_pb2.Metering(
        meters=[metering_pb2.Meter(meter="seats", unit="seat", aliases=["licences"])]
    )
    lab.consume.redis.set("aforo:v1:metering", metering.SerializeToString())

    await until(lab, event(tenant, metricName="licences"), status=202)
    assert (await lab.post("/v1/ingest", event(tenant, metricName="seats"))).status == 202
    await lab.meters_are(tenant, {"seats": 2})


async def test_tokens_in_metadata_are_charged_beside_the_call(lab: IngestLab) -> None:
    tenant = lab.tenant("tokens")
    await lab.batch(
        event(
            tenant,
            productType="AI_AGENT",
            metricName="ai_agent.steps",
            agentId="a",
            sessionId="s",
            metadata={"inputTokens": 100, "outputTokens": 20, "model": "gpt-4o"},
        )
    )

    await lab.meters_are(
        tenant, {"agent.steps": 1, "llm.input_tokens": 100, "llm.output_tokens": 20}
    )
    rows = lab.consume.ledger.rows("SELECT DISTINCT model FROM charge WHERE tenant_id = ?", tenant)
    assert rows == [("gpt-4o",)]


async def test_heartbeats_are_apart_and_never_billed(lab: IngestLab) -> None:
    tenant = lab.tenant("hearts")
    beat = {"metricName": "system.session.heartbeat", "sessionId": "session-h"}

    answer = await lab.batch(
        event("system", **beat), event(tenant, **beat), event(tenant), event("nobody", **beat)
    )

    assert answer.counts == (1, 0, 1)
    await lab.meters_are(tenant, {"api.calls": 1})


def kill_session(lab: IngestLab, tenant: str, session: str) -> None:
    """Kill a session as an operator would: in the ledger."""
    lab.consume.ledger.execute(
        "INSERT INTO session VALUES (?, ?, '', '', 1, 1, NULL, 1, 0, 'killed', 1)"
        " ON CONFLICT (tenant_id, session_id) DO UPDATE SET killed_micros = 1",
        *(tenant, session),
    )


async def test_a_killed_session_is_told_to_the_key_that_uses_it_and_no_other(
    lab: IngestLab,
) -> None:
    tenant = lab.tenant("killed")
    lab.allow("another")
    agent = {"productType": "AI_AGENT", "agentId": "a", "metricName": "ai_agent.steps"}
    await lab.batch(event(tenant, sessionId="session-k", **agent))
    await lab.batch(event(tenant, sessionId="session-other", **agent), key="another")
    beat = event("system", metricName="system.session.heartbeat", sessionId="session-k")
    assert "killedSessionIds" not in (await lab.batch(beat)).data

    kill_session(lab, tenant, "session-k")

    async with asyncio.timeout(HANG_S):
        while True:
            again = beat | {"idempotencyKey": str(time.time_ns())}
            if "killedSessionIds" in (told := (await lab.batch(again)).data):
                break
            await asyncio.sleep(0.05)
    assert told["killedSessionIds"] == ["session-k"]
    assert "killedSessionIds" not in (await lab.batch(event(tenant), key="another")).data


async def test_cloudevents_come_single_in_a_batch_and_in_headers(lab: IngestLab) -> None:
    tenant = lab.tenant("clouds")
    cloud = {
        "specversion": "1.0",
        "id": "1",
        "source": "/meter",
        "type": "api_calls",
        "subject": tenant,
        "data": {"quantity": 2},
    }
    single = {"Content-Type": "application/cloudevents+json"}
    batch = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
    binary = {
        "ce-specversion": "1.0",
        "ce-id": "3",
        "ce-source": "/meter",
        "ce-type": "api_calls",
        "ce-subject": tenant,
    }

    assert (await lab.post("/v1/events", cloud, headers=single)).counts == (1, 0, 0)
    # The same source and id are the same event, whatever else is said, and however it comes.
    repeated = cloud | {"data": {"quantity": 9, "idempotencyKey": "other"}}
    events = [repeated, cloud | {"id": "2"}, cloud | {"id": "4", "specversion": "2"}]
    answer = await lab.post("/v1/events", events, headers=batch)
    assert answer.counts == (1, 1, 1)
    assert answer.data["errors"][0]["index"] == 2
    assert (await lab.post("/v1/events", {"quantity": 5}, headers=binary)).counts == (1, 0, 0)
    assert (await lab.post("/v1/events", data=b"", headers=binary)).counts == (0, 1, 0)
    await lab.meters_are(tenant, {"api.calls": 9})


async def test_a_bad_single_cloudevent_is_an_error(lab: IngestLab) -> None:
    answer = await lab.post("/v1/events", {"specversion": "1.0"})

    assert answer.status == 400
    assert answer.problem == "source: is required of a CloudEvent"


def hour_quota(limit: int, *, soft: bool = False) -> list[policy_pb2.Quota]:
    return [
        policy_pb2.Quota(
            quota_id="hourly",
            meter="api.calls",
            limit_units=limit,
            window=policy_pb2.WINDOW_HOUR,
            soft=soft,
        )
    ]


async def checked(lab: IngestLab, tenant: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    answer = await lab.post("/api/v1/quota/check", {"customerId": tenant} | fields)
    assert answer.status == 200
    return answer.data


async def test_a_key_for_some_tenants_is_told_nothing_of_the_quotas_of_others(
    lab: IngestLab,
) -> None:
    mine, other = (lab.tenant(name, quotas=hour_quota(0)) for name in ("asks", "asked"))
    lab.allow("curious", tenants=[mine], scopes=[QUOTAS])

    own, others = [
        (await lab.post("/v1/quota/check", {"customerId": name}, key="curious"))
        for name in (mine, other)
    ]

    assert (own.data["decision"], own.data["limit"]) == ("DENY", 0)
    assert (others.status, others.data["decision"], others.data["limit"]) == (200, "ALLOW", None)
    assert others.data["tierName"] is None
    assert "may not ask" in others.data["reason"]


async def test_a_quota_check_tells_what_gateway_and_ledger_have_counted(lab: IngestLab) -> None:
    tenant = lab.tenant("quota", quotas=hour_quota(100))
    hour_s = int(time.time()) // 3600 * 3600

    fresh = await checked(lab, tenant, metricName="api_calls")
    for start_s in (hour_s, hour_s + 3600):  # Should the hour end meanwhile.
        lab.consume.redis.set(f"aforo:quota:v1:{{{tenant}}}:hourly:{start_s}", 85)
    nearly = await checked(lab, tenant)
    for start_s in (hour_s, hour_s + 3600):
        usage = margin_pb2.QuotaUsage(
            quota_id="hourly", window_start_micros=start_s * 1_000_000, used_units=100
        )
        margin = margin_pb2.Margin(tenant_id=tenant, quota_usages=[usage])
        lab.consume.redis.set(f"aforo:v1:{{{tenant}}}:margin", margin.SerializeToString())
        if start_s <= time.time() < start_s + 3600:
            break
    full = await checked(lab, tenant, estimatedQuantity=2)

    assert (fresh["decision"], fresh["currentUsage"], fresh["limit"]) == ("ALLOW", 0, 100)
    assert fresh["tierName"] == "pro"
    assert (nearly["decision"], nearly["currentUsage"]) == ("WARN", 85)
    assert nearly["headers"]["X-RateLimit-Remaining"] == "15"
    assert (full["decision"], full["currentUsage"]) == ("DENY", 100)
    assert 0 < full["retryAfterMs"] <= 3_600_000
    assert int(full["headers"]["Retry-After"]) >= full["retryAfterMs"] / 1000


@pytest.mark.parametrize(
    ("tenant", "fields", "reason"),
    [
        ("nobody-at-all", {}, "no tenant"),
        ("warm-up", {"metricName": "flights"}, "no metric"),
        ("warm-up", {}, "no quota"),
    ],
)
async def test_a_quota_check_that_can_tell_nothing_allows_and_says_why(
    lab: IngestLab, tenant: str, fields: dict[str, Any], reason: str
) -> None:
    data = await checked(lab, tenant, **fields)

    assert data["decision"] == "ALLOW"
    assert data["reason"].startswith(reason)


async def test_it_describes_itself(lab: IngestLab) -> None:
    for path, kind in (("/openapi.json", "application/json"), ("/docs", "text/html")):
        async with lab.client.get(lab.url + path) as answer:
            assert answer.status == 200
            assert answer.headers["content-type"].startswith(kind)
            text = await answer.text()
    assert "customerId" in text


async def test_it_says_that_it_lives_and_is_ready(lab: IngestLab) -> None:
    for port in (lab.port, lab.metrics_port):
        for path in (b"/livez", b"/readyz"):
            asked = b"GET " + path + b" HTTP/1.0\r\n\r\n"
            answer = await asyncio.to_thread(ask_tcp, port, asked, bytes_max=64)
            assert b" 200 " in answer


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/ingest", 405), ("POST", "/", 404)]
)
async def test_what_is_not_there_is_a_problem_too(
    lab: IngestLab, method: str, path: str, status: int
) -> None:
    async with lab.client.request(method, lab.url + path) as answer:
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(await answer.read())["status"] == status


async def test_no_key_is_ever_logged(lab: IngestLab) -> None:
    await lab.post("/v1/ingest", {}, key="a-secret-that-nobody-knows")

    text = lab.program.log_text()
    for secret in (lab.key, "a-secret-that-nobody-knows"):
        assert secret not in text
        assert key_name(secret).rpartition(":")[2] not in text


async def test_what_became_of_events_is_counted(lab: IngestLab) -> None:
    tenant = lab.tenant("counted")
    before = await lab.metric("aforo_ingest_events_total")

    await lab.batch(event(tenant), event(tenant, quantity=0))

    assert await lab.metric("aforo_ingest_events_total") == before + 2
    assert await lab.metric('aforo_ingest_rejected_total{field="quantity"}') >= 0


async def test_a_late_event_is_charged_in_its_own_time(lab: IngestLab) -> None:
    tenant = lab.tenant("late")
    at_s = int(time.time()) - 3 * 86_400

    await lab.batch(event(tenant, occurredAt=at_s))

    await lab.meters_are(tenant, {"api.calls": 1})
    query = "SELECT hour_start_micros FROM charge WHERE tenant_id = ?"
    assert lab.consume.ledger.rows(query, tenant) == [(at_s // 3600 * 3_600_000_000,)]
