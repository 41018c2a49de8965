"""The subcommand `replay` of `aforo-meter`."""

import argparse
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from aforo_meter.command_arguments import (
    BOOTSTRAP_HELP,
    FAILED,
    LEDGER_URL_HELP,
    OK,
    USAGE_TOPIC,
    bootstrap,
    ledger_url,
    misused,
    redis_url,
    time_micros,
)
from aforo_meter.command_running import run_async
from aforo_meter.command_tables import many
from aforo_meter.domain.ledger_diff import Comparison, Difference, Kind
from aforo_meter.domain.periods import PeriodMicros, datetime_of

ROWS_SHOWN: Final = 50
HEADER: Final = ("hour (UTC)", "tenant", "meter", "price", "", "replayed", "live", "COGS off by")

EXAMPLES: Final = """\
examples:
  aforo-meter replay --bootstrap kafka:9092 --redis-url redis://redis:6379/0 \\
      --from 2026-11-25 --to 2026-11-26 --ledger-url sqlite:////tmp/scratch.db \\
      --live-ledger-url sqlite:////var/lib/aforo/ledger.db

Reads the usage that occurred in that time from Kafka, rates it by the contracts and prices that
hold now, and writes it to a ledger of its own, which must be a new file or an empty database. With
--live-ledger-url the two are compared: hours that lie wholly in the time, as far as the live ledger
had read when the replay began. It sends no alert, publishes no margin, and writes nothing to Kafka,
Redis or the live ledger.

Exit codes: 0 equal (or nothing to compare with); 1 differences, or it could not be done;
2 wrong usage.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    parser = commands.add_parser(
        "replay",
        help="rate usage again into a scratch ledger, and compare",
        description="Rates usage of a time again, and finds where the live ledger says otherwise.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bootstrap", type=bootstrap, required=True, help=BOOTSTRAP_HELP)
    parser.add_argument("--topic", default=USAGE_TOPIC, help="(default: %(default)s)")
    parser.add_argument("--redis-url", type=redis_url, required=True, help="contracts and prices")
    parser.add_argument("--from", dest="since", type=time_micros, required=True, help="UTC")
    parser.add_argument(
        "--to", dest="until", type=time_micros, required=True, help="UTC, exclusive"
    )
    parser.add_argument(
        "--ledger-url", type=ledger_url, required=True, help=f"a new ledger: {LEDGER_URL_HELP}"
    )
    parser.add_argument("--live-ledger-url", type=ledger_url, help="what to compare with")
    parser.add_argument("--json", action="store_true", help="for programs; all differences")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from aforo_meter import replay  # noqa: PLC0415 - aiokafka, for this command alone.

    if options.since >= options.until:
        return misused(options, "--from must be before --to")
    wanted = replay.Wanted(
        period=PeriodMicros(options.since, options.until),
        bootstrap=options.bootstrap,
        topic=options.topic,
        redis_url=options.redis_url,
        scratch_url=options.ledger_url,
        live_url=options.live_ledger_url,
    )

    async def work() -> int:
        done = await replay.run(wanted)
        print(_as_json(done) if options.json else _as_text(done))  # noqa: T201
        return OK if done.comparison is None or done.comparison.is_equal else FAILED

    return run_async(work())


def _as_text(done: Any) -> str:  # noqa: ANN401 - replay.Replayed, which needs aiokafka.
    lines = [f"{done.records} records read, {done.rated} events rated again"]
    if done.refused:
        lines.append(f"{done.refused} records can't be read: they are dead letters")
    if done.behind:
        lines.append(f"{done.behind} records left out: the live ledger has not read them yet")
    if done.cut_partitions:
        numbers = ", ".join(map(str, done.cut_partitions))
        lines.append(f"kafka no longer has the beginning of partitions {numbers}")
    lines += [f"not compared: {_span(part)}" for part in done.left_out]
    if done.comparison is not None:
        lines += _comparison(done.comparison, done.hours)
    return "\n".join(lines)


def _comparison(found: Comparison, hours: PeriodMicros) -> list[str]:
    if hours.start_micros == hours.end_micros:
        return ["no hour lies wholly in this time: there is nothing to compare"]
    lines = []
    if found.differences:
        rows = [HEADER, *(_cells(one) for one in found.differences[:ROWS_SHOWN])]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if len(found.differences) > ROWS_SHOWN:
            lines.append(f"… and {len(found.differences) - ROWS_SHOWN} more (--json has all)")
    counts = found.counts
    lines.append(
        f"{_span(hours)}: {many(counts[Kind.EQUAL], 'row')} equal, {counts[Kind.DIFFERING]} differ,"
        f" {counts[Kind.MISSING_HERE]} are in the live ledger alone,"
        f" {counts[Kind.MISSING_THERE]} in the replay alone"
    )
    return lines


def _cells(one: Difference) -> Sequence[str]:
    key = one.key
    about = [key.feature, key.provider, key.model, key.tool, key.execution_status]
    return (
        _time(key.hour_start_micros),
        key.tenant_id or "(nobody)",
        key.meter,
        key.price_id or "(unpriced)",
        " ".join(part for part in about if part),
        "–" if one.kind is Kind.MISSING_HERE else _scaled(one.here.quantity_micros, 6),
        "–" if one.kind is Kind.MISSING_THERE else _scaled(one.there.quantity_micros, 6),
        _scaled(one.amount_nanos, 9),
    )


def _as_json(done: Any) -> str:  # noqa: ANN401
    found: dict[str, Any] = {
        "from": _iso(done.asked.start_micros),
        "to": _iso(done.asked.end_micros),
        "records": done.records,
        "rated": done.rated,
        "unreadable": done.refused,
        "behind": done.behind,
        "cut_partitions": list(done.cut_partitions),
        "left_out": [[_iso(part.start_micros), _iso(part.end_micros)] for part in done.left_out],
    }
    if done.comparison is not None:
        found |= {
            "is_equal": done.comparison.is_equal,
            "rows": {str(kind): count for kind, count in done.comparison.counts.items()},
            "differences": [_difference(one) for one in done.comparison.differences],
        }
    return json.dumps(found, ensure_ascii=False)


def _difference(one: Difference) -> dict[str, Any]:
    key = one.key._asdict()
    hour_micros = key.pop("hour_start_micros")
    return {
        "kind": str(one.kind),
        "hour_start": _iso(hour_micros),
        **key,
        "replayed_quantity_micros": one.here.quantity_micros,
        "live_quantity_micros": one.there.quantity_micros,
        "replayed_amount_nanos": one.here.amount_nanos,
        "live_amount_nanos": one.there.amount_nanos,
    }


def _span(period: PeriodMicros) -> str:
    return f"{_time(period.start_micros)} to {_time(period.end_micros)}"


def _time(micros: int) -> str:
    return datetime_of(micros).strftime("%Y-%m-%d %H:%M")


def _iso(micros: int) -> str:
    return datetime_of(micros).isoformat()


def _scaled(number: int, digits: int) -> str:
    text = format(Decimal(number).scaleb(-digits), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
