"""The ledger, read by its tables alone: tenants in their current period, and their usage."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from aforo_admin.domain.price_changes import Standing, Used
from aforo_meter.domain.margin import Assessment, Level, MarginState
from aforo_meter.domain.rating import amount_nanos

SCHEME: Final = "sqlite:///"
BUSY_S: Final = 5.0
IN_FORCE = (
    "SELECT tenant_id, subscription_id, period_start_micros, level, revenue_nanos, cogs_nanos,"
    " allowance_nanos FROM margin_state WHERE in_force = 1 AND period_start_micros <= ?"
    " AND period_end_micros > ? ORDER BY tenant_id"
)
# Of a priced row only the tier tells how large its requests were, of an unpriced one the row does.
USED = (
    "SELECT charge.meter, provider, model, hour_start_micros,"
    " COALESCE(tier_input_tokens_from, input_tokens), quantity_micros, price_nanos, per_units"
    " FROM charge LEFT JOIN price USING (price_id)"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
)


class LedgerUnreadableError(Exception):
    """The ledger can't be read; the message says why."""


def standings(ledger_url: str, *, now_micros: int) -> Iterator[Standing]:
    """Yield every tenant that has a level, with the usage of its current period.

    All as of one instant: a reader holds up no consumer.

    Raises:
        LedgerUnreadableError: There is none, or it is none of this version's.
    """
    path = Path(ledger_url.removeprefix(SCHEME))
    if not ledger_url.startswith(SCHEME) or not path.is_absolute():
        raise LedgerUnreadableError(
            f"{ledger_url!r}: expected sqlite:////absolute/path/ledger.db (four slashes)"
        )
    if not path.is_file():
        raise LedgerUnreadableError(f"there is no ledger at {path}")
    try:
        with closing(
            sqlite3.connect(
                f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S, isolation_level=None
            )
        ) as sql:
            sql.execute("BEGIN")
            for row in sql.execute(IN_FORCE, (now_micros, now_micros)).fetchall():
                yield _standing(sql, *row)
    except sqlite3.Error as error:
        raise LedgerUnreadableError(
            f"the ledger at {path} can't be read: {error}; aforo-meter migrate brings it up to date"
        ) from error


def _standing(
    sql: sqlite3.Connection,
    tenant_id: str,
    subscription_id: str,
    period_start_micros: int,
    level: int,
    revenue_nanos: int,
    cogs_nanos: int,
    allowance_nanos: int,
) -> Standing:
    rows = sql.execute(USED, (tenant_id, subscription_id, period_start_micros))
    return Standing(
        tenant_id=tenant_id,
        assessment=Assessment(
            level=Level(level),
            state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
            revenue_nanos=revenue_nanos,
            cogs_nanos=cogs_nanos,
            allowance_nanos=allowance_nanos,
        ),
        used=[_used(*row) for row in rows],
    )


def _used(*row: Any) -> Used:  # noqa: ANN401 - columns of USED
    meter, provider, model, hour_start_micros, input_tokens, quantity_micros, *figures = row
    price_nanos, per_units = figures
    return Used(
        meter=meter,
        provider=provider,
        model=model,
        hour_start_micros=hour_start_micros,
        input_tokens=input_tokens,
        quantity_micros=quantity_micros,
        cogs_nanos=None
        if price_nanos is None
        else amount_nanos(quantity_micros, price_nanos=price_nanos, per_units=per_units),
    )
