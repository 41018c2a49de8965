"""`make bench`: measure, print tables with ratios, write build/bench/*.json."""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import decisions, freshness, h2load
from lab.servers import ROOT

OUT = ROOT / "build" / "bench"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog='example: make bench BENCH_ARGS="--only decisions --rounds 5"',
    )
    parser.add_argument("--only", choices=["decisions", "freshness"], help="one part")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each variant")
    parser.add_argument("--tenants", type=int, default=30, help="samples of freshness")
    options = parser.parse_args()
    console = Console(width=110)
    if options.only in (None, "decisions"):
        try:
            h2load.require()
        except h2load.H2loadError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        result = decisions.run(
            rate_per_s=options.rate, duration_s=options.seconds, rounds=options.rounds
        )
        write("decisions", result)
        console.print(decisions_table(result))
    if options.only in (None, "freshness"):
        result = freshness.run(tenants=options.tenants)
        write("freshness", result)
        console.print(freshness_table(result))
    print(f"written to {OUT.relative_to(ROOT)}/")
    return 0


def write(name: str, result: dict[str, Any]) -> Path:
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    path.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
    return path


def decisions_table(result: dict[str, Any]) -> Table:
    table = Table(
        title=f"behind Envoy at {result['rate_per_s']:.0f} requests a second"
        f" (medians of {result['rounds']} rounds of {result['duration_s']:.0f} s)"
    )
    headings = ("", "p50 ms", "p99 ms", "p99 ratio", "added p99", "closed loop", "authz µs CPU")
    for heading in (*headings, "Envoy µs CPU", "failed"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, figures in result["variants"].items():
        table.add_row(
            name,
            f"{figures['p50_ms']:.2f}",
            f"{figures['p99_ms']:.2f}",
            f"{figures['p99_ratio']:.2f}",
            f"{figures['added_p99_ratio']:.2f}",
            f"{figures['closed_loop_rps']:,.0f}/s",
            f"{figures['authz_cpu_micros']:.0f}",
            f"{figures['envoy_cpu_micros']:.0f}",
            f"{figures['failed']:.0f}",
        )
    return table


def freshness_table(result: dict[str, Any]) -> Table:
    table = Table(title=f"usage → decision, {result['samples']} tenants")
    for name in ("p50_ms", "p95_ms", "max_ms"):
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{result[name]:.0f}" for name in ("p50_ms", "p95_ms", "max_ms")))
    return table


if __name__ == "__main__":
    sys.exit(main())
