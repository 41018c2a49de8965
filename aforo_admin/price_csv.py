"""A CSV of cost prices → entries of the price book, and every fault with its row and column.

The first row names the columns; their cells are read by the readers of the catalog's YAML. Rows are
counted as a spreadsheet shows them: the first is 1.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from aforo_admin.catalog_yaml_tenants import read_costs
from aforo_admin.domain.catalog import Catalog, CostPrice
from aforo_admin.domain.checking_costs import check_costs
from aforo_admin.domain.problems import Problem
from aforo_admin.faults import advice, message_of
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_writing import node_of

BYTES_MAX: Final = 256 * 1024
ROWS_MAX: Final = 1000
# Each with how it is written; the first four have no default.
COLUMNS: Final[Mapping[str, str]] = {
    "meter": "a meter, like llm.input_tokens",
    "price": "an amount, like 2.50",
    "per": "for so many units, like 1M",
    "from": "a date, like 2027-01-01, or an instant in UTC, like 2027-01-01T06:00Z",
    "provider": "as the gateway names it, like openai; empty: any",
    "model": "a name or a part of one, like gpt-4o*; empty: any",
    "input_tokens_from": "for requests of so many input tokens or more; empty: 0",
    "day_from": "a time of the day in UTC, like 22:00; empty: midnight",
    "day_to": "as day_from; both empty: all day",
}
REQUIRED: Final = ("meter", "price", "per", "from")
TEMPLATE: Final = ",".join(COLUMNS) + "\r\n"
_MISSING: Final = "is missing"
_COSTS: Final = "costs"
_ENTRY: Final = re.compile(r"\bcosts\[(\d+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """What is wrong in a file, and what to do."""

    row: int  # 0: the file as a whole.
    column: str = ""  # Empty: the row as such.
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRows:
    """What a file says, beside the price book that there is."""

    new: Mapping[int, CostPrice]  # By row: what is to be added.
    known: tuple[int, ...] = ()  # Rows of entries that are there already, as they are.
    faults: tuple[RowFault, ...] = ()

    @property
    def digest(self) -> str:
        """What stands for the entries that are to be added, and for their order."""
        return hashlib.sha256(repr(tuple(self.new.values())).encode()).hexdigest()


def read_price_rows(data: bytes, catalog: Catalog) -> PriceRows:
    """Read a file.

    Args:
        data: Its bytes: UTF-8, with commas, semicolons or tabs.
        catalog: What it is to be added to; of tenants it needs none.
    """
    faults: list[RowFault] = []
    rows = _cells(data, faults)
    if faults:
        return PriceRows(new={}, faults=tuple(faults))
    problems: list[Problem] = []
    fields = Fields(node_of({_COSTS: list(rows.values())}), path=(), problems=problems)
    prices = dict(zip(rows, read_costs(fields, _COSTS, currency=catalog.currency), strict=True))
    numbers = list(rows)
    unread = [_fault(problem, numbers) for problem in problems]
    held = set(catalog.costs)
    wrong = {fault.row for fault in unread}
    new = {row: price for row, price in prices.items() if price not in held and row not in wrong}
    known = tuple(row for row, price in prices.items() if price in held)
    broken = _breaches(new, catalog)
    return PriceRows(new=new, known=known, faults=tuple(_in_order([*unread, *broken])))


def _breaches(new: Mapping[int, CostPrice], catalog: Catalog) -> Iterator[RowFault]:
    """Yield what the catalog's rules say of entries beside those that there are."""
    first, numbers = len(catalog.costs), list(new)
    changed = replace(catalog, costs=(*catalog.costs, *new.values()))

    def told(match: re.Match[str]) -> str:
        index = int(match[1])
        return "an entry of the price book" if index < first else f"row {numbers[index - first]}"

    for problem in check_costs((_COSTS,), changed.costs, changed.known_meters):
        message = _ENTRY.sub(told, message_of(problem))
        at = problem.path[1] if problem.path[:1] == (_COSTS,) and len(problem.path) > 1 else -1
        if isinstance(at, int) and at >= first:
            column = str(problem.path[2]) if len(problem.path) > 2 else ""  # noqa: PLR2004
            yield RowFault(row=numbers[at - first], column=column, message=message)
        else:
            yield RowFault(row=0, message=message)


