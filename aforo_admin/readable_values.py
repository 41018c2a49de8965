"""One value of the read model → text for people."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from aforo_admin.domain.problems import NANOS_PER_UNIT

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def money(nanos: int, currency: str) -> str:
    """Write an amount exactly: 36,000 USD, 0.000125 USD."""
    amount = Decimal(nanos) / NANOS_PER_UNIT
    whole = f"{amount:,f}"
    if "." in whole:
        whole = whole.rstrip("0").rstrip(".")
    return f"{whole} {currency}".rstrip()


def instant_text(at_micros: int) -> str:
    at = EPOCH + timedelta(microseconds=at_micros)
    return at.isoformat(sep=" ").replace("+00:00", "Z")


def many(count: int, what: str) -> str:
    """Write how many of something there are: 1 plan, 1,200 plans."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
