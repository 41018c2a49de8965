"""A whole installation's figures for the admin's pages: catalog, ledger, Redis, and who looks."""

import asyncio
import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings
from redis.asyncio import Redis

from aforo_admin import store, sync
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.models import Credential
from aforo_admin.control.recording import Source
from aforo_admin.domain.catalog import Catalog
from aforo_admin.places import Places
from aforo_admin.read_model import ReadModel, build
from aforo_admin.screens import stores
from aforo_admin.screens.page import FRAGMENT
from aforo_authz.check import sha256_hex
from aforo_authz.domain.access import Reason
from aforo_meter.contract_messages import terms_of
from aforo_meter.domain.periods import DAY_MICROS, HOUR_MICROS, PeriodMicros, datetime_of
from aforo_meter.domain.rating import Measured, Rated
from aforo_meter.domain.sessions import Boundary, Sighting
from aforo_meter.domain.terms import Terms
from aforo_meter.domain.usage import API_CALLS, LLM_INPUT, LLM_OUTPUT, Outcome
from aforo_meter.endpoints import Endpoint
from aforo_meter.ledger import Watch
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.outbox import Result
from aforo_meter.outbox_sql import SqlOutbox
from aforo_proto import margin_pb2
from lab.servers import ROOT
from tests.contract.ledger_lab import DOLLAR, UNIT, batch, price, used, watched
from tests.contract.ledgers import AuditedLedger, InFiles, OnServer

NOW = 1_795_176_000_000_000  # 2026-11-20 12:00
KEY = "afk_only-for-tests-0123456789"


def _with_key(catalog: Catalog) -> Catalog:
    """Give initech a key that the tests know."""
    initech = catalog.tenants["initech"]
    (credential,) = initech.credentials
    known = replace(credential, identity=sha256_hex(KEY))
    tenants = {**catalog.tenants, "initech": replace(initech, credentials=(known,))}
    return replace(catalog, tenants=tenants)


EXAMPLE = _with_key(read_file(ROOT / "catalog.example.yaml"))
PRICES = (
    replace(price("in", nanos=5 * DOLLAR, meter=LLM_INPUT), per_units=1_000_000),
    replace(price("out", nanos=15 * DOLLAR, meter=LLM_OUTPUT), per_units=1_000_000),
    price("call", nanos=400_000, meter=API_CALLS),
)
LOW, TOO_LOW = str(Reason.MARGIN_THROTTLE), str(Reason.MARGIN_LIMIT_EXCEEDED)
HOOK = Endpoint(endpoint_id="finance", url="https://hooks.example.com/aforo")


@dataclass(frozen=True, kw_only=True)
class World:
    """What the pages look at."""

    ledger: AuditedLedger
    redis: redis.Redis
    places: Places
    client: Client  # Of somebody who may do everything.

    def get(self, address: str, **fields: str) -> str:
        """Return a page's text."""
        response = self.client.get(f"/admin/{address}", fields)
        assert response.status_code == 200, (address, response.status_code)
        return str(response.content.decode())

    def part(self, address: str, **fields: str) -> str:
        """Return what a page's part says that renews itself: without markup, in one line."""
        response = self.client.get(f"/admin/{address}", fields, headers={FRAGMENT: "1"})
        assert response.status_code == 200, (address, response.status_code)
        return text_of(str(response.content.decode()))


