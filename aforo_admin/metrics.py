"""What sync counts, for Prometheus."""

from importlib.metadata import version

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

# Apart from the others: the packages export it under one name, and tests load several of them.
BUILD_REGISTRY = CollectorRegistry()
BUILD = Gauge(
    "aforo_build_info",
    "1; its labels say what runs.",
    ["process", "version"],
    registry=BUILD_REGISTRY,
)
PASSES = Counter(
    "aforo_sync_passes_total",
    "Passes that made Redis equal to the catalog (ok), could not (error), or were given up because "
    "another process may lead by now (given_up).",
    ["result"],
)
VALUES = Counter(
    "aforo_sync_values_total",
    "Values written for a change of the catalog or of time, repaired after somebody else's change, "
    "and deleted.",
    ["action"],
)
PASS_SECONDS = Histogram(
    "aforo_sync_pass_seconds",
    "How long a pass took, the read model included.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60),
)
LAST_SUCCESS = Gauge("aforo_sync_last_success_timestamp_seconds", "When the last pass succeeded.")
CATALOG_FAULTS = Gauge(
    "aforo_sync_catalog_faults", "What is wrong with the catalog's file; 0 if it is in force."
)
WAITING = Gauge("aforo_sync_waiting", "1 while it waits, at its start, for the catalog's database.")
TENANTS = Gauge("aforo_sync_tenants", "Tenants of the catalog in force.")

for result in ("ok", "error", "given_up"):
    PASSES.labels(result)
for action in ("written", "repaired", "deleted"):
    VALUES.labels(action)
BUILD.labels("sync", version("aforo")).set(1)


def exposed() -> bytes:
    """Return all metrics as text, in Prometheus' format."""
    return b"".join(generate_latest(part) for part in (BUILD_REGISTRY, REGISTRY))
