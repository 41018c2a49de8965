"""A file of imported prices, which stands beside the catalog: JSON lines, one price list each."""

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from google.protobuf import json_format

from aforo_admin.domain.catalog import Catalog
from aforo_admin.faults import CatalogError, Fault
from aforo_proto.contract_pb2 import PriceList

BYTES_MAX: Final = 256 * 1024 * 1024


def imported_prices(catalog: Catalog, path: Path) -> tuple[PriceList, ...] | None:
    """Return the prices of the file that a catalog names; None if it names none.

    Args:
        catalog: What was read.
        path: Where it was read from: the other file is named from there.

    Raises:
        CatalogError: There is no such file, or it is none of prices.
    """
    file = prices_path(catalog, path)
    return tuple(read_prices(file)) if file is not None else None


def prices_path(catalog: Catalog, path: Path) -> Path | None:
    return path.parent / catalog.prices_file if catalog.prices_file else None


def read_prices(path: Path) -> list[PriceList]:
    """Read a file of prices.

    Raises:
        CatalogError: It can't be read, or is none: with the first line that is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        what = f"can't be read: {error.strerror or error}; make it with: {_command(path)}"
        raise CatalogError(str(path), [Fault(line=0, place="", message=what)]) from None
    if len(data) > BYTES_MAX:
        what = f"is larger than {BYTES_MAX} bytes: is it a file of prices?"
        raise CatalogError(str(path), [Fault(line=0, place="", message=what)])
    lists: list[PriceList] = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            found = json_format.Parse(line, PriceList())
            _check(found)
        except (json_format.ParseError, ValueError) as error:
            what = f"is no list of prices ({error}); take the file back to what was imported"
            raise CatalogError(str(path), [Fault(line=number, place="", message=what)]) from None
        lists.append(found)
    if not lists:
        what = f"holds no prices; make it with: {_command(path)}"
        raise CatalogError(str(path), [Fault(line=0, place="", message=what)])
    return lists


def write_prices(path: Path, lists: Sequence[PriceList]) -> None:
    """Write a file of prices, in one step: who reads meanwhile sees the old one or the new one.

    Raises:
        OSError: It can't be written; the old one stays.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.writelines(_lines(lists))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def _lines(lists: Iterable[PriceList]) -> Iterable[str]:
    for each in lists:
        said = json_format.MessageToDict(each, preserving_proto_field_name=True)
        yield json.dumps(said, ensure_ascii=False) + "\n"


def _check(found: PriceList) -> None:
    for entry in found.entries:
        if not entry.price_id or not entry.meter or entry.per_units < 1 or entry.price_nanos < 0:
            raise ValueError("an entry needs price_id, meter, per_units, and no price below 0")


def _command(path: Path) -> str:
    return f"aforo-admin prices import --into {path} --write"
