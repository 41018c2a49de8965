"""What a catalog's document does not change of its rows: they stay as they are held. No I/O.

A document says less than rows do, and says it in one way alone: positions have gaps that forms
left, and a column that means nothing beside another may hold anything. So a document that is to be
is compared with the one that was, and never with rows.
"""

from collections import defaultdict
from dataclasses import replace
from math import inf
from typing import Final

from aforo_admin import written
from aforo_admin.catalog_yaml import read_fields
from aforo_admin.columns import Row
from aforo_admin.domain.catalog import Catalog
from aforo_admin.rows import COLUMNS, OF_PLANS, OF_TENANTS, UNORDERED, Key, Rows
from aforo_admin.yaml_fields import Fields
from aforo_admin.yaml_writing import node_of

POSITION: Final = "position"


def as_written(held: Catalog, *, unlike: Catalog) -> Catalog:
    """Return a catalog as its written form reads; what can't be read is blank there.

    Of its tenants those are read so that are not equal in the other catalog.
    """
    tenants = {name: one for name, one in held.tenants.items() if one != unlike.tenants.get(name)}
    node = node_of(written.catalog(replace(held, tenants=tenants)))
    read = read_fields(Fields(node, path=(), problems=[]))
    return replace(read, tenants={**held.tenants, **read.tenants})


def leave_alone(wanted: Rows, held: Rows, *, before: Rows) -> None:
    """Take rows that say the same as before as they are held, in place.

    Args:
        wanted: What should be there.
        held: What is. Of plans, whose versions are compared as a whole, it becomes what was before.
        before: What is, as a document says it.
    """
    for table in COLUMNS:
        if table in OF_PLANS:
            held[table] = before[table]
            continue
        are, were = _by_parent(held, table), _by_parent(before, table)
        will_be = _by_parent(wanted, table)
        for parent, rows in will_be.items():
            was, is_ = were.get(parent, {}), are.get(parent, {})
            kept = is_ if rows == was else _merged(rows, was, is_, table)
            for key in rows.keys() - kept.keys():
                del wanted[table][key]
            wanted[table] |= kept
        for parent in are.keys() - were.keys() - will_be.keys():
            wanted[table] |= are[parent]  # No document says anything of these.


def _merged(
    wanted: dict[Key, Row], before: dict[Key, Row], held: dict[Key, Row], table: str
) -> dict[Key, Row]:
    """Return the rows of one parent, in their order: what is held, but for what changes."""
    # Both are in one order; the document may write a name in another way.
    names = (
        dict(zip(before, held, strict=True))
        if len(before) == len(held)
        else {key: key for key in before if key in held}
    )
    ranks = {key: rank for rank, key in enumerate(held)}
    found: dict[Key, Row] = {}
    last: tuple[int, float] = (-1, inf)
    for key, row in wanted.items():
        name = names.get(key, key)
        is_same = key in names and _said(before[key]) == _said(row)
        content = held[name] if is_same else row
        if table not in UNORDERED:
            at = (held[name][POSITION], ranks[name]) if name in held else last
            last = at if at > last else (last[0] + 1, inf)
            content = {**content, POSITION: last[0]}
        found[name if is_same else key] = content
    return found


def _said(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != POSITION}


def _by_parent(rows: Rows, table: str) -> dict[Key, dict[Key, Row]]:
    depth = 2 if table.startswith("Deal") and table != "Deal" else int(table in OF_TENANTS)
    found: dict[Key, dict[Key, Row]] = defaultdict(dict)
    for key, row in rows[table].items():
        found[key[:depth]][key] = row
    return found
