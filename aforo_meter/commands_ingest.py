"""The subcommand `ingest` of `aforo-meter`."""

import argparse
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aforo_meter.settings_ingest import IngestSettings

EXAMPLES: Final = """\
examples:
  AFORO_METER_INGEST_KAFKA_BOOTSTRAP=kafka:9092 \\
  AFORO_METER_INGEST_REDIS_URL=redis://redis:6379/0 \\
  AFORO_METER_INGEST_LEDGER_URL=sqlite:////var/lib/aforo/ledger.db  aforo-meter ingest

  curl -i http://127.0.0.1:9193/v1/ingest -H "X-API-Key: $KEY" \\
    -H 'Content-Type: application/json' \\
    -d '{"customerId": "acme", "metricName": "api_calls", "quantity": 1,
         "occurredAt": '"$(date +%s)"', "idempotencyKey": "order-4711"}'

Its own description is at /docs and /openapi.json. All settings: aforo-meter check-config ingest
"""

Start = Callable[[type[IngestSettings], Callable[[IngestSettings], Coroutine[Any, Any, int]]], int]


def register(commands: "argparse._SubParsersAction[Any]", start: Start) -> None:
    """Add the subcommand.

    Args:
        commands: Where it is added.
        start: Loads settings of a kind and runs a process with them.
    """
    parser = commands.add_parser(
        "ingest",
        help="usage over HTTP → Kafka",
        description="Takes usage events over HTTP, as the published SDKs send them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def run(_: argparse.Namespace) -> int:
        from aforo_meter.ingest import run as ingest  # noqa: PLC0415 - what it needs, it alone.

        return start(IngestSettings, ingest.run)

    parser.set_defaults(run=run)
