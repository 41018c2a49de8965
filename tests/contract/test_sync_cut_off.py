"""Wherever sync is cut off, between whichever catalogs: no caller is ever half known."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError as CutOffError

from aforo_admin import sync
from aforo_admin.domain.catalog import Catalog
from aforo_admin.read_model import (
    CREDENTIAL_PREFIX,
    SYNC_KEY,
    ReadModel,
    build,
    build_tenants,
    tenant_key,
)
from aforo_proto.policy_pb2 import Credential
from tests.catalogs import catalogs

pytestmark = [pytest.mark.contract, pytest.mark.slow]

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MANY = 10_000


class CutOff(Redis):
    """A client that is cut off after so many writes."""

    writes_left = MANY

    async def execute_command(self, *words: object, **options: object) -> object:
        if words[0] in {"MSET", "UNLINK"}:
            if self.writes_left == 0:
                raise CutOffError("cut off")
            self.writes_left -= 1
        return await super().execute_command(*words, **options)  # type: ignore[no-untyped-call]


async def full_pass(redis: Redis, model: ReadModel) -> None:
    await sync.apply(redis, model, await sync.compare(redis, model))
    await sync.mark_complete(redis, model, NOW)


async def publish(redis: Redis, before: Catalog, after: Catalog) -> None:
    """Write the tenants alone, as after a change that concerns no others."""
    touched = before.tenants.keys() | after.tenants.keys()
    model = build_tenants(after, touched, NOW)
    await sync.publish_tenants(
        redis, touched, had=sync.credential_keys(before, touched), model=model
    )


async def dump(redis: Redis) -> dict[bytes, bytes]:
    held: dict[bytes, bytes] = {}
    async for key in redis.scan_iter():
        value = await redis.get(key)
        assert isinstance(value, bytes)
        held[key] = value
    return held


def refuse_half_known(held: Mapping[bytes, bytes]) -> None:
    """Refuse a credential that leads to a tenant without policy or contract."""
    for key, value in held.items():
        if key.startswith(CREDENTIAL_PREFIX):
            tenant_id = Credential.FromString(value).tenant_id
            for name in (b"policy", b"contract"):
                assert tenant_key(tenant_id, name) in held, (key, tenant_id, name)


async def cut(url: str, before: Catalog, after: Catalog, writes: int, *, alone: bool) -> None:
    redis, cut_off = Redis.from_url(url), CutOff(connection_pool=ConnectionPool.from_url(url))
    try:
        await redis.flushdb()
        old, new = build(before, NOW, []), build(after, NOW, [])
        await full_pass(redis, old)
        begun = await dump(redis)
        cut_off.writes_left = writes
        ended = True
        try:
            await (publish(cut_off, before, after) if alone else full_pass(cut_off, new))
        except CutOffError:
            ended = False
        held = await dump(redis)

        refuse_half_known(held)
        known = build_tenants(after, before.tenants.keys() | after.tenants.keys(), NOW)
        written = known if alone else new
        values = {**written.basis, **written.credentials}
        for key, value in held.items():
            assert value in {begun.get(key), values.get(key)} or (key == SYNC_KEY and ended)
        await full_pass(redis, new)
        assert (await dump(redis)).keys() == new.keys | {SYNC_KEY}
        assert len(await sync.compare(redis, new)) == 0
    finally:
        await redis.aclose()
        await cut_off.connection_pool.aclose()


@pytest.mark.parametrize("alone", [False, True], ids=["a whole pass", "the tenants concerned"])
def test_no_caller_is_half_known_wherever_sync_ends(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    monkeypatch.setattr(sync, "KEYS_PER_COMMAND", 1)  # It can end between any two keys.

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=40)
    @given(catalogs(), catalogs(), st.integers(0, 30) | st.just(MANY))
    def end_anywhere(before: Catalog, after: Catalog, writes: int) -> None:
        asyncio.run(cut(redis_url, before, after, writes, alone=alone))

    end_anywhere()
