"""An installation with many tenants, for the admin's pages: catalog, Redis, a full ledger."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from redis.asyncio import Redis

from aforo_admin import store, sync
from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Catalog, Credential, Subscription
from aforo_admin.read_model import build
from aforo_authz.domain.access import CredentialKind
from aforo_meter.database import Sql, database_of
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import (
    DAY_MICROS,
    HOUR_MICROS,
    PeriodMicros,
    calendar_month,
    datetime_of,
)
from lab.servers import ROOT

MONTHS = 12
DOLLAR = 1_000_000_000
HEAVY = "t00000"  # Whose page has the most to add up.
HEAVY_KINDS = 20
ROWS_AT_ONCE = 50_000
DELIVERIES = (
    "INSERT INTO delivery (outbox_id, endpoint_id, tenant_id, attempts, next_attempt_at_micros,"
    " delivered_at_micros)"
    " SELECT outbox_id, ?, tenant_id, 1, created_at_micros, created_at_micros FROM outbox"
)
REASONS = ("quota_exceeded", "margin_limit_exceeded")


@dataclass(frozen=True, kw_only=True)
class Load:
    """How much there is."""

    tenants: int = 10_000
    hours: int = 6  # In which each tenant has used something lately.
    intervention_hours: int = 720  # In which every twentieth tenant was refused something.
    now_micros: int

    def names(self) -> Iterator[str]:
        return (f"t{number:05d}" for number in range(self.tenants))


def catalog(load: Load) -> Catalog:
    """Return the example's catalog with many tenants on its plan `pro`, billed by the month."""
    example = read_file(ROOT / "catalog.example.yaml")
    one = replace(example.tenants["globex"], margin_override=None)
    started_at = datetime(2020, 1, 1, tzinfo=UTC)
    tenants = {
        name: replace(
            one,
            tenant_id=name,
            name=name,
            credentials=(_key_of(name),),
            subscription=Subscription(
                subscription_id=f"{name}-1", plan_id="pro", started_at=started_at
            ),
        )
        for name in load.names()
    }
    return replace(example, tenants=tenants)


def _key_of(name: str) -> Credential:
    return Credential(
        credential_id="main",
        kind=CredentialKind.API_KEY,
        identity=hashlib.sha256(name.encode()).hexdigest(),
    )


def fill(load: Load, *, ledger_url: str, redis_url: str) -> None:
    """Apply the catalog to the database that Django uses, sync it, and fill the ledger."""
    made = catalog(load)
    store.apply_catalog(made, actor="bench")
    asyncio.run(_sync(redis_url, made, datetime_of(load.now_micros)))
    connection = database_of(ledger_url).connect()
    for statement, rows in _tables(load):
        for some in _chunks(rows):
            connection.transact(partial(_write, statement, some), writes=True)
    connection.transact(lambda sql: sql.execute("ANALYZE"), writes=True)
    connection.close()


def _write(statement: str, rows: list[Sequence[Any]], sql: Sql) -> None:
    sql.executemany(statement, rows)


async def _sync(redis_url: str, made: Catalog, now: datetime) -> None:
    model = build(made, now)
    redis = Redis.from_url(redis_url)
    await sync.apply(redis, model, await sync.compare(redis, model))
    await sync.mark_complete(redis, model, now)
    await redis.aclose()


