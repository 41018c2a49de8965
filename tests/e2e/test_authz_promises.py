"""What operators and tenants are promised, one by one, of a real process."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from aforo_authz.domain.access import CredentialKind, Level
from aforo_authz.domain.features import Rule
from aforo_authz.domain.quotas import WindowKind, window_of
from lab.ports import free_port
from lab.servers import ROOT, RedisServer, eventually, python_module
from tests.authz_redis import ReadModel
from tests.authz_requests import Request, by_xds_protos
from tests.authz_samples import make_credential, make_guard, make_margin, make_policy, make_quota
from tests.e2e.authz_lab import KEY, Client, fill, metadata_of, ready, running

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FRESH = {"AFORO_AUTHZ_STALE_MAX_S": "1000000000"}  # The samples' margins are of a fixed day.
MONTH = WindowKind.MONTH


@pytest.fixture
def model(redis_url: str) -> Iterator[ReadModel]:
    model = fill(redis_url)
    yield model
    model.close()


def month_s(model: ReadModel) -> int:
    """Return when this month began, by the clock of Redis."""
    seconds, micros = model.redis.time()
    now_micros = seconds * 1_000_000 + micros
    return window_of(MONTH, now_micros=now_micros, period_micros=(0, 1, 2)).start_s


def counters(model: ReadModel) -> dict[str, int]:
    """Return the counters of quotas, by quota."""
    found = {}
    for key in model.redis.scan_iter("aforo:quota:v1:*"):
        value = model.redis.get(key)
        assert isinstance(value, bytes)
        found[key.decode().split(":")[4]] = int(value)
    return found


def headers_of(client: Client) -> dict[str, str]:
    """Return what is added to the caller's response."""
    response = client.check()
    told = response.ok_response.response_headers_to_add or response.denied_response.headers
    return {option.header.key: option.header.value for option in told}


# Quotas


async def test_a_raised_limit_counts_at_once_and_so_does_a_lowered_one(
    model: ReadModel, redis_url: str
) -> None:
    def limit(units: int) -> None:
        model.put_policy(make_policy(make_quota(limit_units=units, window=MONTH)))

    limit(2)
    with running(redis_url) as (_, client):
        await ready(client)
        assert [client.reason() for _ in range(4)] == ["allowed"] * 2 + ["quota_exceeded"] * 2

        limit(4)
        await eventually(lambda: client.reason() == "allowed")
        assert [client.reason() for _ in range(2)] == ["allowed", "quota_exceeded"]
        assert counters(model) == {"calls": 4}

        limit(3)
        await eventually(lambda: "q=3;" in headers_of(client)["ratelimit-policy"])
        assert client.reason() == "quota_exceeded"
        assert counters(model) == {"calls": 4}


async def test_several_quotas_are_reserved_all_or_none_with_the_routes_weight(
    model: ReadModel, redis_url: str
) -> None:
    model.put_policy(
        make_policy(
            make_quota("wide", limit_units=100, window=MONTH),
            make_quota("narrow", limit_units=7, window=WindowKind.BILLING_PERIOD),
            make_quota("others", limit_units=0, window=MONTH, features=["images"]),
        )
    )
    model.put_rules(
        [Rule(methods=frozenset(), path_template="/v1/**", features=("chat",), weight_units=3)]
    )
    with running(redis_url) as (_, client):
        await ready(client)

        assert [client.reason() for _ in range(4)] == ["allowed"] * 2 + ["quota_exceeded"] * 2

        assert counters(model) == {"wide": 6, "narrow": 6}
        assert headers_of(client)["ratelimit"].startswith('"narrow";r=1;')


async def test_a_soft_quota_lets_pass_with_a_header_and_goes_on_counting(
    model: ReadModel, redis_url: str
) -> None:
    model.put_policy(make_policy(make_quota("soft", limit_units=1, window=MONTH, soft=True)))
    with running(redis_url) as (_, client):
        await ready(client)

        assert "x-aforo-quota-exceeded" not in headers_of(client)
        assert headers_of(client)["x-aforo-quota-exceeded"] == "soft"
        assert client.reason() == "allowed"
        assert counters(model) == {"soft": 3}


