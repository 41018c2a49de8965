"""The alert rules as the Prometheus operator takes them, for `k8s/components/prometheus`."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "ops" / "observability" / "prometheus" / "alerts.yaml"
TARGET: Final = ROOT / "k8s" / "components" / "prometheus" / "rules.yaml"

HEAD: Final = """\
# Made of ops/observability/prometheus/alerts.yaml by `make dashboards`: change that file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: aforo
spec:
"""


def made_of(source: str) -> str:
    """Return the resource: the same lines, indented, so that both read alike."""
    _, found, rules = source.partition("\ngroups:\n")
    assert found, f"{SOURCE.name} has no groups"
    lines = ["groups:", *rules.splitlines()]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


def main() -> None:
    TARGET.write_text(made_of(SOURCE.read_text()))


if __name__ == "__main__":
    main()
