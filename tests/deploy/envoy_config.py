"""The Envoy configuration of `k8s/overlays/envoy-sidecar`, made of `envoy/aforo.yaml`.

`python -m tests.deploy.envoy_config` writes it. Addresses differ, and a pod has a listener more, at
which Prometheus reads: what is tested of the one holds for the other.
"""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "envoy" / "aforo.yaml"
TARGET: Final = ROOT / "k8s" / "overlays" / "envoy-sidecar" / "gateway" / "envoy.yaml"

HEAD: Final = """\
# Made of envoy/aforo.yaml by `python -m tests.deploy.envoy_config`: change that file, or these
# addresses there. CHANGE the clusters api, grpc, llm and llm_economy to your own upstreams.
"""


def _socket(address: str, port: int) -> str:
    return f"{{socket_address: {{address: {address}, port_value: {port}}}}}"


def _cluster(name: str) -> tuple[str, str]:
    """Let a cluster look its upstream up by name."""
    return (f"  - name: {name}\n    connect_timeout", f"  - name: {name}\n    {DNS}connect_timeout")


DNS: Final = "type: STRICT_DNS\n    "
SHIP: Final = "ship-{}.ship-pods.aforo.svc.cluster.local"

# A pod's own administration is on loopback, where Prometheus does not come: one page of it is shown
# elsewhere.
STATS: Final = Path(__file__).parent / "envoy_stats.yaml"
STATS_LISTENER, STATS_CLUSTER = STATS.read_text().split("\n---\n")
CLUSTERS: Final = "\n  clusters:\n"
AFORO: Final = "  # --- Aforo's ----"

REPLACEMENTS: Final = (
    (_socket("127.0.0.1", 10000), _socket("0.0.0.0", 10000)),  # noqa: S104 - in a pod.
    (_socket("127.0.0.1", 9000), _socket("api.upstream.svc.cluster.local", 8080)),
    (_socket("127.0.0.1", 9003), _socket("grpc.upstream.svc.cluster.local", 8080)),
    (_socket("127.0.0.1", 9001), _socket("llm.upstream.svc.cluster.local", 8080)),
    (_socket("127.0.0.1", 9002), _socket("llm-economy.upstream.svc.cluster.local", 8080)),
    ("{pipe: {path: /run/aforo/als-a.sock}}", _socket(SHIP.format(0), 9192)),
    ("{pipe: {path: /run/aforo/als-b.sock}}", _socket(SHIP.format(1), 9192)),
    *(_cluster(name) for name in ("api", "grpc", "llm", "llm_economy", "aforo_als")),
    (CLUSTERS, f"\n{STATS_LISTENER}\n{CLUSTERS}"),
    (AFORO, STATS_CLUSTER + AFORO),
)


def made_of(source: str) -> str:
    """Return the configuration for a pod; each address must stand in the source exactly once."""
    _, _, text = source.partition("\n\n")  # Its head speaks of the file as it stands.
    for old, new in REPLACEMENTS:
        assert text.count(old) == 1, f"{SOURCE.name} has {text.count(old)} times {old!r}"
        text = text.replace(old, new)
    return HEAD + "\n" + text


def main() -> None:
    TARGET.write_text(made_of(SOURCE.read_text()))


if __name__ == "__main__":
    main()
