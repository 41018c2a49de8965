"""`make alert-rules`: each alert rule fires on what it is for, and on nothing else.

Prometheus' own engine judges, built by Go in `build/`. What a rule's `for` waits is not played.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
RULES: Final = ROOT / "ops" / "observability" / "prometheus" / "alerts.yaml"
CASES: Final = Path(__file__).parent / "alert_rules.yaml"
FOLDER: Final = ROOT / "build" / "alert-rules"
PROMETHEUS: Final = "github.com/prometheus/prometheus/promql/promqltest@v0.314.0"
ASKED_AFTER: Final = "13m"  # What is gone for five minutes is gone, to Prometheus.

JUDGE: Final = """\
package rules

import (
	"os"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
)

func TestRules(t *testing.T) {
	script, err := os.ReadFile("rules.test")
	if err != nil {
		t.Fatal(err)
	}
	promqltest.RunTest(t, string(script), promqltest.NewTestEngine(t, false, 0, 1000000))
}
"""


def script() -> str:
    """Return all cases in the language of Prometheus' own tests."""
    rules = {
        rule["alert"]: rule["expr"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    }
    cases = yaml.safe_load(CASES.read_text())
    assert cases.keys() == rules.keys(), f"without a case: {sorted(rules.keys() ^ cases.keys())}"
    return "\n".join(line for name, expr in rules.items() for line in played(expr, cases[name]))


def played(expr: str, case: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for kind in ("fires", "silent"):
        for series in case[kind]:
            yield "clear"
            yield "load 1m"
            yield from (f"  {name} {values}" for name, values in series.items())
            yield ""
            yield f"eval instant at {ASKED_AFTER} group({expr})"
            if kind == "fires":
                yield "  {} 1"
            yield ""


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "go.mod").write_text("module rules\n\ngo 1.25.0\n")
    (FOLDER / "rules_test.go").write_text(JUDGE)
    (FOLDER / "rules.test").write_text(script())
    for command in (["go", "get", PROMETHEUS], ["go", "test", "-count=1", "./..."]):
        done = subprocess.run(command, cwd=FOLDER, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
