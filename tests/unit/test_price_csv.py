"""A CSV of cost prices: what it says, and what is wrong at which row and column."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from aforo_admin.domain.catalog import Catalog, CostPrice, IngestKey
from aforo_admin.price_csv import BYTES_MAX, ROWS_MAX, TEMPLATE, RowFault, read_price_rows

HEADER = "meter,provider,model,price,per,from\n"
BEGIN = datetime(2027, 1, 1, tzinfo=UTC)
HELD = CostPrice(
    meter="llm.input_tokens",
    provider="openai",
    model="gpt-4o",
    price_nanos=2_500_000_000,
    per_units=10**6,
    effective_from=BEGIN,
)
CATALOG = Catalog(currency="USD", costs=(HELD,))


def faults(text: str | bytes) -> list[RowFault]:
    data = text if isinstance(text, bytes) else text.encode()
    found = read_price_rows(data, CATALOG)
    assert not found.new or found.faults
    return list(found.faults)


def told(text: str) -> list[tuple[int, str, str]]:
    return [(each.row, each.column, each.message) for each in faults(text)]


def test_keys_confined_to_tenants_are_no_fault_of_a_price() -> None:
    """Prices are read beside a catalog without its tenants."""
    key = IngestKey(key_id="k", sha256="a" * 64, scopes=("usage:ingest",), tenants=("acme",))

    found = read_price_rows(
        f"{HEADER}api.calls,,,1,1,2027-01-01".encode(), replace(CATALOG, ingest_keys=(key,))
    )

    assert (len(found.new), found.faults) == (1, ())


def test_rows_become_entries_exactly() -> None:
    text = (
        "from,price,per,meter,Model,provider,input_tokens_from,day_from,day_to\r\n"
        "2027-02-01,0.0000025,1,llm.input_tokens,GPT-4o,OpenAI,,,\r\n"
        "\r\n"
        '2027-02-01T06:00Z," 1_000.50 USD",1M,api.calls,,,200k,22:00,06:30\r\n'
    )

    found = read_price_rows(b"\xef\xbb\xbf" + text.encode(), CATALOG)

    assert found.faults == ()
    assert found.new == {
        2: CostPrice(
            meter="llm.input_tokens",
            provider="openai",
            model="gpt-4o",
            price_nanos=2500,
            per_units=1,
            effective_from=datetime(2027, 2, 1, tzinfo=UTC),
        ),
        4: CostPrice(
            meter="api.calls",
            price_nanos=1_000_500_000_000,
            per_units=10**6,
            effective_from=datetime(2027, 2, 1, 6, tzinfo=UTC),
            input_tokens_from=200_000,
            day_from_s=22 * 3600,
            day_to_s=6 * 3600 + 1800,
        ),
    }


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spreadsheets_separate_in_their_ways(separator: str) -> None:
    text = HEADER + "api.calls,p,,1,1,2027-01-01\n"

    found = read_price_rows(text.replace(",", separator).encode(), CATALOG)

    assert (list(found.new), found.faults) == ([2], ())


def test_what_is_in_the_price_book_as_written_is_left_alone() -> None:
    text = HEADER + (
        "llm.input_tokens,openai,gpt-4o,2.50,1M,2027-01-01\n"
        "llm.input_tokens,openai,gpt-4o,3.00,1M,2027-02-01\n"
    )

    found = read_price_rows(text.encode(), CATALOG)

    assert (found.known, list(found.new), found.faults) == ((2,), [3], ())


def test_each_fault_has_its_row_its_column_and_a_remedy() -> None:
    text = HEADER + (
        "llm.input_token,openai,a,1,1M,2027-01-01\n"
        "llm.input_tokens,openai,b,much,1M,2027-01-01\n"
        "llm.input_tokens,openai,c,,1M,01.02.2027\n"
        "llm.input_tokens,openai,g*o,1,0,2027-01-01\n"
        "llm.input_tokens,openai,gpt-4o,9,1M,2027-01-01\n"
        "api.calls,,x,1,1,2027-03-01\n"
        "api.calls,,x,2,1,2027-03-01\n"
    )

    found = told(text)

    assert [(row, column) for row, column, _ in found] == [
        (2, "meter"),
        (3, "price"),
        (4, "price"),
        (4, "from"),
        (5, "per"),
        (5, "model"),
        (6, "from"),
        (8, "from"),
    ]
    messages = [message for *_, message in found]
    assert 'did you mean "llm.input_tokens"' in messages[0]
    assert '"much" is no amount: write digits and a point' in messages[1]
    assert messages[2] == "is missing: write an amount, like 2.50"
    assert "write" in messages[3]
    assert "overlaps an entry of the price book" in messages[6]
    assert "overlaps row 7: both price api.calls" in messages[7]
    assert "give them different dates or remove one" in messages[7]


@pytest.mark.parametrize(
    ("text", "row", "column", "message"),
    [
        ("", 0, "", "is empty: begin with a row that names the columns"),
        (TEMPLATE, 0, "", "has no prices: write one a row, below the columns"),
        ("meter,price,per\n", 1, "from", "is missing: add it, with a date, like 2027-01-01"),
        (
            HEADER.replace("model", "modelx"),
            1,
            "modelx",
            'no column "modelx"; did you mean "model"?',
        ),
        (HEADER.replace("model", "meter"), 1, "meter", "is there twice: leave one out"),
        (HEADER + 'a,"b\n', 2, "", "can't be read (unexpected end of data): close each quote"),
        (HEADER + "api.calls,p,,1,5,1,2027-01-01\n", 2, "", "has 7 cells, and 6 columns"),
        (HEADER + "api.calls,\0,,1,1,2027-01-01\n", 2, "", "has a NUL character"),
        (HEADER + "api.calls,p,,1,1,2027-01-01\n" * (ROWS_MAX + 1), 0, "", "at most 1000 are"),
        (HEADER + "x" * BYTES_MAX, 0, "", "is larger than 256 KiB: split it up"),
    ],
)
def test_what_is_no_such_file_is_told(text: str, row: int, column: str, message: str) -> None:
    (fault,) = faults(text)

    assert (fault.row, fault.column) == (row, column)
    assert message in fault.message


def test_another_encoding_is_told_with_its_row() -> None:
    (fault,) = faults((HEADER + "api.calls,Zürich,,1,1,2027-01-01\n").encode("latin-1"))

    assert (fault.row, fault.message) == (2, "is not UTF-8: save the file as CSV UTF-8")


def test_a_digest_stands_for_the_entries_and_nothing_else() -> None:
    row = "api.calls,p,,1,1,2027-01-01"
    one, same, other = (
        read_price_rows(text.encode(), CATALOG).digest
        for text in (
            f"{HEADER}{row}\n",
            f"{HEADER}{row}\r\n\r\n",
            f"{HEADER}{row.replace(',1,1,', ',2,1,')}\n",
        )
    )

    assert one == same
    assert one != other
