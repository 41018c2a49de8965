"""How long a what-if takes: tenants with a month of hourly rows, some scenarios, one process.

    python -m bench.what_if --tenants 10000 --hours 72

The ledger is an SQLite file, filled in bulk by its tables; what is measured is the product's code.
"""

import argparse
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aforo_admin.catalog_yaml import read_text
from aforo_admin.domain.catalog import Catalog, ThresholdChanges
from aforo_admin.domain.scenario import CostChange, FeeChange, FloorChange, PriceChange, Scenario
from aforo_admin.simulating import Ground, simulate
from aforo_meter.domain.periods import HOUR_MICROS, micros_of
from aforo_meter.migrate import migrate

NOW = datetime(2026, 11, 30, tzinfo=UTC)
START = datetime(2026, 11, 1, tzinfo=UTC)
END = START + timedelta(days=30)
CATALOG = """\
version: 1
currency: USD
built_in_costs: false
features: [{id: chat, title: Chat}]
plans:
  flat: {committed_fee: 1000, billing: calendar, features: [chat]}
  metered:
    committed_fee: 10
    billing: calendar
    features: [chat]
    rate_card:
      - from: 2020-01-01
        components:
          - id: tokens
            meter: llm.input_tokens
            graduated: [{up_to: 1M, price: 4, per: 1M}, {price: 3, per: 1M}]
costs:
  - {meter: llm.input_tokens, provider: openai, price: 2.5, per: 1M, from: 2020-01-01}
tenants:
"""
CHARGE = (
    "INSERT INTO charge (tenant_id, subscription_id, period_start_micros, hour_start_micros,"
    " feature, meter, provider, model, price_id, input_tokens, tool, execution_status,"
    " quantity_micros, extra_micros, estimated_micros)"
    " VALUES (?, ?, ?, ?, 'chat', 'llm.input_tokens', 'openai', 'gpt-4o', 'p', 0, '', '', ?, 0, 0)"
)
PRICE = (
    "INSERT INTO price (price_id, meter, price_nanos, per_units, currency, effective_from_micros,"
    " tier_input_tokens_from, source, first_used_at_micros)"
    " VALUES ('p', 'llm.input_tokens', 2500000000, 1000000, 'USD', 0, 0, 'catalog', 0)"
)
STATE = (
    "INSERT INTO margin_state (tenant_id, subscription_id, period_start_micros, period_end_micros,"
    " cogs_nanos, unpriced_rows, in_force, level, revenue_nanos, allowance_nanos, currency,"
    " assessed_at_micros) VALUES (?, ?, ?, ?, ?, 0, 1, 0, ?, 0, 'USD', ?)"
)
TOKENS = 10_000  # An hour.
ROW_NANOS = TOKENS * 2500


def main() -> int:
    parser = argparse.ArgumentParser(description="What a what-if takes.")
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--hours", type=int, default=72, help="with usage, of each tenant")
    parser.add_argument("--metered", type=int, default=10, help="every so-many-th has a rate card")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        migrate(url, dry_run=False)
        _fill(Path(folder) / "ledger.db", options)
        ground = Ground(catalog=_catalog(options), ledger_url=url, now=NOW)
        _say(f"{options.tenants:,} tenants, {options.tenants * options.hours:,} rows")
        for name, scenario in _scenarios():
            began_s, cpu_s = time.monotonic(), time.process_time()
            found = simulate(scenario, ground)
            took_s, spent_s = time.monotonic() - began_s, time.process_time() - cpu_s
            changed = sum(one.is_changed for one in found.outcomes)
            _say(f"{name:<42} {took_s:6.1f} s ({spent_s:5.1f} s CPU), {changed:,} change")
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        _say(f"peak memory {peak_mib} MiB")
    return 0


def _scenarios() -> Iterator[tuple[str, Scenario]]:
    yield "nothing changed", Scenario()
    yield "a fee", Scenario(fees=(FeeChange(plan_id="flat", percent_bp=1000),))
    floors = FloorChange(thresholds=ThresholdChanges(block_below_bp=500))
    yield "a floor", Scenario(floors=(floors,))
    cheaper = PriceChange(plan_id="metered", percent_bp=-2000)
    yield "a price by the rate card", Scenario(prices=(cheaper,))
    yield "a provider +20 %", Scenario(costs=(CostChange(provider="openai", percent_bp=2000),))


def _catalog(options: argparse.Namespace) -> Catalog:
    lines = [
        f"  t{number}: {{subscription: {{id: s{number}, plan: {_plan(number, options)},"
        " started_at: 2026-01-01}}\n"
        for number in range(options.tenants)
    ]
    return read_text((CATALOG + "".join(lines)).encode(), name="bench")


def _plan(number: int, options: argparse.Namespace) -> str:
    return "metered" if number % options.metered == 0 else "flat"


def _fill(path: Path, options: argparse.Namespace) -> None:
    start, end = micros_of(START), micros_of(END)
    cogs_nanos = options.hours * ROW_NANOS
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("PRAGMA synchronous=OFF")
        sql.execute(PRICE)
        sql.executemany(CHARGE, _rows(options))
        sql.executemany(
            STATE,
            (
                (f"t{n}", f"s{n}", start, end, cogs_nanos, _revenue(n, options), end)
                for n in range(options.tenants)
            ),
        )


def _revenue(number: int, options: argparse.Namespace) -> int:
    if _plan(number, options) == "flat":
        return 1000 * 10**9
    tokens: int = options.hours * TOKENS
    return 10 * 10**9 + min(tokens, 10**6) * 4000 + max(0, tokens - 10**6) * 3000


def _rows(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    start = micros_of(START)
    for number in range(options.tenants):
        for hour in range(options.hours):
            at = start + hour * HOUR_MICROS
            yield (f"t{number}", f"s{number}", start, at, TOKENS * 1_000_000)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
