"""Redis: what it says of itself, what we may do there, and how old its values are."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from aforo_admin import redis_access, settings
from aforo_admin.doctor.http import now_micros
from aforo_admin.domain.diagnosis import SECOND_MICROS, Clock, Seen
from aforo_admin.domain.diagnosis_redis import (
    judge_consumed,
    judge_info,
    judge_sync,
    version_of,
)
from aforo_admin.read_model import PREFIX, SYNC_KEY, tenant_key
from aforo_proto.margin_pb2 import ConsumeState
from aforo_proto.policy_pb2 import SyncState

PART: Final = "redis"
CONSUMED: Final = PREFIX + b"consumed:"
PARTITIONS_MAX: Final = 1024  # Those below are asked for, in one round trip.

Ask = Callable[..., Awaitable[Any]]  # One server: a command and its arguments → its answer.


async def look(chosen: settings.RedisSettings, *, sync_interval_s: int) -> Seen:
    """Look at Redis, in which sync should write every `sync_interval_s`."""
    seen = Seen(PART)
    redis = redis_access.connect(chosen)
    try:
        await _look(seen, redis, sync_interval_s)
    except AuthenticationError:
        seen.fault(
            "it does not know this user and password",
            "nothing of Aforo that has them reaches it",
            f"correct them in {redis_access.URL_VARIABLE}, or the user in Redis' ACLs",
        )
    except (RedisError, OSError) as error:
        seen.fault(
            redis_access.unreachable(chosen, error),
            "authz goes on with what it remembers; nothing new arrives, quotas aren't counted",
            "is it up, and does its address lead there (rediss… to TLS, redis… without)? then its"
            " log",
        )
    finally:
        await redis.aclose()
    return seen


async def _look(seen: Seen, redis: Redis, sync_interval_s: int) -> None:
    await redis.ping()
    servers = _servers(redis)
    now = await _time(seen, servers)
    try:
        for name, server in servers.items():
            await _info(seen, name, server)
    except NoPermissionError:
        seen.skipped(
            "this user may not ask for INFO: version, memory and saving were not looked at",
            "grant it: ACL SETUSER … +info",
        )
    if await _may_read(seen, redis):
        await _judge_ages(seen, redis, now, sync_interval_s)
        await _may_write(seen, redis)
    for name, server in servers.items():
        await _has_password(seen, name, server)


def _servers(redis: Redis) -> dict[str, Ask]:
    """Return how to ask each server that holds keys, by what its findings begin with."""
    client: Any = redis  # As a cluster's is taken for one of a server.
    if not isinstance(client, RedisCluster):
        return {"": redis.execute_command}
    return {
        f"{node.name}: ": partial(client.execute_command, target_nodes=node)
        for node in client.get_primaries()
    }


async def _info(seen: Seen, name: str, ask: Ask) -> None:
    info = await ask("INFO")
    one = Seen(PART)
    judge_info(one, info)
    seen.findings += [replace(each, what=name + each.what) for each in one.findings]
    known = seen.versions.get(PART, "").split(", ")
    seen.versions[PART] = ", ".join(sorted({*filter(None, known), version_of(info)}))


async def _time(seen: Seen, servers: Mapping[str, Ask]) -> int:
    """Return their time, of the first; or ours if it may not be asked."""
    times = []
    for name, ask in servers.items():
        asked = now_micros()
        try:
            seconds, micros = await ask("TIME")
        except NoPermissionError:
            seen.skipped("this user may not ask for TIME", "grant it: ACL SETUSER … +time")
            return asked
        answered = now_micros()
        times.append(int(seconds) * SECOND_MICROS + int(micros))
        seen.clocks.append(
            Clock(
                part=f"{PART} {name}".rstrip(": "),
                ahead_micros=times[-1] - (asked + answered) // 2,
                unsure_micros=(answered - asked) // 2,
            )
        )
    return times[0]


async def _may_read(seen: Seen, redis: Redis) -> bool:
    try:
        await redis.get(SYNC_KEY)
    except NoPermissionError as error:
        seen.fault(
            f"this user may not read aforo:v1:*: {error}",
            "a process with this user does nothing",
            "grant what ops/redis or docs/operations.md names for aforo-admin",
        )
        return False
    return True


async def _judge_ages(seen: Seen, redis: Redis, now: int, sync_interval_s: int) -> None:
    value = await redis.get(SYNC_KEY)
    state = SyncState.FromString(value) if isinstance(value, bytes) else None
    judge_sync(seen, state.completed_at_micros if state else None, now, sync_interval_s)
    pipeline = redis.pipeline(transaction=False)
    for partition in range(PARTITIONS_MAX):
        pipeline.get(CONSUMED + b"%d" % partition)
    try:
        values = await pipeline.execute()
    except NoPermissionError:
        seen.skipped("this user may not read aforo:v1:consumed:*: margins' ages were not looked at")
        return
    seen.confirmed = {
        partition: ConsumeState.FromString(value).as_of_micros
        for partition, value in enumerate(values)
        if isinstance(value, bytes)
    }
    judge_consumed(seen, seen.confirmed, now)


async def _may_write(seen: Seen, redis: Redis) -> None:
    """Remove what can't be there, for a tenant that can't be: it needs what sync needs."""
    nobody = f"doctor-{secrets.token_hex(8)}"
    try:
        await redis.unlink(tenant_key(nobody, b"policy"))
        await redis.unlink(tenant_key(nobody, b"contract"))
    except NoPermissionError:
        seen.skipped(
            "this user may not write policies: well for who only looks; whether sync's user may was"
            " not looked at",
            "to see that, run it with sync's URL, too; ops/redis has users with their rights",
        )
    except ResponseError as error:
        seen.fault(
            f"policies can't be written: {error}",
            "sync can't bring any change of the catalog",
            "on a replica, give the primary's address; else its log",
        )
    else:
        seen.ok("policies can be written")


async def _has_password(seen: Seen, name: str, ask: Ask) -> None:
    try:
        user = await ask("ACL GETUSER", "default")
    except (NoPermissionError, ResponseError):
        return  # Who may not look at users is no default user.
    if user and {"on", "nopass"} <= set(user["flags"]):
        seen.warning(
            f"{name}the user default needs no password",
            "whoever reaches it may change policies, margins and counters",
            "ACL SETUSER default off, and a user for each process",
        )