@contextmanager
def empty_world(
    database: str, request: pytest.FixtureRequest, folder: Path, redis_url: str
) -> Iterator[World]:
    """Yield an installation in which nothing has happened: no catalog, no call."""
    place: InFiles | OnServer
    if database.startswith("sqlite"):
        place = InFiles(folder, request.getfixturevalue("empty_ledger"))
    else:
        place = OnServer(request.getfixturevalue("postgres_server"))
    ledger = place.new()
    places = Places(ledger_url=ledger.url, redis_url=redis_url)
    with (
        override_settings(ALLOWED_HOSTS=["testserver"], AFORO_PLACES=places),
        redis.Redis.from_url(redis_url) as client,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(stores, "now_micros", lambda: NOW)
        user = client_of("olga")
        yield World(ledger=ledger, redis=client, places=places, client=user)
    if isinstance(place, OnServer):
        place.close()


def text_of(markup: str) -> str:
    """Return what a piece of a page says, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def client_of(name: str, *, permissions: tuple[str, ...] | None = None) -> Client:
    """Return the browser of a user who has signed in; None: one who may do everything."""
    with store.change(actor="tests", source=Source.SHELL, checked=True):
        user = User.objects.create_user(name, is_staff=True, is_superuser=permissions is None)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions or ()))
    client = Client()
    client.force_login(user)
    return client


def fill(world: World) -> None:
    """Apply the example, sync it, and let its tenants use something until now."""
    store.apply_catalog(EXAMPLE, actor="dana", reason="as we begin")
    with store.change(actor="dana", source=Source.UI):
        key = Credential.objects.get(tenant_id="initech")
        key.prefix = KEY[:8]
        key.save()
    model = build(EXAMPLE, datetime_of(NOW))
    asyncio.run(_sync(world.places.redis_url, model))
    asyncio.run(_use(world.ledger.url, model))
    _publish(world)


def terms(model: ReadModel, tenant_id: str) -> Terms:
    prefix = f"aforo:v1:{{{tenant_id}}}:".encode()
    return terms_of(tenant_id, model.basis[prefix + b"contract"], model.basis[prefix + b"policy"])


def _watch(held: Terms, at_micros: int) -> Watch:
    return Watch(
        tenant_id=held.tenant_id,
        subscription_id=held.subscription_id,
        period=held.period_at(at_micros),
        revenue_nanos=held.committed_fee_nanos,
        allowance_nanos=held.allowance_nanos,
        currency="USD",
        thresholds=held.thresholds,
        guards=held.guards,
        catalog_version=held.catalog_version,
        price_book_version="b1",
        terms=held,
    )


async def _sync(redis_url: str, model: ReadModel) -> None:
    client = Redis.from_url(redis_url)
    await sync.apply(client, model, await sync.compare(client, model))
    await sync.mark_complete(client, model, datetime_of(NOW - 14_000_000))
    await client.aclose()


async def _use(ledger_url: str, model: ReadModel) -> None:
    """Write what consume would, day by day, so that levels are reached one after another.

    globex pays 500 a month: 280 in the last period, 22 a day in this one, 462 by now: throttled.
    acme pays 36,000 a year and costs 18 a day; initech has an allowance of 2, and is over it.
    """
    globex, acme, initech = (terms(model, name) for name in ("globex", "acme", "initech"))
    async with SqlLedger(ledger_url) as ledger:
        offset = 0

        async def write(events: list[Rated], at_micros: int, *held: Terms) -> None:
            nonlocal offset
            watches = watched(*(_watch(one, at_micros) for one in held))
            await ledger.apply(batch(events, at=offset, watches=watches, now_micros=at_micros))
            offset += max(1, len(events))

        before = globex.period_at(NOW).start_micros - 10 * DAY_MICROS
        await write([_tokens(globex, "before", 14_000_000, before)], before, globex)
        for day in range(20, -1, -1):
            at_micros = NOW - day * DAY_MICROS
            events = [
                _tokens(globex, f"g{day}", 1_100_000, at_micros),
                _tokens(acme, f"a{day}", 900_000, at_micros),
                *([_tokens(initech, f"i{day}", 6_000, at_micros)] if day < 18 else []),
            ]
            await write(events, at_micros, globex, acme, initech)
        await write(_last_hour(globex, initech), NOW, globex, acme, initech)
        outbox = SqlOutbox(ledger)
        await outbox.route([HOOK], now_micros=NOW)
        for due in await outbox.due(HOOK, now_micros=NOW, count_max=9):
            await outbox.claim(due, now_micros=NOW, until_micros=NOW + HOUR_MICROS)
            failed = Result(took_ms=41, status=500, error="500 Internal Server Error")
            await outbox.give_up(due, failed, now_micros=NOW)


def _tokens(held: Terms, event_id: str, units: int, at_micros: int) -> Rated:
    """Return ten calls that brought so many tokens in, and as many out: 20 dollars a million."""
    measures = (
        Measured(LLM_INPUT, units * UNIT),
        Measured(LLM_OUTPUT, units * UNIT),
        Measured(API_CALLS, 10 * UNIT),
    )
    return _used(held, event_id, 1, at_micros, measures=measures, model="gpt-4o")


def _last_hour(globex: Terms, initech: Terms) -> list[Rated]:
    at_micros = NOW - 30 * 60_000_000
    step = Sighting("s-1", Boundary.STEP, "AI_AGENT", "helper", at_micros)
    done = Sighting("s-2", Boundary.END, "AI_AGENT", "helper", at_micros)
    return [
        _used(globex, "s1", 5, at_micros, sighting=step),
        _used(globex, "s2", 5, at_micros, sighting=done),
        _used(globex, "u1", 40, at_micros, prices=(), meter="gpu.ms"),
        *(
            _used(globex, f"t{number}", 0, at_micros, outcome=Outcome.THROTTLE, reason=LOW)
            for number in range(4)
        ),
        *(
            _used(initech, f"b{number}", 0, at_micros, outcome=Outcome.BLOCK, reason=TOO_LOW)
            for number in range(7)
        ),
    ]


def _used(held: Terms, event_id: str, units: int, at_micros: int, **more: Any) -> Rated:  # noqa: ANN401
    usual: dict[str, Any] = {
        "prices": PRICES,
        "tenant": held.tenant_id,
        "subscription": held.subscription_id,
        "period": held.period_at(at_micros),
        "at_micros": at_micros,
        "features": ("chat",),
        "provider": "openai",
    }
    return used(event_id, units, **usual | more)


def _publish(world: World) -> None:
    """Write what consume publishes of globex."""
    margin = margin_pb2.Margin(
        tenant_id="globex",
        level=margin_pb2.LEVEL_THROTTLE,
        as_of_micros=NOW - 60_000_000,
        partition=3,
        quota_usages=[
            margin_pb2.QuotaUsage(
                quota_id="output-tokens",
                window_start_micros=period_of("globex").start_micros,
                used_units=23_100_000,
            )
        ],
    )
    world.redis.set("aforo:v1:{globex}:margin", margin.SerializeToString())
    beat = margin_pb2.ConsumeState(as_of_micros=NOW - 1_000_000)
    world.redis.set("aforo:v1:consumed:3", beat.SerializeToString())


def period_of(tenant_id: str) -> PeriodMicros:
    return terms(build(EXAMPLE, datetime_of(NOW)), tenant_id).period_at(NOW)
