"""The one currency of a ledger's charges: sums of two would be sums of nothing."""

from collections.abc import Sequence
from typing import Final

from aforo_meter.database import Sql
from aforo_meter.ledger import CurrencyConflictError

# A ledger from before this was watched may hold several: the last one is the one that goes on.
HELD: Final = "SELECT currency FROM price ORDER BY first_used_at_micros DESC, price_id LIMIT 1"


def held_currency(sql: Sql) -> str:
    """Return the currency of the prices that were used; "" if none was."""
    row = sql.execute(HELD).fetchone()
    return "" if row is None else str(row[0])


def require_currency(sql: Sql, currency: str, price_ids: Sequence[str]) -> None:
    """See that prices that are new to the ledger are in its currency.

    Raises:
        CurrencyConflictError: They are in another one.
    """
    held = held_currency(sql)
    if held not in {"", currency}:
        raise CurrencyConflictError(price_ids, given=currency, held=held)
