"""A process of Aforo, by its /livez, /readyz and /metrics."""

import contextlib
from collections import defaultdict
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from aforo_admin.doctor.http import NoAnswerError, get
from aforo_admin.domain.diagnosis import Seen
from aforo_admin.domain.diagnosis_metrics import Labels, judge_metrics

OK: Final = 200
BUILD: Final = "aforo_build_info"


def look(name: str, address: str, *, timeout_s: float) -> Seen:
    """Look at one process; its name is a kind, and a number if there are several."""
    kind = name.partition("-")[0]
    seen = Seen(name)
    try:
        ready = get(address, "/readyz", timeout_s=timeout_s)
        page = get(address, "/metrics", timeout_s=timeout_s)
    except NoAnswerError as error:
        seen.fault(
            f"nobody answers at {address}: {error}",
            f"aforo {kind} is down, hangs, or has no …_METRICS_LISTEN there",
            "start it; is the address that of its …_METRICS_LISTEN?",
        )
        return seen
    if (clock := ready.clock(name)) is not None:
        seen.clocks.append(clock)
    if ready.status == OK:
        seen.ok(f"ready at {address}")
    else:
        why = ready.text.strip().partition("\n")[0][:200]
        seen.fault(
            f"not ready at {address}: {why}",
            "it lives and can't do its work now",
            "its log says what it waits for",
        )
    _read_metrics(seen, kind, page.text)
    return seen


def _read_metrics(seen: Seen, kind: str, text: str) -> None:
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    with contextlib.suppress(ValueError):  # It is no page of metrics: so nothing of ours, either.
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    builds = [dict(labels) for labels in samples.get(BUILD, {})]
    if not any(build["process"] == kind for build in builds):
        there = ", ".join(sorted({build["process"] for build in builds})) or "no process of Aforo"
        seen.fault(
            f"what answers there is {there}, not {kind}",
            "another process was looked at in its place",
            f"give the address of its …_METRICS_LISTEN: --process {seen.part}=HOST:PORT",
        )
        return
    seen.builds[seen.part] = builds[0]["version"]
    judge_metrics(seen, samples)
