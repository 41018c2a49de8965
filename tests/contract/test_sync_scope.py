"""How much sync does about a change: what nobody's terms depend on costs no reading of tenants.

And a change that comes in a pass does not wait for its end.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from google.protobuf.message import Message
from redis.asyncio import Redis

from aforo_admin import audit, catalog_database, store
from aforo_admin.catalog_database import CatalogDatabase
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.models import Feature, Tenant, WebhookEndpoint
from aforo_admin.control.recording import Source
from aforo_admin.domain import catalog as parts
from aforo_admin.domain.catalog import Catalog
from aforo_admin.faults import CatalogError
from aforo_admin.following import MISSED_S, Follower, LeadLostError
from aforo_admin.read_model import build, credential_key
from aforo_admin.sync import KEYS_PER_COMMAND, compare
from aforo_proto.contract_pb2 import PriceList
from aforo_proto.policy_pb2 import Policy, SyncState
from lab.servers import ROOT

pytestmark = [pytest.mark.contract, pytest.mark.slow]

EXAMPLE = read_file(ROOT / "catalog.example.yaml")
M = TypeVar("M", bound=Message)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def source(database: str) -> CatalogDatabase:  # noqa: ARG001 - Django uses it.
    """The example in a database, read. It is looked at by this test's thread alone."""
    store.apply_catalog(EXAMPLE, actor="tests")
    held = store.load_checked()
    return CatalogDatabase(catalog=held.catalog, imported=None, seq=held.seq, _seen=held.seq)


def looked(source: CatalogDatabase) -> bool:
    with CaptureQueriesContext(connection) as queries:
        found = source._poll()
    read = [one["sql"] for one in queries if 'FROM "control_tenant"' in one["sql"]]
    # Of tenants by their names alone; of none where there is none to ask for.
    assert all("WHERE" in sql for sql in read), read
    return found


def test_a_feature_is_taken_over_without_reading_tenants(source: CatalogDatabase) -> None:
    before = source.catalog
    with store.change(actor="dana", source=Source.UI):
        Feature.objects.create(feature_id="new", title="New")

    assert looked(source)
    assert (source.touched, source.goes_beyond) == (frozenset(), True)
    assert source.catalog.features[-1].feature_id == "new"
    assert source.catalog.tenants["acme"] is before.tenants["acme"]
    assert source.seq == audit.last_seq()


def test_what_is_in_force_for_nobody_is_no_change(source: CatalogDatabase) -> None:
    before = source.catalog
    with store.change(actor="dana", source=Source.UI):
        store.new_draft("pro")
        WebhookEndpoint.objects.create(endpoint_id="hook", url_kept_in="env:HOOK")

    assert not looked(source)
    assert source.catalog == before
    assert source.seq == audit.last_seq()


def publish_and_rename() -> None:
    """Change the plan `pro`, which globex has, and acme, which has another."""
    with store.change(actor="dana", source=Source.UI) as made:
        draft: Any = store.new_draft("pro")
        draft.committed_fee_nanos = 7
        draft.save()
        store.publish(draft, made)
        tenant = Tenant.objects.get(pk="acme")
        tenant.name = "A"
        tenant.save()


def test_a_plan_s_version_and_a_tenant_s_change_are_taken_over_together(
    source: CatalogDatabase,
) -> None:
    publish_and_rename()

    assert looked(source)
    assert source.touched == {"globex", "acme"}, "globex has the plan"
    assert not source.goes_beyond
    assert source.catalog == store.load_catalog().catalog


def test_whoever_is_changed_by_name_does_not_wait_for_the_many_of_a_plan(
    source: CatalogDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_database, "TENANTS_APART_MAX", 1)

    publish_and_rename()

    assert looked(source)
    assert source.touched == {"acme"}
    assert source.goes_beyond


def test_floors_of_all_are_for_a_pass(source: CatalogDatabase) -> None:
    changed = replace(EXAMPLE, thresholds=replace(EXAMPLE.thresholds, warn_below_bp=4321))
    store.apply_catalog(changed, actor="tests")

    assert looked(source)
    assert (source.touched, source.goes_beyond) == (frozenset(), True)


def test_a_tenant_that_says_what_it_said_is_not_published(source: CatalogDatabase) -> None:
    for name in ("A", EXAMPLE.tenants["acme"].name):
        with store.change(actor="dana", source=Source.UI):
            tenant = Tenant.objects.get(pk="acme")
            tenant.name = name
            tenant.save()

    assert not looked(source)
    assert source.seq == audit.last_seq()


