"""What ship counts about access-log entries.

Plain integers, which one thread writes: prometheus-client's own counters, with a lock and a lookup
of labels in each, would cost as much as reading an entry does. They become metrics when somebody
looks.
"""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ShipMetrics(Collector):
    """Counts of one process. Lives in one event loop."""

    def __init__(self) -> None:
        self.entries: Counter[str] = Counter()  # By what became of them.
        self.events: Counter[str] = Counter()  # By outcome of the call.
        self.unmetered: Counter[str] = Counter()  # By why the call is no usage.
        self.dead_letters: Counter[str] = Counter()  # By kind.
        self.tokens_cut = 0
        self.streams = 0

    def collect(self) -> Iterator[Metric]:
        by_label = (
            ("entries", "Access-log entries, by what became of them.", "as", self.entries),
            ("events", "Usage events, by outcome of the call.", "outcome", self.events),
            ("unmetered", "Events of calls that are no usage.", "why", self.unmetered),
            ("dead_letters", "Dead letters, by kind.", "kind", self.dead_letters),
        )
        for name, text, label, counts in by_label:
            family = CounterMetricFamily(f"aforo_ship_{name}", text, labels=[label])
            for value, count in counts.items():
                family.add_metric([value], count)
            yield family
        yield CounterMetricFamily(
            "aforo_ship_tokens_cut",
            "Calls whose token details exceed the totals.",
            self.tokens_cut,
        )
        yield GaugeMetricFamily(
            "aforo_ship_streams", "Streams that Envoys have open.", self.streams
        )
