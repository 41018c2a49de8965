"""The port to the ledger: charges, position, levels and outbox, in one transaction.

Everything here is synchronous: a transaction is short, and runs in the ledger's own thread.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aforo_meter.domain.margin import Level
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import ChargeKey, InterventionKey


class LedgerError(Exception):
    """The ledger can't be used; the message says what to do."""


class PartitionLostError(LedgerError):
    """The stored position is already past the batch: another consumer owns the partition."""


class PriceChangedError(LedgerError):
    """A price id came with other content than before: entries are never edited."""


class Partition(NamedTuple):
    topic: str
    number: int


class PeriodKey(NamedTuple):
    """One tenant's billing period."""

    tenant_id: str
    subscription_id: str
    period_start_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The level of a tenant in a period, as last recorded."""

    level: Level = Level.NONE
    transitions: int = 0  # How many there were: numbers the alerts.


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One line of the outbox."""

    message_id: str
    tenant_id: str
    kind: str
    payload: str  # JSON, exactly as it will be sent.
    created_at_micros: int


class UnpricedRow(NamedTuple):
    key: ChargeKey
    quantity_micros: int


class Transaction(Protocol):
    """What one transaction can read and write."""

    def advance(self, partition: Partition, *, first_offset: int, next_offset: int) -> None:
        """Move the position; this is the fence.

        Raises:
            PartitionLostError: The position is past `first_offset`.
        """

    def keep_new(self, events: Iterable[tuple[str, str, int]]) -> set[tuple[str, str]]:
        """Remember events by (tenant, event id, hour); return those not seen before."""
        ...

    def learn_prices(self, entries: Iterable[PriceEntry]) -> None:
        """Keep the content of the prices that charges refer to.

        Raises:
            PriceChangedError: An id is known with other content.
        """

    def add(self, sums: Mapping[ChargeKey, int]) -> set[PeriodKey]:
        """Add quantities to rows and their amounts to the periods' COGS; return the periods."""
        ...

    def count(self, interventions: Mapping[InterventionKey, int]) -> None: ...

    def cogs_nanos(self, period: PeriodKey) -> int:
        """Return the sum of the amounts of a period's rows."""
        ...

    def unpriced_rows(self, period: PeriodKey) -> int: ...

    def used_micros(
        self, tenant_id: str, meter: str, *, from_micros: int
    ) -> Sequence[tuple[str, int]]:
        """Return (features, quantity in 10^-6 units) of a meter since the start of an hour."""
        ...

    def standing(self, period: PeriodKey) -> Standing: ...

    def record(self, period: PeriodKey, standing: Standing, *, now_micros: int) -> None: ...

    def enqueue(self, message: Message) -> None:
        """Put an alert into the outbox. The same message id twice is the same message."""

    def unpriced(self, tenant_ids: Sequence[str] | None) -> Sequence[UnpricedRow]:
        """Return rows that no price covered, of some tenants or of all."""
        ...

    def reprice(self, row: UnpricedRow, price_id: str) -> set[PeriodKey]:
        """Move an unpriced row to a price; return the period whose COGS changed."""
        ...

    def forget_events(self, *, before_micros: int) -> int:
        """Drop remembered events of hours before an instant; return how many."""
        ...


class Ledger(Protocol):
    """The store of record."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin; commit at the end of the block, roll back on any error."""
        ...

    def next_offset(self, partition: Partition) -> int | None:
        """Return where a partition goes on; None if it was never read."""
        ...

    def tenants(self) -> Sequence[str]:
        """Return every tenant that has charges."""
        ...

    def close(self) -> None: ...