def test_what_tenants_would_miss_is_refused(source: CatalogDatabase) -> None:
    """Somebody has gone around the record; the next recorded change finds it."""
    with store.change(actor="dana", source=Source.UI, checked=True):
        Feature.objects.get(pk="reports").delete()

    with pytest.raises(CatalogError, match="reports"):
        looked(source)
    assert source.catalog == EXAMPLE
    assert source.fault_count > 0

    with store.change(actor="dana", source=Source.UI):
        Feature.objects.create(feature_id="reports", title="Usage reports", position=2)

    assert looked(source), "it is good again, though it says what it said"
    assert (source.fault_count, source.touched, source.goes_beyond) == (0, frozenset(), False)


@dataclass
class Fake:
    """A catalog that becomes another one at the looks that are told."""

    catalog: Catalog
    to_come: Sequence[tuple[Catalog, frozenset[str]]] = ()
    goes_beyond: bool = False
    name: str = "the test's catalog"
    fault_count: int = 0
    imported: Sequence[PriceList] | None = ()
    touched: frozenset[str] = frozenset()
    seen: list[list[int]] = field(default_factory=list)
    probe: Callable[[], Awaitable[list[int]]] | None = None  # What is seen at each look.

    async def poll(self) -> bool:
        if self.probe is not None:
            self.seen.append(await self.probe())
        if not self.to_come:
            return False
        (self.catalog, self.touched), *self.to_come = self.to_come
        return True


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


def following(redis: Redis, source: Fake, leads: Callable[[], bool] = lambda: True) -> Follower:
    """Return one that looks at the source after each command: else a pass is over before."""
    return Follower(
        redis=redis, source=source, clock=lambda: NOW, interval_s=600, look_s=0.0, leads=leads
    )


def many() -> Catalog:
    """Return a catalog whose pass takes several commands."""
    acme, globex = EXAMPLE.tenants["acme"], EXAMPLE.tenants["globex"]
    others = {
        f"t{number:04d}": replace(globex, tenant_id=f"t{number:04d}", credentials=())
        for number in range(2 * KEYS_PER_COMMAND)
    }
    return replace(EXAMPLE, tenants={"acme": acme, **others, "zeta": of("zeta", 0)})


def of(name: str, key: int) -> parts.Tenant:
    """Return a tenant whose one key has this number."""
    initech = EXAMPLE.tenants["initech"]
    (credential,) = initech.credentials
    known = replace(credential, identity=f"{key:064x}")
    return replace(initech, tenant_id=name, credentials=(known,))


def with_key(catalog: Catalog, key: int) -> Catalog:
    return replace(catalog, tenants={**catalog.tenants, "zeta": of("zeta", key)})


async def held_keys(redis: Redis) -> list[int]:
    """Return which of zeta's keys Redis knows."""
    names = [credential_key(of("zeta", number).credentials[0]) for number in range(3)]
    values = await redis.mget(names)
    return [number for number, value in enumerate(values) if value is not None]


async def message(redis: Redis, key: str, kind: type[M]) -> M:
    value = await redis.get(f"aforo:v1:{key}")
    assert isinstance(value, bytes)
    return kind.FromString(value)


async def test_a_change_in_a_pass_is_published_in_it_and_outlives_it(redis: Redis) -> None:
    """zeta's key is changed twice while a plan's new version is written for all."""
    first = many()
    source = Fake(first)
    follower = following(redis, source)
    await follower.pass_once()
    pro = replace(first.plans["pro"], features=("chat",))
    second = replace(first, plans={**first.plans, "pro": pro})
    third, fourth = with_key(second, 1), with_key(second, 2)
    source.catalog, follower.model = second, None
    source.to_come = [(third, frozenset({"zeta"})), (fourth, frozenset({"zeta"}))]
    source.probe = lambda: held_keys(redis)
    await follower.pass_once()

    assert source.seen[:2] == [[0], [1]], "each was published before the next look"
    assert set(map(tuple, source.seen[2:])) == {(2,)}, "no key that was changed came back"
    assert await held_keys(redis) == [2]
    state = await message(redis, "sync", SyncState)
    policy = await message(redis, "{zeta}:policy", Policy)
    assert state.catalog_version == follower.complete.version  # type: ignore[union-attr]
    assert dict(state.written_since) == {"zeta": policy.catalog_version}
    other = await message(redis, "{t0007}:policy", Policy)
    assert list(other.features) == ["chat"]

    await follower.pass_once()
    assert await held_keys(redis) == [2]


