"""`make bench-meter`: metering's numbers, with what each must be."""

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import ingest, meter_latency, meter_ship, musts
from bench.__main__ import write
from bench.musts import Must

MUSTS = (
    Must("ship_eps", "entries → acknowledged by the broker, a second", 40_000, at_least=True),
    Must("ship_to_floor", "the same / the floor", 0.3, at_least=True),
    Must("spool_to_ship", "broker away / broker there", 0.8, at_least=True),
    Must("ingest_eps", "batches of 1,000 → acknowledged, a second", 20_000, at_least=True),
    Must("added_latency_ms", "Envoy's p99 with the access log − without", 0.1, at_least=False),
    Must("rss_mb", "MB at full rate, broker there and frozen", 200.0, at_least=False),
    Must("rss_growth_mb", "MB that it still grows by in the end", 10.0, at_least=False),
)
FIGURES = {
    "parse_floor_eps": "parse, read the fields, no more: entries a second",
    "spool_eps": "entries → the spool, broker away, a second",
}
PARTS = {
    "read_and_serialize": "access_log.py, the event's bytes",
    "grpc_both_ends": "grpcio, both ends",
    "spool_append": "length, CRC-32, write()",
    "kafka_batch_and_ack": "outflow, batches, acknowledgement",
    "ship_whole": "the process, broker there",
    "spool_whole": "the process, broker away",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.meter",
        description=__doc__,
        epilog='example: make bench-meter BENCH_ARGS="--only ship"',
    )
    parser.add_argument("--only", choices=["ship", "ingest", "latency", "memory"], help="one part")
    parser.add_argument("--rounds", type=int, default=3, help="turns of ship and spool")
    parser.add_argument("--latency-rounds", type=int, default=15, help="turns of the two Envoys")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a timed round")
    parser.add_argument("--memory-seconds", type=float, default=60.0, help="of each memory run")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.only in (None, "ship"):
        result |= meter_ship.run(rounds=options.rounds, duration_s=options.seconds)
    if options.only in (None, "ingest"):
        result |= ingest.run()
    if options.only in (None, "latency"):
        result |= meter_latency.run(rounds=options.latency_rounds, duration_s=options.seconds)
    if options.only in (None, "memory"):
        result |= meter_ship.run_memory(duration_s=options.memory_seconds)
    write("meter", result)
    Console(width=120).print(_table(result))
    print("written to build/bench/meter.json")
    return 0 if musts.all_hold(MUSTS, result) else 1


def _table(result: dict[str, Any]) -> Table:
    table = musts.table("metering: one run, two cores, medians of rounds in turns")
    if "parse_floor_eps" in result:
        for key, what in FIGURES.items():
            table.add_row(key, what, f"{result[key]:,}")
        for name, what in PARTS.items():
            table.add_row(f"  {name}", f"{what}: µs of CPU an entry", f"{result['micros'][name]}")
    musts.add_musts(table, MUSTS, result)
    return table


if __name__ == "__main__":
    sys.exit(main())
