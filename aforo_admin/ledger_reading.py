"""The ledger, read by its tables alone: tenants in their current period, and their usage."""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from aforo_admin.domain.price_changes import Standing, Used, key_of
from aforo_meter.domain import account as accounts
from aforo_meter.domain.account import total
from aforo_meter.domain.corrections import NOTHING, Row
from aforo_meter.domain.margin import Assessment, Level, MarginState
from aforo_meter.domain.rating import UNPRICED, ChargeKey, amount_nanos

SQLITE: Final = "sqlite:///"
POSTGRES: Final = re.compile(r"postgres(ql)?://")
BUSY_S: Final = 5.0
CONNECT_S: Final = 5

Values = Sequence[Any]
Ask = Callable[[str, Values], Sequence[Any]]  # A statement with `?` for values → rows.

IN_FORCE = (
    "SELECT tenant_id, subscription_id, period_start_micros, level, revenue_nanos, cogs_nanos,"
    " allowance_nanos FROM margin_state WHERE in_force = 1 AND period_start_micros <= ?"
    " AND period_end_micros > ? ORDER BY tenant_id"
)
KEY: Final = ", ".join(f"entry.{name}" for name in ChargeKey._fields)
IN_PERIOD: Final = " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
CHARGED = (
    f"SELECT {KEY}, tier_input_tokens_from, quantity_micros, price_nanos, per_units"  # noqa: S608
    f" FROM charge AS entry LEFT JOIN price USING (price_id){IN_PERIOD}"
)
ADJUSTED = (
    f"SELECT {KEY}, tier_input_tokens_from, quantity_micros, cogs_nanos"  # noqa: S608
    f" FROM adjustment AS entry LEFT JOIN price USING (price_id){IN_PERIOD}"
)
WIDTH: Final = len(ChargeKey._fields)
COSTLIEST = (
    "SELECT tenant_id FROM margin_state WHERE in_force = 1"
    " ORDER BY cogs_nanos DESC, tenant_id LIMIT ?"
)
CURRENCIES = "SELECT DISTINCT currency FROM price ORDER BY currency"
GUARDS = "SELECT guard_id, level FROM guard_state WHERE tenant_id = ? AND in_force = 1"


class LedgerUnreadableError(Exception):
    """The ledger can't be read; the message says why."""


def standings(ledger_url: str, *, now_micros: int) -> Iterator[Standing]:
    """Yield every tenant that has a level, with the usage of its current period.

    All as of one instant: a reader holds up no consumer.

    Raises:
        LedgerUnreadableError: There is none, or it is none of this version's.
    """
    with reading(ledger_url) as ask:
        for row in ask(IN_FORCE, (now_micros, now_micros)):
            yield _standing(ask, *row)


def currencies(ledger_url: str) -> list[str]:
    """Return the currencies of the prices that charges were made with.

    Raises:
        LedgerUnreadableError: There is no ledger, or it is none of this version's.
    """
    with reading(ledger_url) as ask:
        return [str(row[0]) for row in ask(CURRENCIES, ())]


def costliest(ledger_url: str, *, count_max: int) -> list[str]:
    """Return the tenants whose periods in force have cost most so far, the first of all first.

    Raises:
        LedgerUnreadableError: There is no ledger, or it is none of this version's.
    """
    with reading(ledger_url) as ask:
        return [str(row[0]) for row in ask(COSTLIEST, (count_max,))]


@contextmanager
def reading(ledger_url: str) -> Iterator[Ask]:
    """Open a ledger for questions that are all answered as of one instant.

    Raises:
        LedgerUnreadableError: There is none, or it is none of this version's.
    """
    opened = _postgres if POSTGRES.match(ledger_url) else _sqlite
    with opened(ledger_url) as ask:
        yield ask


@contextmanager
def _sqlite(ledger_url: str) -> Iterator[Ask]:
    path = Path(ledger_url.removeprefix(SQLITE))
    if not ledger_url.startswith(SQLITE) or not path.is_absolute():
        # It is not quoted: it may hold a password.
        raise LedgerUnreadableError(
            "--ledger-url: expected sqlite:////absolute/path/ledger.db (four slashes), or"
            " postgresql://user:password@host:5432/database"
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
            yield lambda statement, values: sql.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise LedgerUnreadableError(f"the ledger at {path} can't be read: {error}") from error


@contextmanager
def _postgres(ledger_url: str) -> Iterator[Ask]:
    import psycopg  # noqa: PLC0415 - for those whose ledger is there.

    def ask(statement: str, values: Values) -> Sequence[Any]:
        asked = statement.replace("%", "%%").replace("?", "%s")  # `%` marks values here.
        return sql.execute(asked.encode(), values).fetchall()

    try:
        with psycopg.connect(ledger_url, connect_timeout=CONNECT_S) as sql:
            sql.read_only = True
            sql.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            yield ask
    except psycopg.Error as error:
        told = str(error).strip().partition("\n")[0]
        raise LedgerUnreadableError(f"the ledger can't be read: {told}") from error


def _standing(
    ask: Ask,
    tenant_id: str,
    subscription_id: str,
    period_start_micros: int,
    level: int,
    revenue_nanos: int,
    cogs_nanos: int,
    allowance_nanos: int,
) -> Standing:
    used = _used(ask, (tenant_id, subscription_id, period_start_micros))
    return Standing(
        tenant_id=tenant_id,
        assessment=Assessment(
            level=Level(level),
            state=MarginState.DEFINED if revenue_nanos else MarginState.UNDEFINED,
            revenue_nanos=revenue_nanos,
            cogs_nanos=cogs_nanos,
            allowance_nanos=allowance_nanos,
        ),
        used=used,
        account=total(
            {
                key_of(row.meter, row.feature): accounts.Used(
                    row.quantity_micros, row.cogs_nanos or 0
                )
            }
            for row in used
        ),
        guard_levels={name: Level(level) for name, level in ask(GUARDS, (tenant_id,))},
    )


def _used(ask: Ask, period: Values) -> Sequence[Used]:
    """Return a period's rows, each a charge with its adjustments, as far as something is left."""
    rows: dict[ChargeKey, Row] = {}
    tiers: dict[ChargeKey, int | None] = {}
    for found in ask(CHARGED, period):
        key, (tier, quantity_micros, price_nanos, per_units) = _split(found)
        cogs_nanos = 0
        if price_nanos is not None:
            cogs_nanos = amount_nanos(quantity_micros, price_nanos=price_nanos, per_units=per_units)
        rows[key], tiers[key] = Row(quantity_micros, 0, cogs_nanos), tier
    for found in ask(ADJUSTED, period):
        key, (tier, quantity_micros, cogs_nanos) = _split(found)
        rows[key] = rows.get(key, NOTHING).plus(Row(quantity_micros, 0, cogs_nanos))
        tiers[key] = tier
    return [
        Used(
            meter=key.meter,
            feature=key.feature,
            provider=key.provider,
            model=key.model,
            hour_start_micros=key.hour_start_micros,
            # Of a priced row only the tier tells how large its requests were.
            input_tokens=key.input_tokens if (tier := tiers[key]) is None else tier,
            quantity_micros=row.quantity_micros,
            cogs_nanos=None if key.price_id == UNPRICED else row.cogs_nanos,
        )
        for key, row in rows.items()
        if row != NOTHING
    ]


def _split(found: Sequence[Any]) -> tuple[ChargeKey, Sequence[Any]]:
    return ChargeKey._make(found[:WIDTH]), found[WIDTH:]
