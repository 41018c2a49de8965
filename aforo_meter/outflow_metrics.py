"""What operators see of an outflow and its writer, under the name of the process that has them.

The counts are plain integers of those two; they become metrics when somebody looks.
"""

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from aforo_meter.kafka import KafkaWriter
from aforo_meter.outflow import Outflow


class OutflowMetrics(Collector):
    """Metrics whose names begin with `prefix`, e.g. aforo_ship."""

    def __init__(self, prefix: str, outflow: Outflow, writer: KafkaWriter) -> None:
        self._prefix = prefix
        self._outflow = outflow
        self._writer = writer

    def collect(self) -> Iterator[Metric]:
        outflow = self._outflow
        yield self._gauge("buffer_records", "Records held until Kafka has them.", outflow.held)
        yield self._gauge("buffer_bytes", "What memory holds of them.", outflow.held_bytes)
        yield self._gauge(
            "unprotected_records", "Records a kill of this process would lose.", outflow.unprotected
        )
        yield CounterMetricFamily(
            f"{self._prefix}_lost",
            "Records that no topic took, or of a damaged spool.",
            outflow.lost,
        )
        yield from self._spool()
        yield from self._kafka()

    def _spool(self) -> Iterator[Metric]:
        spool = self._outflow.spool
        if spool is None:
            return
        yield self._gauge(
            "spool_working", "1 if the last record was written.", not self._outflow.spool_failing
        )
        yield self._gauge("spool_records", "Records on disk that Kafka does not have.", spool.kept)
        yield self._gauge("spool_bytes", "What its files take.", spool.bytes)
        yield self._gauge("spool_bytes_max", "What they may take.", spool.bytes_max)
        yield CounterMetricFamily(
            f"{self._prefix}_spool_errors", "Failed writes.", self._outflow.spool_errors
        )
        yield CounterMetricFamily(
            f"{self._prefix}_spool_torn_bytes",
            "Cut off at the start: a record that was not written to its end.",
            spool.torn_bytes,
        )

    def _kafka(self) -> Iterator[Metric]:
        yield self._gauge(
            "kafka_reachable", "1 if the last attempt to reach it worked.", self._outflow.flowing
        )
        errors = CounterMetricFamily(
            f"{self._prefix}_kafka_errors", "Failed attempts to write, by error.", labels=["error"]
        )
        for name, count in self._writer.errors.items():
            errors.add_metric([name], count)
        yield errors
        seconds = self._writer.write_seconds
        yield HistogramMetricFamily(
            f"{self._prefix}_kafka_write_seconds",
            "From taking records until Kafka has them all.",
            buckets=seconds.buckets(),
            sum_value=seconds.sum_s,
        )

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{self._prefix}_{name}", text, float(value))
