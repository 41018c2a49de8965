"""`make bench-authz`: the decision server's numbers, with what each must be."""

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import authz_rates, authz_tenants, decisions, h2load, musts
from bench.__main__ import decisions_table, write
from bench.musts import Must

MUSTS = (
    Must("near_cache_to_floor", "full decision, cached / constant answer", 0.45, at_least=True),
    Must("near_cache_to_grpcio", "full decision, cached / grpcio's constant", 5.0, at_least=True),
    Must("hard_quota_to_floor", "full decision, reserved / constant answer", 0.22, at_least=True),
    Must("envoy_added_p99_ratio", "behind Envoy: p99 added / constant's", 1.3, at_least=False),
    Must("envoy_aforo_p99_ms", "behind Envoy: p99, 1,000 a second", 5.0, at_least=False),
    Must("tenants_p99_ratio", "p99, 1,000,000 tenants / 1,000", 1.5, at_least=False),
    Must("rss_mb", "MB after 100,000 tenants", 200.0, at_least=False),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.authz",
        description=__doc__,
        epilog='example: make bench-authz BENCH_ARGS="--only rates"',
    )
    parser.add_argument("--only", choices=["rates", "envoy", "tenants"], help="one part")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a timed round")
    options = parser.parse_args()
    try:
        h2load.require()
    except h2load.H2loadError as error:
        print(f"bench-authz: {error}", file=sys.stderr)
        return 2
    console = Console(width=120)
    result: dict[str, Any] = {}
    if options.only in (None, "rates"):
        result |= authz_rates.run(rounds=options.rounds)
    if options.only in (None, "envoy"):
        result |= _envoy(console, options)
    if options.only in (None, "tenants"):
        result |= authz_tenants.run(rounds=options.rounds, duration_s=options.seconds)
    write("authz", result)
    console.print(_table(result))
    print("written to build/bench/authz.json")
    return 0 if musts.all_hold(MUSTS, result) else 1


def _envoy(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    behind = decisions.run(rate_per_s=1000.0, duration_s=options.seconds, rounds=options.rounds)
    console.print(decisions_table(behind))
    names = {
        "none": decisions.NONE,
        "constant": decisions.REFERENCE,
        "aforo": decisions.AFORO,
        "aforo_quota": decisions.AFORO_QUOTA,
        "grpcio": decisions.AFORO_GRPCIO,
    }
    told: dict[str, Any] = {}
    for short, name in names.items():
        for figure in ("p50_ms", "p99_ms", "closed_loop_rps", "authz_cpu_micros"):
            told[f"envoy_{short}_{figure}"] = behind["variants"][name][figure]
    return told | {"envoy_added_p99_ratio": behind["variants"][decisions.AFORO]["added_p99_ratio"]}


def _table(result: dict[str, Any]) -> Table:
    table = musts.table("the decision server: one run, two cores, medians of rounds in turns")
    for key in (
        authz_rates.FLOOR,
        authz_rates.GRPCIO,
        authz_rates.NEAR_CACHE,
        authz_rates.HARD_QUOTA,
    ):
        if key in result:
            micros = result["cpu_micros"][key]
            table.add_row(key, f"{micros} µs of CPU each", f"{result[key]:,}", "", "")
    musts.add_musts(table, MUSTS, result)
    return table


if __name__ == "__main__":
    sys.exit(main())
