"""What Envoy's admin says of itself, judged: does it reach Aforo, and does it lose entries?"""

from collections.abc import Mapping
from typing import Any, Final

from aforo_admin.domain.diagnosis import Seen

# The clusters of Aforo's own parts begin so; others are the user's, and a warning only.
OURS: Final = "aforo"


def judge_clusters(seen: Seen, document: Mapping[str, Any]) -> None:
    """Judge each cluster's endpoints, as /clusters?format=json has them."""
    for cluster in document.get("cluster_statuses", ()):
        hosts = cluster.get("host_statuses", ())
        ill = [_address(host) for host in hosts if _ill(host)]
        name = cluster["name"]
        if hosts and not ill:
            seen.ok(f"cluster {name}: {len(hosts)} endpoints, none known to be ill")
            continue
        what = f"cluster {name}: no endpoints"
        if hosts:
            what = f"cluster {name}: {len(ill)} of {len(hosts)} endpoints are ill: {', '.join(ill)}"
        none_left = len(ill) == len(hosts)
        say = seen.fault if none_left and name.startswith(OURS) else seen.warning
        means = "calls of this cluster fail" if none_left else "the others do its work"
        if name.startswith(OURS) and none_left:
            means = "calls pass without a decision, or without being metered; completeness shows it"
        say(what, means, "is it up, ready, and listening at that address? the same user's socket?")


def _ill(host: Mapping[str, Any]) -> bool:
    health = host.get("health_status", {})
    return (
        health.get("eds_health_status", "HEALTHY") not in {"HEALTHY", "UNKNOWN", "DEGRADED"}
        or health.get("failed_active_health_check", False)
        or health.get("failed_outlier_check", False)
    )


def _address(host: Mapping[str, Any]) -> str:
    address = host.get("address", {})
    socket = address.get("socket_address")
    if socket:
        return f"{socket.get('address')}:{socket.get('port_value')}"
    return str(address.get("pipe", {}).get("path", "(somewhere)"))


def judge_stats(seen: Seen, stats: Mapping[str, int]) -> None:
    """Judge counters, as /stats?format=json has them: name → value."""
    dropped = sum(value for name, value in stats.items() if name.endswith(".logs_dropped"))
    allowed = sum(value for name, value in stats.items() if ".failure_mode_allowed" in name)
    written = [name for name in stats if name.endswith(".logs_written")]
    if not written:
        seen.warning(
            "it has no access log to Aforo",
            "calls are decided and not metered: no usage, no charge",
            "add the access log to the listener: envoy/README.md",
        )
    if dropped:
        seen.warning(
            f"access log: {dropped} entries were dropped since its start",
            "usage of so many calls is lost; aforo-meter completeness says whose",
            "did ship stand still, was its spool full? then aforo-meter completeness --fill",
        )
    elif written:
        seen.ok("access log: no entry was dropped")
    if not any(".ext_authz." in name for name in stats):
        seen.warning(
            "it asks nobody: there is no ext_authz filter, or nothing has called yet",
            "calls pass without a decision",
            "add the filter to the listener: envoy/README.md",
        )
    elif allowed:
        seen.warning(
            f"{allowed} calls passed without a decision since its start",
            "authz did not answer in time, and failure_mode_allow let them pass",
            "docs/operations.md, “When Redis or aforo-authz fails”",
        )
    else:
        seen.ok("no call passed without a decision")