@pytest.mark.parametrize("meter", ["llm.output_tokens", "bytes.response"])
async def test_a_quota_that_is_metered_afterwards_follows_the_consumers_figures(
    model: ReadModel, redis_url: str, meter: str
) -> None:
    model.put_policy(
        make_policy(
            make_quota("metered", meter=meter, limit_units=1000, window=MONTH),
            make_quota("calls", limit_units=100, window=MONTH),
        )
    )
    start_s = month_s(model)

    def used(units: int, *, of_s: int = start_s) -> None:
        model.put_margin(
            "acme", make_margin(period_end_micros=None, used={"metered": (of_s, units)})
        )

    with running(redis_url, **FRESH) as (_, client):
        await ready(client)
        assert client.reason() == "allowed"  # Nothing is known of the usage yet.
        used(999)
        await eventually(lambda: "r=1;" in headers_of(client)["ratelimit"])
        used(1000)
        await eventually(lambda: client.reason() == "quota_exceeded")
        before = counters(model)
        assert client.reason() == "quota_exceeded"
        assert counters(model) == before  # A refused call is not counted elsewhere either.

        used(1000, of_s=start_s - 86_400)  # Of another window.
        await eventually(lambda: client.reason() == "allowed")


async def test_a_quota_on_cost_refuses_and_tells_no_figure(
    model: ReadModel, redis_url: str
) -> None:
    model.put_policy(make_policy(make_quota("cost", meter="money.cogs", limit_units=987_654_321)))
    day_s = model.redis.time()[0] // 86_400 * 86_400
    with running(redis_url, **FRESH) as (_, client):
        await ready(client)
        assert client.reason() == "allowed"
        used = {"cost": (day_s, 987_654_321)}
        model.put_margin("acme", make_margin(period_end_micros=None, used=used))

        await eventually(lambda: client.reason() == "quota_exceeded")
        denied = client.check().denied_response
        assert "retry-after" in {one.header.key for one in denied.headers}
        assert "98765" not in str(denied)


# Guards


async def test_a_guard_refuses_the_calls_that_it_concerns_and_no_others(
    model: ReadModel, redis_url: str
) -> None:
    model.put_rules(
        [
            Rule(methods=frozenset(), path_template="/v1/search", features=("search",)),
            Rule(methods=frozenset(), path_template="/v1/**", features=("chat",)),
        ]
    )
    blocked = make_margin(Level.WARN, make_guard(Level.BLOCK), period_end_micros=None)
    with running(redis_url, **FRESH) as (authz, client):
        await ready(client)
        assert client.reason() == "allowed"
        model.put_margin("acme", blocked)
        await eventually(lambda: client.reason() == "margin_limit_exceeded")

        assert metadata_of(client.check(path="/v1/search"))["reason"] == "allowed"
        assert "chat-margin" not in str(client.check().denied_response)
        refusals = [line for line in authz.logged() if line.get("decision") == "block"]
        assert {(line["guard"], line["margin_level"]) for line in refusals} == {
            ("chat-margin", "block")
        }

        model.put_margin("acme", make_margin(Level.WARN, period_end_micros=None))
        await eventually(lambda: client.reason() == "allowed")


# Identity


async def test_a_claim_of_the_configured_path_and_a_spiffe_id_identify(
    model: ReadModel, redis_url: str
) -> None:
    spiffe, subject = "spiffe://example.org/ns/prod/sa/acme", "acme|42"
    model.put_credential(f"jwt\0{subject}", make_credential(kind=CredentialKind.JWT_SUBJECT))
    model.put_credential(f"certificate\0{spiffe}", make_credential(kind=CredentialKind.CERTIFICATE))
    settings = {
        "AFORO_AUTHZ_JWT_CLAIM_PATH": '["payload", "https://example.org/tenant", "id"]',
        "AFORO_AUTHZ_PEER_CERTIFICATE": "true",
    }
    claims = {"payload": {"https://example.org/tenant": {"id": subject}, "sub": "other"}}
    with running(redis_url, **settings) as (_, client):
        await ready(client)

        def reason(request: Request) -> str:
            answered = client.ask(by_xds_protos(request))
            return metadata_of(answered)["reason"]

        assert reason(Request(jwt_metadata=claims)) == "allowed"
        assert reason(Request(jwt_metadata={"payload": {"sub": subject}})) == "unauthenticated"
        assert reason(Request(principal=spiffe)) == "allowed"
        assert reason(Request(principal=spiffe + "2")) == "unknown_credential"
        # What names one way of showing it is no secret for another.
        assert reason(Request(headers={"x-api-key": spiffe})) == "unknown_credential"
        assert reason(Request(principal=KEY)) == "unknown_credential"


