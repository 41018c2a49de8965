"""Names that callers choose, of tools and models: how many an hour of a tenant may have.

Which ones have rows of their own follows from the ledger's rows, charges and what was added beside
them in closed periods, so that no restart and no split into batches changes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from aforo_meter.database import Sql
from aforo_meter.domain.rating import (
    MODELS_MAX,
    OTHER_MODEL,
    OTHER_TOOL,
    TOOLS_MAX,
    ChargeKey,
    Rated,
)

CHARGE_EQUALS: Final = " AND ".join(f"{name} = ?" for name in ChargeKey._fields)
# Statements are put together from names of columns alone.
ROW = f"SELECT quantity_micros, extra_micros FROM charge WHERE {CHARGE_EQUALS}"  # noqa: S608

HasRow = Callable[[ChargeKey], bool]

TOOLS = (
    "SELECT DISTINCT tool FROM charge WHERE tenant_id = ? AND hour_start_micros = ?"
    " AND tool <> '' AND tool <> ?"
)


def _names(columns: str, table: str) -> str:
    """Read an hour's names by the rows' key alone: from one meter of the tenant to the next."""
    return (
        f"WITH RECURSIVE known (meter) AS (SELECT MIN(meter) FROM {table} WHERE tenant_id = ?"  # noqa: S608
        f" UNION ALL SELECT (SELECT MIN(meter) FROM {table} WHERE tenant_id = ?"
        " AND meter > known.meter) FROM known WHERE known.meter IS NOT NULL)"
        f" SELECT DISTINCT {columns} FROM known CROSS JOIN {table} AS entry"
        " WHERE entry.tenant_id = ? AND entry.meter = known.meter AND entry.hour_start_micros = ?"
    )


MODELS: Final = _names("provider, model", "charge")
# Of closed periods: what comes late is no charge.
LATE_TOOLS: Final = _names("tool", "adjustment")
LATE_MODELS: Final = _names("provider, model", "adjustment")


def bounded(sql: Sql, new: Sequence[Rated], has_row: HasRow) -> Sequence[Rated]:
    """Count what names one tool or model too many in its hour under one name for all of them.

    Args:
        sql: To read which names an hour has, where one may be new.
        new: What is to be counted.
        has_row: Is there a row of this key already? Then its names are known.
    """
    if all(has_row(one.charges[0][0]) for one in new if one.charges):
        return new  # Most usage adds to rows that are there.
    return _with_bounded_models(sql, _with_bounded_tools(sql, new, has_row), has_row)


def _with_bounded_tools(sql: Sql, new: Sequence[Rated], has_row: HasRow) -> Sequence[Rated]:
    known: dict[tuple[str, int], set[str]] = {}
    kept = []
    for one in new:
        if not one.usage.tool or not one.charges:
            kept.append(one)
            continue
        hour = (one.tenant_id, one.charges[0][0].hour_start_micros)
        if hour not in known and has_row(one.charges[0][0]):
            kept.append(one)
            continue
        if hour not in known:
            known[hour] = {tool for (tool,) in sql.execute(TOOLS, (*hour, OTHER_TOOL))}
            known[hour] |= {tool for (tool,) in sql.execute(LATE_TOOLS, _of_hour(*hour))}
            known[hour] -= {"", OTHER_TOOL}
        tools = known[hour]
        if one.usage.tool in tools or len(tools) < TOOLS_MAX:
            tools.add(one.usage.tool)
            kept.append(one)
        else:
            charges = tuple((key._replace(tool=OTHER_TOOL), q) for key, q in one.charges)
            kept.append(replace(one, charges=charges))
    return kept


def _with_bounded_models(sql: Sql, new: Sequence[Rated], has_row: HasRow) -> Sequence[Rated]:
    # What has a price keeps it: no number of names makes usage cheaper.
    models: dict[tuple[str, int], _Models] = {}
    kept = []
    for one in new:
        if not one.charges or not (one.usage.provider or one.usage.model):
            kept.append(one)
            continue
        first = one.charges[0][0]
        hour = (one.tenant_id, first.hour_start_micros)
        if hour not in models:
            models[hour] = _Models(sql, has_row, *hour)
        provider, model = models[hour].name_of(one)
        if (provider, model) != (first.provider, first.model):
            charges = tuple(
                (key._replace(provider=provider, model=model), quantity)
                for key, quantity in one.charges
            )
            one = replace(one, charges=charges)  # noqa: PLW2901 - the same usage.
        kept.append(one)
    return kept


def _of_hour(tenant_id: str, hour_start_micros: int) -> tuple[str, str, str, int]:
    """Return what `_names` asks with."""
    return (tenant_id, tenant_id, tenant_id, hour_start_micros)


class _Models:
    """The models that a tenant has in one hour: read when one may be new, and not before."""

    def __init__(self, sql: Sql, has_row: HasRow, tenant_id: str, hour_start_micros: int) -> None:
        self._sql = sql
        self._has_row = has_row
        self._hour = (tenant_id, hour_start_micros)
        self._known: set[tuple[str, str]] = set()
        self._providers: set[str] = {""}
        self._is_read = False

    def name_of(self, one: Rated) -> tuple[str, str]:
        """Return the provider and model that a usage is kept under."""
        key = one.charges[0][0]
        pair = (key.provider, key.model)
        if pair in self._known:
            return pair
        if not self._is_read:
            if self._has_row(key):
                self._know(pair)  # Most usage adds to a row that is there.
                return pair
            for names in (MODELS, LATE_MODELS):
                for row in self._sql.execute(names, _of_hour(*self._hour)):
                    self._know(row)
            self._is_read = True
        if pair in self._known:
            return pair
        if len(self._known) < MODELS_MAX and key.model != OTHER_MODEL:
            if any(quantity for _, quantity in one.charges):
                self._know(pair)
            return pair
        return (
            key.provider if key.provider in self._providers else OTHER_MODEL,
            OTHER_MODEL if key.model else "",
        )

    def _know(self, pair: tuple[str, str]) -> None:
        if any(pair) and OTHER_MODEL not in pair:
            self._known.add(pair)
            self._providers.add(pair[0])
