"""What Redis says of itself, judged: is it a read model that can be relied on?"""

from collections.abc import Mapping
from typing import Any, Final

from aforo_admin.domain.diagnosis import SECOND_MICROS, Seen

VERSION_MIN: Final = (6, 2)  # Tracking by prefix came with 6.0; older ones are not tested.
MEMORY_WARNING_PERCENT: Final = 90
SYNC_INTERVALS_MAX: Final = 3
CONSUME_AGE_MAX_MICROS: Final = 60 * SECOND_MICROS

Info = Mapping[str, Any]  # What INFO answers.


def version_of(info: Info) -> str:
    """Return which server it is, in words."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '(untold)')}"


def judge_info(seen: Seen, info: Info) -> None:
    """Judge version, role, memory and persistence."""
    _judge_version(seen, info)
    _judge_role(seen, info)
    _judge_memory(seen, info)
    _judge_persistence(seen, info)


def _judge_version(seen: Seen, info: Info) -> None:
    spoken = str(info.get("redis_version", "0"))  # Valkey says here which Redis it is equal to.
    numbers = tuple(int(part) for part in spoken.split(".")[:2] if part.isdigit())
    least = ".".join(map(str, VERSION_MIN))
    if numbers < VERSION_MIN:
        seen.fault(
            f"{version_of(info)} is older than Redis {least}",
            "authz can't follow changes: its values stay stale",
            f"upgrade to Redis {least} or newer, or Valkey",
        )
    else:
        seen.ok(f"{version_of(info)}")


def _judge_role(seen: Seen, info: Info) -> None:
    if info.get("role") == "slave":
        seen.fault(
            "it is a replica, which takes no writes",
            "sync can't write policies, quotas aren't counted, margins stay as they are",
            "give the primary's address, or the Sentinels'",
        )


def _judge_memory(seen: Seen, info: Info) -> None:
    policy, limit = str(info.get("maxmemory_policy", "")), int(info.get("maxmemory", 0))
    used, evicted = int(info.get("used_memory", 0)), int(info.get("evicted_keys", 0))
    if limit and policy != "noeviction":
        gone = f", and it has removed {evicted} keys" if evicted else ""
        seen.fault(
            f"maxmemory-policy is {policy}{gone}",
            "when memory is short it removes policies, margins and counters: callers become"
            " unknown, and quotas begin anew",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file",
        )
    elif evicted:
        seen.warning(
            f"it has removed {evicted} keys for want of memory since its start",
            "callers may have been unknown, and quotas have begun anew",
            "raise maxmemory; the next sync has written again what is missing",
        )
    if limit and used * 100 >= limit * MEMORY_WARNING_PERCENT:
        seen.warning(
            f"memory: {used * 100 // limit} % of maxmemory are used",
            "when it is full, quotas go uncounted and no change of the catalog arrives",
            "raise maxmemory (docs/operations.md, “Capacity”)",
        )
    elif limit and policy == "noeviction":
        seen.ok(f"memory: {used * 100 // limit} % of maxmemory are used, nothing is evicted")
    elif not limit:
        seen.warning(
            "maxmemory is not set",
            "it grows until the machine ends it, and with it all that it holds",
            "set maxmemory below what the machine has, with maxmemory-policy noeviction",
        )


def _judge_persistence(seen: Seen, info: Info) -> None:
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        seen.fault(
            f"it can't save: {', '.join(failed)} is not ok",
            "as it is configured by default it then refuses every write: no quota is counted, no"
            " policy or margin changes",
            "look at its disk and at its log; or switch saving off, which Aforo does without",
        )
    elif info.get("loading"):
        seen.warning(
            "it is still loading", "it answers nobody until it has", "wait; then look again"
        )
    else:
        kept = "kept on disk" if info.get("aof_enabled") else "in memory only, as far as it matters"
        seen.ok(f"saving works: {kept}; sync and the ledger can rebuild all of it")


def judge_sync(
    seen: Seen, completed_at_micros: int | None, now_micros: int, interval_s: int
) -> None:
    """Judge the age of the last complete sync.

    Args:
        seen: Where findings go.
        completed_at_micros: By what sync left in Redis; None: nothing is there.
        now_micros: By Redis' clock, as near as can be to that of who wrote it.
        interval_s: How often sync looks at everything.
    """
    if completed_at_micros is None:
        seen.fault(
            "no sync has completed: aforo:v1:sync is not there",
            "authz decides nothing for whom it does not remember: UNAVAILABLE, Envoy's"
            " failure_mode_allow rules",
            "start aforo-admin sync, and look at its log",
        )
        return
    age_s = (now_micros - completed_at_micros) // SECOND_MICROS
    if age_s > SYNC_INTERVALS_MAX * interval_s:
        seen.fault(
            f"the last sync completed {age_s} s ago; it should every {interval_s} s",
            "decisions go on with the policies of then: what was sold or revoked since has no"
            " effect",
            "is aforo-admin sync up? its log says what it waits for",
        )
    else:
        seen.ok(f"the last sync completed {max(age_s, 0)} s ago")


def judge_consumed(seen: Seen, as_of_micros: Mapping[int, int], now_micros: int) -> None:
    """Judge until when usage is in the margins, by partition."""
    old = {
        partition: (now_micros - at) // SECOND_MICROS
        for partition, at in as_of_micros.items()
        if now_micros - at > CONSUME_AGE_MAX_MICROS
    }
    if old:
        numbers = ", ".join(str(partition) for partition in sorted(old))
        seen.fault(
            f"margins of partitions {numbers} were last confirmed {max(old.values())} s ago",
            "usage since is in no margin: who should be throttled or blocked is not; and after"
            " AFORO_AUTHZ_STALE_MAX_S margins block nobody",
            "is aforo-meter consume up? aforo_consume_waiting says what it waits for",
        )
    elif as_of_micros:
        seen.ok(f"margins are confirmed, of {len(as_of_micros)} partitions")
    else:
        seen.warning(
            "nothing says until when usage is in the margins",
            "aforo-meter consume has not run since Redis was emptied: no margin throttles anybody",
            "start aforo-meter consume",
        )
