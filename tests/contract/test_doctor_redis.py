"""aforo-admin doctor at a real Redis, each fault really made."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py

from aforo_admin import settings
from aforo_admin.doctor import redis as redis_look
from aforo_admin.domain.diagnosis import Seen, Severity
from aforo_proto.margin_pb2 import ConsumeState
from aforo_proto.policy_pb2 import SyncState
from lab.redis_topologies import SentinelServers
from lab.servers import RedisServer, eventually
from tests.contract.doctor_lab import assert_told, faults, found

pytestmark = pytest.mark.contract

MIB = 1 << 20
WELL = ("maxmemory", str(1 << 30))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of the test's own, as production should have it, with what a sync leaves."""
    with RedisServer() as started:
        with redis_py.Redis.from_url(started.url) as client:
            client.config_set(*WELL)
            leave_marks(client, age_s=1)
        yield started


def leave_marks(client: redis_py.Redis, *, age_s: int) -> None:
    at_micros = (time.time_ns() // 1000) - age_s * 1_000_000
    state = SyncState(catalog_version="v", completed_at_micros=at_micros, tenants=1)
    client.set("aforo:v1:sync", state.SerializeToString())
    client.set("aforo:v1:consumed:0", ConsumeState(as_of_micros=at_micros).SerializeToString())


async def look(url: str, timeout_ms: int = 3000) -> Seen:
    chosen = settings.RedisSettings(redis_url=url, redis_timeout_ms=timeout_ms)
    return await redis_look.look(chosen, sync_interval_s=30)


async def test_a_redis_as_it_should_be_has_no_fault_and_tells_its_version_and_time(
    server: RedisServer,
) -> None:
    seen = await look(server.url)

    assert faults(seen) == []
    assert seen.versions["redis"].startswith("Valkey ")
    (clock,) = seen.clocks
    assert abs(clock.ahead_micros) <= clock.unsure_micros + 1000
    assert found(seen, "policies can be written").severity is Severity.OK
    assert set(seen.confirmed) == {0}


async def test_looking_leaves_nothing_behind(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        before = sorted(client.keys())
        await look(server.url)

        assert sorted(client.keys()) == before


async def test_one_that_evicts_is_a_fault(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")

    assert_told(found(await look(server.url), "maxmemory-policy is allkeys-lru"), Severity.FAULT)


async def test_one_that_has_evicted_is_told_of_afterwards(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", client.info("memory")["used_memory"] + MIB)
        for number in range(40):
            client.set(f"filler:{number}", b"x" * 100_000)
        client.config_set("maxmemory", 1 << 30)
        client.config_set("maxmemory-policy", "noeviction")
        leave_marks(client, age_s=0)

    assert_told(found(await look(server.url), "for want of memory"), Severity.WARNING)


async def test_one_that_is_nearly_full_is_a_warning(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        for number in range(400):  # Small ones: a buffer for large ones would come and go.
            client.set(f"filler:{number}", b"x" * 100_000)
        client.config_set("maxmemory", client.info("memory")["used_memory"] * 100 // 95)

    assert_told(found(await look(server.url), "% of maxmemory are used"), Severity.WARNING)


async def test_one_without_a_bound_is_a_warning(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 0)

    assert_told(found(await look(server.url), "maxmemory is not set"), Severity.WARNING)


async def test_one_that_cannot_save_is_a_fault(tmp_path: Path) -> None:
    server = RedisServer()
    server.command += ["--dir", str(tmp_path), "--dbfilename", "dump.rdb"]
    with server, redis_py.Redis.from_url(server.url) as client:
        (tmp_path / "dump.rdb").mkdir()  # Where its file should go.
        client.bgsave()
        await eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")

        assert_told(found(await look(server.url), "rdb_last_bgsave_status"), Severity.FAULT)


async def test_a_replica_takes_no_policies() -> None:
    with SentinelServers() as servers:
        seen = await look(f"redis://127.0.0.1:{servers.replica.port}/0")

    assert_told(found(seen, "it is a replica"), Severity.FAULT)
    assert_told(found(seen, "policies can't be written"), Severity.FAULT)


async def test_a_user_without_rights_is_told_which(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        client.acl_setuser("reader", enabled=True, passwords=["+s3cr3t"], reset=True)
        client.execute_command("ACL", "SETUSER", "reader", "~aforo:v1:*", "+get", "+ping")
    seen = await look(server.url.replace("//", "//reader:s3cr3t@"))

    assert found(seen, "may not ask for INFO").severity is Severity.SKIPPED
    assert found(seen, "may not ask for TIME").severity is Severity.SKIPPED
    assert found(seen, "may not write policies").severity is Severity.SKIPPED
    assert "needs no password" not in str(seen.findings)


async def test_a_user_that_may_not_read_is_a_fault(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "other", "on", ">s3cr3t", "~x:*", "+@all")
    seen = await look(server.url.replace("//", "//other:s3cr3t@"))

    assert_told(found(seen, "may not read aforo:v1:*"), Severity.FAULT)


async def test_a_wrong_password_is_a_fault_that_does_not_tell_it(server: RedisServer) -> None:
    seen = await look(server.url.replace("//", "//nobody:wr0ng-one@"))

    assert_told(found(seen, "does not know this user"), Severity.FAULT)
    assert "wr0ng-one" not in str(seen.findings)


async def test_a_default_user_without_a_password_is_a_warning(server: RedisServer) -> None:
    assert_told(found(await look(server.url), "needs no password"), Severity.WARNING)

    with redis_py.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "default", ">s3cr3t", "resetpass", ">s3cr3t")
    seen = await look(server.url.replace("//", "//:s3cr3t@"))

    assert "needs no password" not in str(seen.findings)


async def test_an_emptied_redis_has_no_sync_and_no_consume(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        client.flushall()
    seen = await look(server.url)

    assert_told(found(seen, "no sync has completed"), Severity.FAULT)
    assert_told(found(seen, "until when usage is in the margins"), Severity.WARNING)


async def test_an_old_sync_and_a_consume_that_stands_still_are_faults(server: RedisServer) -> None:
    with redis_py.Redis.from_url(server.url) as client:
        leave_marks(client, age_s=100)
    seen = await look(server.url)

    told = found(seen, "the last sync completed ")
    assert_told(told, Severity.FAULT)
    assert re.search(r"completed 1\d\d s ago", told.what)
    assert_told(found(seen, "margins of partitions 0 were last confirmed"), Severity.FAULT)


async def test_one_that_is_away_is_a_fault() -> None:
    seen = await look("redis://user:s3cr3t@127.0.0.1:1/0")

    assert_told(found(seen, "can't be used"), Severity.FAULT)
    assert "s3cr3t" not in str(seen.findings)


async def test_one_that_is_frozen_is_a_fault_within_its_time(server: RedisServer) -> None:
    server.freeze()
    try:
        seen = await look(server.url, timeout_ms=200)
    finally:
        server.thaw()

    assert_told(found(seen, "can't be used"), Severity.FAULT)