def _chunks(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    some: list[Sequence[Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == ROWS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _insert(table: str, columns: str) -> str:
    marks = ", ".join("?" for _ in columns.split(","))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - our own names.


def _tables(load: Load) -> Iterator[tuple[str, Iterator[Sequence[Any]]]]:
    yield (
        _insert(
            "price",
            "price_id, meter, price_nanos, per_units, currency, effective_from_micros,"
            " tier_input_tokens_from, source, first_used_at_micros",
        ),
        iter([("p", "llm.input_tokens", 3 * DOLLAR, 1_000_000, "USD", 0, 0, "catalog", 0)]),
    )
    yield (
        _insert(
            "margin_state",
            "tenant_id, subscription_id, period_start_micros, period_end_micros, cogs_nanos,"
            " unpriced_rows, in_force, level, level_since_micros, revenue_nanos, allowance_nanos,"
            " currency, assessed_at_micros",
        ),
        _states(load),
    )
    yield (
        _insert(
            "charge",
            "tenant_id, subscription_id, period_start_micros, hour_start_micros, feature, meter,"
            " provider, model, price_id, input_tokens, tool, execution_status, quantity_micros,"
            " extra_micros, estimated_micros",
        ),
        _charges(load),
    )
    yield (
        _insert("intervention", "tenant_id, hour_start_micros, outcome, reason, count"),
        _interventions(load),
    )
    decided = "hour_start_micros, tenant_id, feature, outcome, process, decisions"
    yield _insert("decided", decided), _decided(load)
    logged = "hour_start_micros, tenant_id, feature, outcome, calls"
    yield _insert("logged", logged), ((*row[:4], row[5]) for row in _decided(load))
    yield (
        _insert(
            "session",
            "tenant_id, session_id, product, agent, opened_micros, last_seen_micros, steps,"
            " ended_by",
        ),
        _sessions(load),
    )
    message = "message_id, tenant_id, kind, payload, created_at_micros, routed_at_micros"
    yield _insert("outbox", message), _messages(load)
    # One delivery each, by the numbers that the database gave.
    yield DELIVERIES, iter([("finance",)])


def _months(now_micros: int) -> list[PeriodMicros]:
    """Return months, the running one first."""
    found = [calendar_month(now_micros)]
    while len(found) < MONTHS:
        found.append(calendar_month(found[-1].start_micros - 1))
    return found


def _states(load: Load) -> Iterator[Sequence[Any]]:
    for number, name in enumerate(load.names()):
        for back, month in enumerate(_months(load.now_micros)):
            cogs_nanos = (number * 37 % 600) * DOLLAR // (1 + back % 3)
            level = Level(min(3, max(0, (cogs_nanos // DOLLAR - 350) // 50)))
            yield (
                *(name, f"{name}-1", month.start_micros, month.end_micros, cogs_nanos, 0),
                *(int(back == 0), int(level), month.start_micros, 500 * DOLLAR, 0, "USD"),
                load.now_micros,
            )


def _charges(load: Load) -> Iterator[Sequence[Any]]:
    month = calendar_month(load.now_micros)
    last = load.now_micros // HOUR_MICROS * HOUR_MICROS
    for name in load.names():
        hours = range(month.start_micros, last, HOUR_MICROS) if name == HEAVY else ()
        for hour in hours or range(last - load.hours * HOUR_MICROS, last, HOUR_MICROS):
            for kind in range(HEAVY_KINDS if name == HEAVY else 2):
                yield (
                    *(name, f"{name}-1", month.start_micros, hour, "chat", "llm.input_tokens"),
                    *("openai", f"model-{kind}", "p" if kind or hour < last - DAY_MICROS else ""),
                    *(0, "", "", 1_000_000_000, 0, 0),
                )


def _interventions(load: Load) -> Iterator[Sequence[Any]]:
    last = load.now_micros // HOUR_MICROS * HOUR_MICROS
    for number, name in enumerate(load.names()):
        if number % 20 == 0:
            for back in range(load.intervention_hours):
                reason = REASONS[(number // 20 + back) % 2]
                yield name, last - back * HOUR_MICROS, "block", reason, 1 + back % 7


def _decided(load: Load) -> Iterator[Sequence[Any]]:
    last = load.now_micros // HOUR_MICROS * HOUR_MICROS
    for hour in (last - 2 * HOUR_MICROS, last - HOUR_MICROS):
        for name in load.names():
            for feature in ("chat", "embeddings"):
                yield hour, name, feature, "allow", "authz-1", 100


def _sessions(load: Load) -> Iterator[Sequence[Any]]:
    for number, name in enumerate(load.names()):
        at_micros = load.now_micros - number * 1_000_000
        yield name, "s-1", "AI_AGENT", "helper", at_micros, at_micros, 3, ""
        yield name, "s-2", "AI_AGENT", "helper", at_micros, at_micros, 9, "end"


def _messages(load: Load) -> Iterator[Sequence[Any]]:
    kind = "margin.level_changed"
    for number, name in enumerate(load.names()):
        payload = json.dumps({"type": kind, "data": {"tenant": name}})
        at_micros = load.now_micros - number * 1_000_000
        yield f"msg_{number}", name, kind, payload, at_micros, at_micros
