"""Rows of files: which columns are which fields, what cells say, what is read and what is told."""

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.command_arguments import CommandError
from aforo_meter.domain.import_rows import (
    HeaderError,
    columns_of,
    delimiter_of,
    event_of_cells,
    line_key,
    number_of,
)
from aforo_meter.domain.ingest import read_event
from aforo_meter.domain.ingest_values import Rejection
from aforo_meter.import_file import LINE_BYTES_MAX, Place, Row, UsageFile
from tests.ingest_samples import NOW, RULES

HEADER = "customerId,metricName,quantity,occurredAt,idempotencyKey,metadata"
GOOD = "acme,api_calls,1,2026-11-26T10:00:00Z,k1,"


def rows_of(path: Path, place: Place = Place()) -> list[Row]:  # noqa: B008 - frozen
    return list(UsageFile(path).rows(place, lambda _: None))


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "usage.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def events_of(path: Path) -> list[Any]:
    rows = rows_of(path)
    assert not [row.rejection for row in rows if row.rejection]
    return [row.event for row in rows]


@pytest.mark.parametrize(
    ("written_as", "field"),
    [
        ("customerId", "customerId"),
        ("customer_id", "customerId"),
        ("CUSTOMER_ID", "customerId"),
        (" Customer Id ", "customerId"),
        ("tool_name", "toolName"),
        ("input_tokens", "inputTokens"),
        ("metadata.team", "metadata.team"),
        ("color", "color"),
    ],
)
def test_a_column_is_known_however_it_is_spelled(written_as: str, field: str) -> None:
    header = [written_as, "metricName", "quantity", "occurredAt", "customerId"]

    if field == "customerId":
        header.pop()
    assert columns_of(header)[0] == field


def test_a_header_that_lacks_a_column_says_which() -> None:
    with pytest.raises(HeaderError, match="no column quantity, occurredAt; it has: customerId"):
        columns_of(["customerId", "metricName"])


def test_a_column_that_is_there_twice_is_refused() -> None:
    with pytest.raises(HeaderError, match="more than one column customerId"):
        columns_of(["customerId", "customer_id", "metricName", "quantity", "occurredAt"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_follows_from_the_header(delimiter: str) -> None:
    assert delimiter_of(HEADER.replace(",", delimiter)) == delimiter


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("1", 1),
        (" 2.50 ", Decimal("2.50")),
        ("1e3", Decimal("1e3")),
        ("1,000", "1,000"),
        ("1_000", "1_000"),
        ("٣", "٣"),
        ("many", "many"),
    ],
)
def test_a_number_is_exact_and_what_is_none_stays_a_text(cell: str, number: object) -> None:
    assert number_of(cell) == number


def test_metadata_comes_from_its_own_columns_and_from_json() -> None:
    columns = ["customerId", "metadata", "metadata.team", "inputTokens", "model"]

    event = event_of_cells(columns, ["acme", '{"a": 1}', "blue", "12", "gpt-4o"], json.loads)

    assert event == {
        "customerId": "acme",
        "metadata": {"a": 1, "team": "blue", "inputTokens": 12, "model": "gpt-4o"},
    }


@pytest.mark.parametrize("cell", ["[1]", "{", "team"])
def test_metadata_that_is_no_object_is_refused(cell: str) -> None:
    with pytest.raises(Rejection, match="metadata: must be a JSON object"):
        event_of_cells(["metadata"], [cell], json.loads)


def test_a_row_may_tell_the_true_tokens_of_a_call_at_the_gateway() -> None:
    header = "customer_id,metric_name,quantity,occurred_at,aforo_decision_id,provider,model"
    columns = columns_of([*header.split(","), "input_tokens", "idempotency_key"])
    cells = ["acme", "system.call.tokens", "1", NOW.isoformat(), "ab" * 16, "openai", "gpt-4o"]

    reading = read_event(event_of_cells(columns, [*cells, "12", "k"], json.loads), RULES)

    assert reading.decision_id == "ab" * 16
    assert reading.measures == (("llm.input_tokens", 12_000_000),)


