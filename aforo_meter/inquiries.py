"""The port: what people ask the ledger about a tenant's period. Nothing here writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aforo_meter.domain.inquiry import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which period of a tenant is meant."""

    tenant_id: str
    at_micros: int | None = None  # The one that an instant is in; None: the one in force.
    subscription_id: str | None = None  # None: the one in force, else the one that began last.


class Inquiries(Protocol):
    """Every method raises LedgerUnavailableError if the database can't be asked."""

    async def record(self, choice: Choice) -> Record | None:
        """Return all that the ledger has of a period, as of one instant; None: it has none."""

    async def tenants(self) -> Sequence[str]:
        """Return every tenant that has a level in force."""
