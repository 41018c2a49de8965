"""aforo-admin doctor at a Redis of several servers, and with the users of ops/redis."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from aforo_admin.domain.diagnosis import Severity
from lab.redis_topologies import ClusterServers, Node, SentinelServers
from lab.servers import HANG_S
from tests.contract.doctor_lab import assert_told, doctor, document_of, faults, found
from tests.contract.test_doctor_redis import WELL, leave_marks, look
from tests.redis_users import guarded_redis, topology_users, url_of

pytestmark = [pytest.mark.contract, pytest.mark.slow]


def well(nodes: list[Node]) -> None:
    for node in nodes:
        with node.client() as client:
            client.config_set(*WELL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers(replicas=True) as servers:
        yield servers


async def test_each_primary_of_a_cluster_is_looked_at(cluster: ClusterServers) -> None:
    names = [f"127.0.0.1:{node.port}" for node in cluster.primaries]
    seen = await look(cluster.url)

    for name in names:
        assert found(seen, f"{name}: Valkey ").severity is Severity.OK
        assert_told(found(seen, f"{name}: the user default needs no password"), Severity.WARNING)
    assert seen.versions["redis"].startswith("Valkey ")
    assert "," not in seen.versions["redis"]
    assert {clock.part for clock in seen.clocks} == {f"redis {name}" for name in names}
    assert found(seen, "policies can be written").severity is Severity.OK


@pytest.mark.parametrize("number", range(3))
async def test_the_one_primary_that_evicts_is_named(cluster: ClusterServers, number: int) -> None:
    well([*cluster.primaries])
    ill = cluster.primaries[number]
    with ill.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        seen = await look(cluster.url)
        client.config_set("maxmemory-policy", "noeviction")

    assert_told(
        found(seen, f"127.0.0.1:{ill.port}: maxmemory-policy is allkeys-lru"), Severity.FAULT
    )
    assert "maxmemory-policy is allkeys-lru" not in str(faults(await look(cluster.url)))


def test_a_cluster_that_lacks_a_primary_is_a_fault() -> None:
    with ClusterServers() as servers:
        servers.primaries[1].kill()
        # As a process: the client leaves connections open to those that are still there.
        done = doctor("--json", env={"AFORO_ADMIN_REDIS_URL": servers.url})

    findings = document_of(done)["findings"]
    assert any("can't be used" in each["what"] for each in findings), findings
    assert done.returncode == 1


async def test_a_cluster_is_looked_at_with_the_rights_of_ops(tmp_path: Path) -> None:
    with ClusterServers(users=topology_users(tmp_path)) as servers:
        hosts = servers.url.partition("//")[2]
        url = url_of("aforo-reader", tmp_path, hosts, scheme="redis-cluster")
        seen = await look(url)

        assert faults(seen) == ["no sync has completed: aforo:v1:sync is not there"]
        assert len(seen.clocks) == len(servers.primaries)
        assert "needs no password" not in str(seen.findings)


async def test_sentinels_lead_to_the_primary_and_to_the_next_one() -> None:
    with SentinelServers() as servers:
        well([servers.primary, servers.replica])
        with servers.primary.client() as client:
            leave_marks(client, age_s=1)
            client.wait(1, 5000)
        assert faults(await look(servers.url)) == []

        servers.fail_over_soon()
        servers.primary.kill()
        async with asyncio.timeout(HANG_S):
            while faults(await look(servers.url)):
                continue
        unknown = servers.url.replace("service=main", "service=other")
        assert_told(found(await look(unknown), "No master found for 'other'"), Severity.FAULT)


async def test_each_user_of_ops_is_told_what_it_may_not_and_of_no_fault(tmp_path: Path) -> None:
    with guarded_redis(tmp_path) as (server, operator):
        operator.config_set(*WELL)
        leave_marks(operator, age_s=1)
        hosts = f"127.0.0.1:{server.port}/0"
        sync, reader = [
            await look(url_of(user, tmp_path, hosts)) for user in ("aforo-sync", "aforo-reader")
        ]

        assert (faults(sync), faults(reader)) == ([], [])
        assert found(sync, "policies can be written").severity is Severity.OK
        assert found(reader, "may not write policies").severity is Severity.SKIPPED
        assert found(reader, "Valkey ").severity is Severity.OK