def test_a_key_follows_from_file_and_line() -> None:
    assert line_key("a", 1) == line_key("a", 1)
    assert len({line_key("a", 1), line_key("a", 2), line_key("b", 1)}) == 3


def test_a_byte_order_mark_and_quoted_newlines_are_read(tmp_path: Path) -> None:
    text = (
        f"\ufeff{HEADER}\r\n"
        'acme,api_calls,1,2026-11-26T10:00:00Z,k1,"{""note"": ""x""}"\r\n'
        "\r\n"
        'acme,api_calls,2,2026-11-26T10:00:00Z,"k\n2",\r\n'
        "acme,api_calls,3,2026-11-26T10:00:00Z,k3,"
    )

    rows = rows_of(written(tmp_path, text))

    assert [row.event["idempotencyKey"] for row in rows] == ["k1", "k\n2", "k3"]
    assert [(row.line, row.last_line) for row in rows] == [(2, 2), (4, 5), (6, 6)]
    assert rows[0].event["metadata"] == {"note": "x"}


def test_a_quote_that_is_never_closed_spoils_its_own_line_only(tmp_path: Path) -> None:
    text = f'{HEADER}\n{GOOD}\nacme,api_calls,1,2026-11-26T10:00:00Z,"k2,\n{GOOD}\n{GOOD}'

    rows = rows_of(written(tmp_path, text))

    assert [(row.line, row.rejection is None) for row in rows] == [
        *((2, True), (3, False), (4, True), (5, True))
    ]
    assert str(rows[1].rejection) == "row: is no CSV: a quote is opened and not closed"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("acme,api_calls", "row: has 2 fields, and the header has 6"),
        (GOOD + ",more", "row: has 7 fields, and the header has 6"),
        (b"acme,\xff,1,2,3,", "line: is not UTF-8: invalid start byte"),
        ("x" * (LINE_BYTES_MAX + 10), f"line: is longer than {LINE_BYTES_MAX} bytes"),
    ],
)
def test_a_bad_line_is_told_and_the_next_one_read(
    tmp_path: Path, line: str | bytes, problem: str
) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    content = b"\n".join([HEADER.encode(), raw, GOOD.encode()])

    bad, good = rows_of(written(tmp_path, content))

    assert str(bad.rejection) == problem
    assert (good.line, good.event["idempotencyKey"]) == (3, "k1")


def test_json_lines_are_read_and_a_bad_one_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, '{"customerId": "acme", "quantity": 0.1}\n\n{"customerId"\n[1]\n')

    first, second, third = rows_of(path)

    assert first.event == {"customerId": "acme", "quantity": Decimal("0.1")}
    assert (second.line, second.rejection is None) == (3, False)
    assert (third.line, third.event) == (4, [1])


def test_a_packed_file_is_read_as_if_it_were_not(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(f"{HEADER}\n{GOOD}\n{GOOD}\n".encode()))

    assert len(events_of(path)) == 2


@pytest.mark.parametrize("content", ["", "\n", "customerId,quantity\n"])
def test_a_file_without_a_usable_header_says_so(tmp_path: Path, content: str) -> None:
    with pytest.raises(CommandError, match=r"is empty|line 1: the header has no column"):
        UsageFile(written(tmp_path, content))


@given(
    cells=st.lists(st.text(alphabet='ab"\n,; ', max_size=6), min_size=1, max_size=12),
    cut=st.integers(min_value=0, max_value=11),
)
def test_reading_may_stop_behind_any_row_and_go_on(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str], cut: int
) -> None:
    lines = ["acme,api_calls,1,2026-11-26T10:00:00Z," + cell + "," for cell in cells]
    path = tmp_path_factory.getbasetemp() / "cut.csv"
    path.write_text("\n".join([HEADER, *lines]), newline="")
    whole = rows_of(path)
    if cut >= len(whole):
        return

    rest = rows_of(path, Place(offset=whole[cut].end, line=whole[cut].last_line))

    assert [(row.line, row.raw, row.event) for row in rest] == [
        (row.line, row.raw, row.event) for row in whole[cut + 1 :]
    ]