def _cells(data: bytes, faults: list[RowFault]) -> Mapping[int, Mapping[str, str]]:
    """Return the cells that hold something, by row and column."""
    text = _text(data, faults)
    if faults:
        return {}
    rows = _rows(text, faults)
    if not faults and not rows:
        faults.append(RowFault(row=0, message="is empty: begin with a row that names the columns"))
    if faults:
        return {}
    (_, header), *others = rows
    names = [cell.strip().lower() for cell in header]
    faults += _faults_of_header(names)
    if not faults and not others:
        faults.append(RowFault(row=0, message="has no prices: write one a row, below the columns"))
    if not faults and len(others) > ROWS_MAX:
        message = f"has {len(others)} rows, at most {ROWS_MAX} are taken at once: split it up"
        faults.append(RowFault(row=0, message=message))
    if faults:
        return {}
    found: dict[int, Mapping[str, str]] = {}
    for number, cells in others:
        if any(cell.strip() for cell in cells[len(names) :]):
            message = (
                f"has {len(cells)} cells, and {len(names)} columns have a name: put a value that "
                "has a separator in it between quotes, and write amounts with a point"
            )
            faults.append(RowFault(row=number, message=message))
        pairs = zip(names, cells, strict=False)
        found[number] = {name: cell.strip() for name, cell in pairs if name and cell.strip()}
    return found if not faults else {}


def _text(data: bytes, faults: list[RowFault]) -> str:
    if len(data) > BYTES_MAX:
        message = f"is larger than {BYTES_MAX // 1024} KiB: split it up"
        faults.append(RowFault(row=0, message=message))
        return ""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        message = "is not UTF-8: save the file as CSV UTF-8"
        faults.append(RowFault(row=row, message=message))
        return ""
    if "\0" in text:
        message = "has a NUL character: save the file as CSV UTF-8, not as a workbook"
        faults.append(RowFault(row=text.count("\n", 0, text.index("\0")) + 1, message=message))
    return text


def _rows(text: str, faults: list[RowFault]) -> list[tuple[int, list[str]]]:
    """Return the rows that hold something, with their numbers."""
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    found: list[tuple[int, list[str]]] = []
    number = 0
    try:
        for number, cells in enumerate(
            csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), start=1
        ):
            if any(cell.strip() for cell in cells):
                found.append((number, cells))
    except csv.Error as error:
        message = f"can't be read ({error}): close each quote, and double those inside a value"
        faults.append(RowFault(row=number + 1, message=message))
    return found


def _faults_of_header(names: Sequence[str]) -> Iterator[RowFault]:
    known = list(COLUMNS)
    for name in dict.fromkeys(names):
        if name and name not in COLUMNS:
            message = f'no column "{name}"' + advice(name, kind="column", choices=known)
            yield RowFault(row=1, column=name, message=message)
        elif name and names.count(name) > 1:
            yield RowFault(row=1, column=name, message="is there twice: leave one out")
    for name in REQUIRED:
        if name not in names:
            yield RowFault(row=1, column=name, message=f"{_MISSING}: add it, with {COLUMNS[name]}")


def _fault(problem: Problem, numbers: Sequence[int]) -> RowFault:
    _, index, *rest = problem.path
    column = str(rest[0]) if rest else ""
    message = message_of(problem)
    if message == _MISSING:
        message = f"{_MISSING}: write {COLUMNS[column]}"
    return RowFault(row=numbers[int(index)], column=column, message=message)


def _in_order(faults: Iterable[RowFault]) -> list[RowFault]:
    places = [*COLUMNS, ""]
    return sorted(faults, key=lambda each: (each.row, places.index(each.column)))
