"""Envoy, by its admin."""

import json
from typing import Any, Final

from aforo_admin.doctor.http import NoAnswerError, get
from aforo_admin.domain.diagnosis import Seen
from aforo_admin.domain.diagnosis_envoy import judge_clusters, judge_stats

LIVE: Final = "LIVE"
STATS: Final = r"/stats?format=json&filter=(logs_dropped|logs_written|ext_authz)"


def look(name: str, address: str, *, timeout_s: float) -> Seen:
    """Look at one Envoy."""
    seen = Seen(name)
    try:
        page = get(address, "/server_info", timeout_s=timeout_s)
        info, clusters, stats = (
            json.loads(page.body),
            json.loads(get(address, "/clusters?format=json", timeout_s=timeout_s).body),
            json.loads(get(address, STATS, timeout_s=timeout_s).body),
        )
    except NoAnswerError as error:
        seen.fault(
            f"its admin does not answer at {address}: {error}",
            "Envoy is down, or its admin listens elsewhere",
            "start it; `admin:` in its configuration says where",
        )
        return seen
    except ValueError:
        seen.fault(
            f"what answers at {address} is no Envoy's admin",
            "Envoy was not looked at",
            "`admin:` in its configuration says where its admin listens",
        )
        return seen
    if (clock := page.clock(name)) is not None:
        seen.clocks.append(clock)
    seen.versions[name] = f"Envoy {_version(info)}"
    if info.get("state") == LIVE:
        seen.ok(f"Envoy {_version(info)} is live at {address}")
    else:
        seen.fault(
            f"its state is {info.get('state')}",
            "it takes no calls",
            "its log says what it waits for; is it draining?",
        )
    judge_clusters(seen, clusters)
    judge_stats(seen, {stat["name"]: int(stat["value"]) for stat in _counters(stats)})
    return seen


def _counters(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return counters and gauges; histograms stand in the same list, without a name."""
    return [stat for stat in document.get("stats", ()) if "name" in stat and "value" in stat]


def _version(info: dict[str, Any]) -> str:
    # commit/1.40.0/Clean/RELEASE/BoringSSL
    parts = str(info.get("version", "")).split("/")
    return parts[1] if len(parts) > 1 else "(untold)"
