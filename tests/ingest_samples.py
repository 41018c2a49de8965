"""Events as clients send them, and the rules they are held against."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from aforo_meter.domain.ingest import Reading, Rules, read_event
from aforo_meter.domain.ingest_metrics import NamedMeter, metrics_of

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
NOW_MICROS = int(NOW.timestamp()) * 1_000_000
METERS = (
    NamedMeter(meter="seats", unit="seat", aliases=("licences",)),
    NamedMeter(meter="credits", unit="Token"),
)


def encode(value: Mapping[str, Any]) -> bytes:
    def number(one: object) -> object:
        assert isinstance(one, Decimal)
        return float(one)

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=number).encode()


RULES = Rules(metrics=metrics_of(METERS), now_micros=NOW_MICROS, encode=encode)


def event(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - of an event
    """Return an event that is taken. A field that is None is left out."""
    whole = {
        "customerId": "acme",
        "metricName": "api_calls",
        "quantity": 1,
        "occurredAt": "2026-11-26T11:59:00Z",
        "idempotencyKey": "key-1",
    } | fields
    return {name: value for name, value in whole.items() if value is not None}


def read(**fields: Any) -> Reading:  # noqa: ANN401 - of an event
    return read_event(event(**fields), RULES)
