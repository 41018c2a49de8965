"""What ship counts about access-log entries.

Plain integers, which one thread writes: prometheus-client's own counters, with a lock and a lookup
of labels in each, would cost as much as reading an entry does. They become metrics when somebody
looks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = structlog.get_logger()

# What is counted → the metric, what it says, and its label; without one: for all together.
METRICS: Final = {
    "event": ("events", "Usage events, by outcome of the call.", "outcome"),
    "unmetered": ("unmetered", "Events of calls that are no usage.", "why"),
    "dead_letter": ("dead_letters", "Dead letters, by kind.", "kind"),
    "tokens_cut": ("tokens_cut", "Calls whose token details exceed the totals.", None),
    "tokens_unreadable": (
        "tokens_unreadable",
        "Calls whose answers say something as numbers of tokens that is none.",
        None,
    ),
    "estimated": ("estimated", "Calls whose tokens are estimated.", None),
    "reported_ignored": (
        "reported_ignored",
        "Answers whose X-Aforo-Metric and X-Aforo-Quantity name no known meter or no quantity.",
        None,
    ),
}
# What is said in the log too, since somebody else has to put it right.
WARNINGS: Final = {
    "tokens_cut": "token details exceed their total; the total holds",
    "tokens_unreadable": "an answer says something as a number of tokens that is none; it is left",
    "reported_ignored": "X-Aforo-Metric names no known meter, or X-Aforo-Quantity can't be read",
}
# What became of an entry; of those ignored, of each kind.
ENTRIES: Final = ("event", "interim", "dead_letter", "ignored")
# These dead letters were events first.
REFUSED: Final = "too_large"
# Shown as 0 from the start: to Prometheus, a count that comes as 1 has not grown, and none alerts.
DEAD_LETTERS: Final = ("unreadable", REFUSED)


class ShipMetrics(Collector):
    """Counts of one process. Lives in one event loop."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()  # (what, which) → how often
        self.streams = 0

    def count(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Add what was read of a message."""
        self.counts.update(counts)
        for (what, _), times in counts.items():
            if what in WARNINGS:
                log.warning(WARNINGS[what], calls=times)

    def collect(self) -> Iterator[Metric]:
        entries: Counter[str] = Counter()
        for (what, which), times in self.counts.items():
            if what in ENTRIES and which != REFUSED:
                entries[f"ignored_{which}" if what == "ignored" else what] += times
        yield self._family("entries", "Access-log entries, by what became of them.", "as", entries)
        for what, (name, text, label) in METRICS.items():
            own = dict.fromkeys(DEAD_LETTERS if what == "dead_letter" else (), 0)
            own |= {which: n for (kind, which), n in self.counts.items() if kind == what}
            if label is None:
                yield CounterMetricFamily(f"aforo_ship_{name}", text, sum(own.values()))
            else:
                yield self._family(name, text, label, own)
        yield GaugeMetricFamily(
            "aforo_ship_streams", "Streams that Envoys have open.", self.streams
        )

    def _family(
        self, name: str, text: str, label: str, counts: Mapping[str, int]
    ) -> CounterMetricFamily:
        family = CounterMetricFamily(f"aforo_ship_{name}", text, labels=[label])
        for value, times in counts.items():
            family.add_metric([value], times)
        return family
