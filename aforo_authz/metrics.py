"""What operators count: decisions, their time, the cache, Redis. In Prometheus' terms.

Counts are plain integers: one thread writes them, and prometheus-client's own, with a lock in each,
would cost a tenth of a decision. They become metrics when somebody looks.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from aforo_authz.domain.access import PASSING, Decision, Outcome, Reason
from aforo_authz.redis_link import Failure
from aforo_authz.server import (
    INTERNAL,
    INVALID_ARGUMENT,
    UNAVAILABLE,
    Method,
    OwnFaultError,
    RpcError,
)

DECISION_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
REDIS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

VERSION: Final = version("aforo")

# (name, what it says, where to read it)
Reading = tuple[str, str, Callable[[], float]]


class Watched(Protocol):
    """A part that counts for itself."""

    def counters(self) -> list[Reading]:
        """Figures that only grow; their names end in `_total` when they are shown."""

    def gauges(self) -> list[Reading]: ...


class Durations:
    """A histogram in plain integers."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """Return cumulative buckets and the sum, as Prometheus wants them."""
        buckets, running = [], 0
        for bound_s, count in zip((*self._bounds_s, "+Inf"), self._counts, strict=True):
            running += count
            buckets.append((str(bound_s), float(running)))
        return buckets, self._sum_s


class Metrics(Collector):
    """The counts of one process, in a registry of its own. Lives in one event loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._reasons = dict.fromkeys(Reason, 0)
        self._shadowed: Counter[Reason] = Counter()
        self._stale = 0
        self._uncounted = 0
        # Of what a check may end with, 0 is shown: a count that comes as 1 has not grown, to
        # Prometheus, and raises no alert.
        self._failed = Counter({INVALID_ARGUMENT: 0, INTERNAL: 0, UNAVAILABLE: 0})
        self._own_faults = 0
        self._redis_failures: Counter[tuple[str, Failure]] = Counter()
        self._refused: Counter[str] = Counter()
        self._seconds = Durations(DECISION_S)
        self._redis_seconds: dict[str, Durations] = {}
        self._watched: list[Watched] = []

    def observe(self, decision: Decision, seconds: float) -> None:
        self._reasons[decision.reason] += 1
        self._seconds.add(seconds)
        if decision.stale:
            self._stale += 1
        if decision.uncounted:
            self._uncounted += 1
        if decision.shadow_reason is not None:
            self._shadowed[decision.shadow_reason] += 1

    def observe_redis(self, purpose: str, seconds: float, failure: Failure | None) -> None:
        """Count one exchange with Redis; `purpose` is one of a few fixed words."""
        durations = self._redis_seconds.get(purpose)
        if durations is None:
            durations = self._redis_seconds[purpose] = Durations(REDIS_S)
        durations.add(seconds)
        if failure is not None:
            self._redis_failures[purpose, failure] += 1

    def count_refused(self, kind: str) -> None:
        """Count what a client did beyond a limit; `kind` is one of a few fixed words."""
        self._refused[kind] += 1

    def counting_failures(self, method: Method) -> Method:
        """Return the method, with the errors that it answers counted by gRPC code."""

        def call(message: bytes, budget_s: float | None) -> bytes | Awaitable[bytes]:
            try:
                answered = method(message, budget_s)
            except RpcError as error:
                self._count_failed(error)
                raise
            return answered if isinstance(answered, bytes) else later(answered)

        async def later(answered: Awaitable[bytes]) -> bytes:
            try:
                return await answered
            except RpcError as error:
                self._count_failed(error)
                raise

        return call

    def _count_failed(self, error: RpcError) -> None:
        self._failed[error.code] += 1
        if isinstance(error, OwnFaultError):
            self._own_faults += 1

    async def exposed(self) -> bytes:
        """Return all metrics as text, in Prometheus' format."""
        return generate_latest(self.registry)

    def watch(self, part: Watched) -> None:
        """Show what a part counts."""
        self._watched.append(part)

    def collect(self) -> Iterator[Metric]:
        build = {"process": "authz", "version": VERSION}
        yield InfoMetricFamily("aforo_build", "1; its labels say what runs.", build)
        yield from self._decisions()
        yield from self._redis()
        for part in self._watched:
            for name, text, read in part.counters():
                yield CounterMetricFamily(f"aforo_authz_{name}", text, value=read())
            for name, text, read in part.gauges():
                yield GaugeMetricFamily(f"aforo_authz_{name}", text, value=read())

    def _decisions(self) -> Iterator[Metric]:
        decisions = CounterMetricFamily(
            "aforo_authz_decisions",
            "Decisions, by what was answered and why.",
            labels=["decision", "reason"],
        )
        for reason, count in self._reasons.items():
            decisions.add_metric([PASSING.get(reason, Outcome.BLOCK), reason], count)
        yield decisions
        shadowed = CounterMetricFamily(
            "aforo_authz_shadow_decisions",
            "Calls that passed in shadow mode, by why they would not have.",
            labels=["reason"],
        )
        for reason, count in self._shadowed.items():
            shadowed.add_metric([reason], count)
        yield shadowed
        yield CounterMetricFamily(
            "aforo_authz_stale_decisions",
            "Decisions made with values that may be old.",
            value=self._stale,
        )
        yield CounterMetricFamily(
            "aforo_authz_uncounted_decisions",
            "Decisions that a quota should have counted, had Redis answered.",
            value=self._uncounted,
        )
        failed = CounterMetricFamily(
            "aforo_authz_failed_checks",
            "Checks that ended as an error of the call: Envoy's failure_mode_allow ruled.",
            labels=["code"],
        )
        for code, count in self._failed.items():
            failed.add_metric([str(code)], count)
        yield failed
        yield CounterMetricFamily(
            "aforo_authz_own_faults",
            "Of the failed checks: those that a fault of this program ended. The log says which.",
            value=self._own_faults,
        )
        refused = CounterMetricFamily(
            "aforo_authz_refused",
            "Connections and streams ended because of a limit, by which one.",
            labels=["limit"],
        )
        for kind, count in self._refused.items():
            refused.add_metric([kind], count)
        yield refused
        buckets, sum_s = self._seconds.told()
        yield HistogramMetricFamily(
            "aforo_authz_decision_seconds",
            "From the arrival of a CheckRequest to its answer.",
            buckets=buckets,
            sum_value=sum_s,
        )

    def _redis(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            "aforo_authz_redis_seconds",
            "What Redis took to answer, or to fail, by what it was asked for.",
            labels=["purpose"],
        )
        for purpose, durations in self._redis_seconds.items():
            buckets, sum_s = durations.told()
            seconds.add_metric([purpose], buckets=buckets, sum_value=sum_s)
        yield seconds
        failures = CounterMetricFamily(
            "aforo_authz_redis_failures",
            "Questions that Redis did not answer, by what they were for and why.",
            labels=["purpose", "failure"],
        )
        for (purpose, failure), count in self._redis_failures.items():
            failures.add_metric([purpose, failure], count)
        yield failures
