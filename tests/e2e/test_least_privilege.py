"""The closed loop where every process is a user of its own, who may do what it must and no more."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from demo.checks import until
from demo.observe import World
from demo.story import CHAT, completion
from demo.tenants import INGEST_KEY, catalog
from lab.http_client import HttpClient
from lab.kafka_java import JavaKafka
from lab.postgres import PostgresServer
from lab.servers import ROOT, Program, RedisServer, ServerStartError, scratch_dir
from lab.stack import Options, Stack
from tests.certificates import certificate
from tests.guarded_kafka import give_rights, guarded_kafka
from tests.missing import missing
from tests.redis_users import OPERATOR, login, refused, url_of, users_file

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DATABASE_PASSWORD = "s3cret-of-the-ledger"


@dataclass
class Guarded:
    world: World
    operator: Any  # redis-py's commands are half typed.


def _postgres(home: Path) -> PostgresServer:
    try:
        return PostgresServer(log_dir=home, tls=certificate(home, "postgres", "IP:127.0.0.1"))
    except ServerStartError as error:
        missing(error)


def _roles(database: PostgresServer) -> None:
    with psycopg.connect(database.url(), autocommit=True) as sql:
        sql.execute((ROOT / "ops" / "postgres" / "ledger.sql").read_bytes())
        for role in ("aforo_consume", "aforo_deliver", "aforo_ingest"):
            sql.execute(f"ALTER ROLE {role} PASSWORD '{DATABASE_PASSWORD}'".encode())


def _options(home: Path, server: RedisServer, kafka: JavaKafka, ledger: PostgresServer) -> Options:
    catalog_file = home / "catalog.yaml"
    catalog_file.write_text(catalog())

    def read_model(user: str) -> str:
        return url_of(user, home, f"127.0.0.1:{server.port}")

    def ledger_of(role: str) -> str:
        return ledger.url(login=f"{role}:{DATABASE_PASSWORD}")

    def prepare() -> None:
        give_rights(kafka)
        _roles(ledger)

    return Options(
        catalog=catalog_file,
        home=home,
        redis=server,
        kafka=kafka,
        database=ledger,
        prepare=prepare,
        patient=True,
        sync_env={"AFORO_ADMIN_REDIS_URL": read_model("aforo-sync")},
        authz_env={"AFORO_AUTHZ_REDIS_URL": read_model("aforo-authz")},
        ship_env={
            "AFORO_METER_SHIP_REDIS_URL": read_model("aforo-ship"),
            "AFORO_METER_SHIP_KAFKA_BOOTSTRAP": kafka.as_user("aforo-ship"),
        },
        ingest_env={
            "AFORO_METER_INGEST_REDIS_URL": read_model("aforo-ingest"),
            "AFORO_METER_INGEST_KAFKA_BOOTSTRAP": kafka.as_user("aforo-ingest"),
            "AFORO_METER_INGEST_LEDGER_URL": ledger_of("aforo_ingest"),
        },
        consume_env={
            "AFORO_METER_CONSUME_REDIS_URL": read_model("aforo-consume"),
            "AFORO_METER_CONSUME_KAFKA_BOOTSTRAP": kafka.as_user("aforo-consume"),
            "AFORO_METER_CONSUME_LEDGER_URL": ledger_of("aforo_consume"),
        },
        deliver_env={"AFORO_METER_DELIVER_LEDGER_URL": ledger_of("aforo_deliver")},
    )


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    home = scratch_dir("least")
    server = RedisServer(log_dir=home, acl=users_file(home))
    kafka, ledger = guarded_kafka(home), _postgres(home)
    with (
        Stack(_options(home, server, kafka, ledger)) as stack,
        login(server, OPERATOR) as operator,
    ):
        yield Guarded(World(stack), operator)


def processes(stack: Stack) -> list[Program]:
    return [stack.sync, stack.authz, *stack.ships, stack.consume, stack.ingest, stack.deliver]


async def test_everything_works_with_the_rights_of_ops_and_asks_for_no_more(
    guarded: Guarded,
) -> None:
    await usage_comes_back_as_a_decision_and_a_webhook(guarded)
    await usage_over_http_counts_once(guarded)
    await a_tenant_who_leaves_is_removed_with_its_margin(guarded)

    no_process_asked_for_more_than_it_may(guarded)
    no_secret_is_in_a_log_or_in_the_list_of_processes(guarded)


async def usage_comes_back_as_a_decision_and_a_webhook(guarded: Guarded) -> None:
    world = guarded.world
    async with world.client("acme") as client:
        answer = await client.post(CHAT, completion(10))
        assert (answer.status, answer.header("x-aforo-decision")) == (200, "allow")

        await client.post(CHAT, completion(3_000_000))
        await until(
            lambda: client.post(CHAT, completion(10)), lambda seen: seen.status == 429, "429"
        )
        messages, _ = await until(lambda: world.alerts("acme"), len, "a webhook")

    assert messages[-1]["data"]["to"] == "block"


async def usage_over_http_counts_once(guarded: Guarded) -> None:
    event = {"customerId": "initech", "metricName": "api_calls", "occurredAt": int(time.time())}
    batch = {"events": [{**event, "quantity": 5, "idempotencyKey": "once"}]}

    async def duplicates() -> int:
        answer = await client.post("/v1/ingest/batch", batch)
        assert answer.status == 202, answer.text
        return int(answer.json()["data"]["duplicates"])

    async with HttpClient(guarded.world.stack.ingest_url, api_key=INGEST_KEY) as client:
        assert await duplicates() == 0
        assert await duplicates() == 1
        await until(lambda: calls(guarded, "initech"), lambda seen: seen == 5, "5 calls")


async def calls(guarded: Guarded, tenant_id: str) -> int:
    database = guarded.world.stack.database
    assert database is not None
    query = "SELECT SUM(quantity_micros) FROM charge WHERE tenant_id = %s AND meter = 'api.calls'"
    with psycopg.connect(database.url()) as sql:
        ((micros,),) = sql.execute(query, (tenant_id,)).fetchall()
    return int(micros or 0) // 1_000_000


async def a_tenant_who_leaves_is_removed_with_its_margin(guarded: Guarded) -> None:
    keys = [f"aforo:v1:{{umbrella}}:{name}" for name in ("policy", "contract", "margin")]

    async def held() -> int:
        return int(guarded.operator.exists(*keys))

    async with guarded.world.client("umbrella") as client:
        assert (await client.get("/echo")).status == 200
    await until(held, lambda seen: seen == 3, "policy, contract and margin")

    document = yaml.safe_load(catalog())
    del document["tenants"]["umbrella"]
    path = guarded.world.stack.catalog
    path.with_suffix(".new").write_text(yaml.safe_dump(document))
    path.with_suffix(".new").replace(path)

    await until(held, lambda seen: seen == 0, "nothing of it")


def no_process_asked_for_more_than_it_may(guarded: Guarded) -> None:
    logs = "\n".join(process.log_text() for process in processes(guarded.world.stack))

    assert refused(guarded.operator) == []
    for complaint in ("ermission denied", "NOPERM", "AuthorizationFailed", "uthorization failed"):
        assert complaint not in logs


def no_secret_is_in_a_log_or_in_the_list_of_processes(guarded: Guarded) -> None:
    for process in processes(guarded.world.stack):
        title = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
        shown = process.log_text() + title
        assert "s3cret" not in shown, process.name