# What is told


async def test_the_id_of_an_answer_leads_to_its_line_in_the_log(
    model: ReadModel, redis_url: str
) -> None:
    model.put_policy(make_policy(make_quota(limit_units=0, window=MONTH)))
    with running(redis_url) as (authz, client):
        await ready(client)
        decision_id = headers_of(client)["x-aforo-decision-id"]

        told = await asyncio.to_thread(
            subprocess.check_output,
            [
                *(sys.executable, "-m", "aforo_authz", "explain"),
                *("--decision-id", decision_id, "--log", str(authz.log_path)),
            ],
            text=True,
            cwd=ROOT,
            timeout=60,
        )

        lines = dict(line.split(maxsplit=1) for line in told.splitlines() if " " in line.strip())
        assert lines["reason"] == "quota_exceeded"
        assert lines["decision_id"] == decision_id
        assert lines["tenant"] == "acme"


async def test_decisions_are_in_redis_within_seconds_and_the_last_ones_when_it_ends(
    model: ReadModel, redis_url: str
) -> None:
    def totals() -> dict[str, int]:
        found: dict[str, int] = {}
        for key in model.redis.scan_iter("aforo:decisions:v1:*:*"):
            for field, count in model.redis.hgetall(key).items():
                name = field.decode() if isinstance(field, bytes) else field
                found[name] = found.get(name, 0) + int(count)
        return found

    with running(redis_url) as (authz, client):
        await ready(client)
        client.check()
        client.check({"x-api-key": "guessed"})
        await eventually(lambda: totals() == {"acme|allow|chat": 1, "?|block|chat": 1})

        client.check()
        assert authz.stop() == 0
        assert totals()["acme|allow|chat"] == 2


async def test_what_is_stale_is_told_to_the_upstream_and_to_the_metrics(redis_url: str) -> None:
    assert redis_url
    with RedisServer() as server:
        model = fill(server.url)
        with running(server.url) as (authz, client):
            await ready(client)
            client.check()
            assert "aforo_authz_cache_stale 0.0" in authz.page("/metrics").decode()
            assert "aforo_authz_cache_hits_total" in authz.page("/metrics").decode()
            server.kill()
            await eventually(lambda: metadata_of(client.check()).get("stale") == "true")

            upstream = {o.header.key: o.header.value for o in client.check().ok_response.headers}
            assert upstream["x-aforo-stale"] == "true"
            page = authz.page("/metrics").decode()
            assert "aforo_authz_cache_stale 1.0" in page
            assert "aforo_authz_stale_decisions_total 0.0" not in page
            assert 'redis_failures_total{failure="lost",purpose="reserve"}' in page
        model.close()


def test_a_log_that_nobody_takes_any_more_stops_no_decision(
    model: ReadModel, redis_url: str
) -> None:
    assert model.redis.ping()
    port = free_port()
    env = {"AFORO_AUTHZ_LISTEN": f"127.0.0.1:{port}", "AFORO_AUTHZ_REDIS_URL": redis_url}
    program = python_module("authz", "aforo_authz", "serve", env=env)
    reading, writing = os.pipe()
    process = subprocess.Popen(
        program.command, env={**os.environ, **env}, stdout=writing, stderr=writing, cwd=ROOT
    )
    os.close(writing)
    client = Client(f"127.0.0.1:{port}")
    try:
        with contextlib.closing(os.fdopen(reading, "rb")) as log, client.channel:
            while json.loads(log.readline())["event"] != "serving":
                pass
            while client.reason() != "allowed":
                time.sleep(0.05)
            log.close()

            # Each of these has a line, which can't be written.
            assert [client.reason({"x-api-key": "guessed"}) for _ in range(5)] == [
                "unknown_credential"
            ] * 5
            assert client.reason() == "allowed"
    finally:
        process.terminate()
        assert process.wait(30.0) == 0
