"""Events and dead letters as people and programs read them."""

import json

import pytest

from aforo_meter.shown_events import (
    TEXT_BYTES_SHOWN,
    fields_of,
    json_text,
    line_of,
    payload_text,
    plain,
    quantity,
)
from aforo_proto import usage_pb2

EVENT = usage_pb2.UsageEvent(
    event_id="ik:1",
    tenant_id="acme",
    occurred_at_micros=1_795_000_000_500_000,
    outcome=usage_pb2.OUTCOME_ALLOW,
    measures=[usage_pb2.Measure(meter="api.calls", units=2, micros=500_000)],
    dimensions=usage_pb2.Dimensions(
        tool="search\x1b[2J", execution_status=usage_pb2.EXECUTION_STATUS_ERROR
    ),
    metadata_json='{"team": "blue"}',
)


def test_an_event_is_shown_by_the_names_that_a_search_goes_by() -> None:
    assert fields_of(EVENT) == {
        "event_id": "ik:1",
        "tenant": "acme",
        "occurred_at": "2026-11-18T11:06:40.500000Z",
        "outcome": "allow",
        "tool": "search\x1b[2J",
        "execution_status": "error",
        "measures": {"api.calls": "2.5"},
        "metadata": {"team": "blue"},
    }


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "a\u202eb", "\n", "\x7f"])
def test_no_terminal_obeys_what_a_client_says(text: str) -> None:
    assert plain(text).isprintable()
    assert json_text({"a": text}).isprintable()
    assert json.loads(json_text({"a": text})) == {"a": text}


def test_a_line_tells_who_what_and_how_much() -> None:
    assert line_of(EVENT) == (
        "2026-11-18T11:06:40.500000Z  acme  ik:1  allow  api.calls 2.5"
        '  tool=search\\x1b[2J  {"team": "blue"}'
    )


@pytest.mark.parametrize(
    ("units", "micros", "text"), [(0, 0, "0"), (3, 0, "3"), (0, 1, "0.000001"), (1, 100_000, "1.1")]
)
def test_a_quantity_is_shown_exactly(units: int, micros: int, text: str) -> None:
    assert quantity(usage_pb2.Measure(meter="m", units=units, micros=micros)) == text


def test_text_is_shown_as_text_and_the_rest_as_hex() -> None:
    assert payload_text(b'{"a": 1}') == '{"a": 1}'
    assert payload_text(b"\xff\x00\x01") == "ff0001"
    assert payload_text(b"x" * (TEXT_BYTES_SHOWN + 1)).endswith(f"… ({TEXT_BYTES_SHOWN + 1} bytes)")