async def test_what_was_published_alone_is_what_a_pass_would_write(redis: Redis) -> None:
    first = many()
    source = Fake(first)
    follower = following(redis, source)
    await follower.pass_once()
    source.to_come = [(with_key(first, 1), frozenset({"zeta"}))]
    await follower.pass_once()
    assert await held_keys(redis) == [1]

    differences = await compare(redis, build(source.catalog, NOW, ()))

    assert not len(differences)


async def test_a_change_for_all_in_a_pass_is_for_the_next_one(redis: Redis) -> None:
    first = many()
    source = Fake(first)
    follower = following(redis, source)
    await follower.pass_once()
    pro = replace(first.plans["pro"], features=("chat",))
    follower.model = None
    changed = with_key(replace(first, plans={**first.plans, "pro": pro}), 1)
    source.to_come, source.goes_beyond = [(changed, frozenset({"zeta"}))], True

    await follower.pass_once()

    assert follower.again
    assert follower.model is None
    assert await held_keys(redis) == [1], "whoever was changed alone does not wait for it"
    await follower.pass_once()
    policy = await message(redis, "{t0007}:policy", Policy)
    assert list(policy.features) == ["chat"]
    assert not follower.again


async def standing_by(redis: Redis, leading: list[bool]) -> tuple[Follower, Fake]:
    """Return one that saw zeta's key change, and did not lead; Redis has the former key."""
    first = many()
    await following(redis, Fake(first)).pass_once()
    source = Fake(first, [(with_key(first, 1), frozenset({"zeta"}))])
    follower = following(redis, source, lambda: leading[0])
    await follower._look_at_source()
    assert await held_keys(redis) == [0]
    leading[0] = True
    source.probe = lambda: held_keys(redis)
    return follower, source


async def test_who_takes_over_writes_first_what_nobody_wrote_before(redis: Redis) -> None:
    """Its pass would too, after 20 s of many tenants: too long for a key that was revoked."""
    follower, source = await standing_by(redis, [False])

    await follower._try_pass()

    assert set(map(tuple, source.seen)) == {(1,)}
    assert not len(await compare(redis, build(source.catalog, NOW, ())))


async def test_what_a_leader_had_time_for_is_left_to_the_pass(redis: Redis) -> None:
    follower, _ = await standing_by(redis, [False])

    follower.missed.forget(time.monotonic() + MISSED_S)

    assert not follower.missed.seen_s
    assert not follower.missed.had


async def test_a_change_in_a_first_pass_does_not_wait_for_its_end(redis: Redis) -> None:
    first = many()
    await following(redis, Fake(first)).pass_once()
    source = Fake(first, [(with_key(first, 1), frozenset({"zeta"}))])
    source.probe = lambda: held_keys(redis)

    await following(redis, source).pass_once()

    assert source.seen[:2] == [[0], [1]]
    state = await message(redis, "sync", SyncState)
    assert set(state.written_since) == {"zeta"}


async def test_a_first_publication_keeps_what_the_former_leader_said(redis: Redis) -> None:
    follower, _ = await standing_by(redis, [False])
    before = await message(redis, "sync", SyncState)

    await follower._catch_up()

    state = await message(redis, "sync", SyncState)
    assert set(state.written_since) == {"zeta"}
    state.ClearField("written_since")
    assert state == before


@pytest.mark.parametrize("looks", range(6))
async def test_a_pass_ends_with_the_lead(redis: Redis, looks: int) -> None:
    """Another process may have written what is newer: nothing of this one comes after it."""
    first = many()
    await following(redis, Fake(first)).pass_once()
    before = await message(redis, "sync", SyncState)
    pro = replace(first.plans["pro"], features=("chat",))
    second = Fake(with_key(replace(first, plans={**first.plans, "pro": pro}), 1))
    ours = iter([True] * looks)
    follower = following(redis, second, lambda: next(ours, False))

    with pytest.raises(LeadLostError):
        await follower.pass_once()

    assert await message(redis, "sync", SyncState) == before
    await follower._try_pass()
    assert (follower.model, follower.complete, follower.synced) == (None, None, None)
