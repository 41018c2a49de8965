"""The ledger's port: sums of usage and money, the position in Kafka, levels and their alerts.

Charges, position, levels and outbox change in one transaction or not at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Assessment, Level, Thresholds
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import ChargeKey, Rated
from aforo_meter.domain.terms import RevenueBasis, Terms

# A day more than events from elsewhere may be old: a repeat is known as long as it is taken.
INGEST_IDS_DAYS_MIN: Final = 91


class LedgerError(Exception):
    """The ledger can't be used as it is; the message says what to do."""


class LedgerUnavailableError(Exception):
    """The database did not answer, is locked or full. Nothing was written; it may work later."""


class PartitionLostError(Exception):
    """The stored position is not the caller's: another consumer has the partition.

    Nothing was written.
    """


class PriceConflictError(Exception):
    """Prices say something else than when they were first used. Nothing was written."""

    def __init__(self, price_ids: Sequence[str]) -> None:
        super().__init__(
            f"prices {', '.join(price_ids)} changed after they were used; a price is never edited: "
            "give the new one an id and a date of its own"
        )
        self.price_ids = price_ids


class CurrencyConflictError(PriceConflictError):
    """Prices are in another currency than the ledger's charges. Nothing was written."""

    def __init__(self, price_ids: Sequence[str], *, given: str, held: str) -> None:
        Exception.__init__(
            self,
            f"prices {', '.join(price_ids)} are in {given}, and the ledger has charges in {held}: "
            "amounts of two currencies are never added up; set the catalog's currency back to "
            f"{held}, or begin a new ledger",
        )
        self.price_ids = price_ids


class RepeatedError(Exception):
    """Events that were added up with others had been counted before. Nothing was written."""

    def __init__(self, event_keys: Collection[bytes]) -> None:
        super().__init__(f"{len(event_keys)} events were counted before")
        self.event_keys = event_keys


class TooLargeError(Exception):
    """A sum would no longer fit into 64 bits. Nothing was written."""

    def __init__(self, tenant_id: str, *, meter: str | None = None) -> None:
        what = "COGS in a period" if meter is None else f"quantity of {meter} in an hour"
        # Amounts are nanos: 9,223,372,036 units of a currency at most.
        remedy = (
            "amounts go up to 9,223,372,036 of a currency; look for a wrong price or quantity,"
            " or keep prices in a larger currency"
            if meter is None
            else "look for a wrong quantity, or let the meter count in larger units"
        )
        super().__init__(f"the {what} of tenant {tenant_id!r} would exceed 64 bits; {remedy}")
        self.tenant_id = tenant_id
        self.meter = meter  # None: it is the amounts that are too large, of any meter.


class Partition(NamedTuple):
    topic: str
    number: int


class Place(NamedTuple):
    """Where a consumer stands: writes that name another place than the stored one are refused."""

    partition: Partition
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a tenant's margin is measured by, now."""

    tenant_id: str
    subscription_id: str
    period: PeriodMicros
    revenue_nanos: int  # Of a contract whose revenue is fixed.
    allowance_nanos: int
    currency: str  # Of prices and margin.
    thresholds: Thresholds
    catalog_version: str
    price_book_version: str
    guards: tuple[Guard, ...] = ()
    terms: Terms | None = None  # Of one whose revenue usage or time can change: see revenue.py.

    @property
    def is_accruing(self) -> bool:
        """Does time alone change its revenue?"""
        return self.terms is not None and self.terms.basis is RevenueBasis.ACCRUED


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long the ledger remembers what it has seen, so that nothing counts twice."""

    gateway_days: int = 35
    ingest_days: int = INGEST_IDS_DAYS_MIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records of one partition, rated; written in one transaction."""

    partition: Partition
    first_offset: int
    next_offset: int
    # Where the caller takes the partition to stand. A ledger that stands before that has lost what
    # was written to it: it was brought back from a backup, or a server without the last commits
    # took over.
    stands_at: int = 0
    rated: Sequence[Rated]  # Fewer than records: some may have been dead letters.
    watches: Mapping[str, Watch]  # By tenant id; who has no contract has none.
    currency: str  # Of the prices.
    now_micros: int
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reprice:
    """Rows that waited for a price, and the price they get."""

    moves: Sequence[tuple[ChargeKey, PriceEntry]]
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of the level of a tenant or of one of its guards. Each makes one alert."""

    watch: Watch
    seq: int  # Within the tenant's subscription and period, for each guard, from 1.
    before: Level
    after: Assessment
    at_micros: int
    guard: Guard | None = None  # None: it is the tenant's own level.
    # How far the period's figures may move still; of all its usage, whatever a guard measures.
    estimated_cogs_nanos: int = 0  # The part of its COGS that rests on estimated usage.
    unpriced_rows: int = 0  # In no COGS yet.

    @property
    def thresholds(self) -> Thresholds:
        """What the level was measured by."""
        return self.watch.thresholds if self.guard is None else self.guard.thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What became of a batch's events within a transaction."""

    duplicates: int = 0  # They were in the ledger already.
    corrections: Mapping[str, int] = field(default_factory=dict)  # By what became of them.


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a transaction did."""

    transitions: Sequence[Transition] = ()
    duplicates: int = 0  # Events that were in the ledger already.
    rows_repriced: int = 0
    corrections: Mapping[str, int] = field(default_factory=dict)  # By what became of them.
    # How tenants that are watched stand by now, but for the use of their quotas.
    standings: Mapping[str, "Standing"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Asks for the use of one quota in one window."""

    quota_id: str
    meter: str
    features: frozenset[str]  # Empty: all.
    window: PeriodMicros
    billing: bool  # The window is the billing period, which may start within an hour.


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a tenant stands, by all that is committed."""

    tenant_id: str
    subscription_id: str
    period: PeriodMicros
    assessment: Assessment
    unpriced_rows: int
    estimated_cogs_nanos: int  # The part of its COGS that rests on estimated usage.
    currency: str
    assessed_at_micros: int
    catalog_version: str
    price_book_version: str
    used_units: Mapping[str, int] = field(default_factory=dict)  # By quota id, rounded down.
    guard_levels: Mapping[str, Level] = field(default_factory=dict)  # By guard id.
    contract_currency: str = ""
    contract_revenue_nanos: int = 0  # The revenue in the contract's own currency.
    prepaid_left_nanos: int = 0
    # Its level is certain to stay until its COGS reach this much; 0: nothing is. What the ledger is
    # asked for does not tell.
    holds_until_nanos: int = field(default=0, compare=False)


class Ledger(Protocol):
    """Every method raises LedgerUnavailableError if the database can't be asked."""

    async def next_offset(self, partition: Partition) -> int | None:
        """Return where to go on; None if the partition was never consumed."""

    async def set_offset(self, partition: Partition, next_offset: int) -> None:
        """Start a partition, or go on elsewhere after records were lost. Moves no money."""

    async def apply(self, batch: Batch) -> Written:
        """Write what a batch adds, move the position, assess the tenants that are watched.

        Raises:
            PartitionLostError: The stored position is already past the batch's first record, or
                before where the caller takes it to be.
            PriceConflictError: A price is known with other figures.
            TooLargeError: A sum would not fit.
            RepeatedError: One of `rated` stands for several events, and some of them were counted
                before.
        """

    async def reassess(
        self, place: Place, watches: Mapping[str, Watch], *, now_micros: int
    ) -> Written:
        """Assess tenants again: their contract changed, or a new period has begun.

        Raises:
            PartitionLostError: The stored position is another.
        """

    async def reprice(
        self, place: Place, reprice: Reprice, watches: Mapping[str, Watch], *, now_micros: int
    ) -> Written:
        """Move unpriced rows to their price, and assess the tenants that are watched.

        Raises:
            PartitionLostError: The stored position is another.
            PriceConflictError: A price is known with other figures.
            TooLargeError: A sum would not fit.
        """

    async def unpriced(self, tenant_id: str) -> Sequence[ChargeKey]:
        """Return a tenant's rows that wait for a price."""

    async def unpriced_rows(self) -> int: ...

    async def tenants(self) -> Sequence[str]:
        """Return every tenant that has a margin or unpriced rows."""

    async def adjusted(self) -> Sequence[str]:
        """Return the tenants whose margin has adjustments that no assessment knows yet."""

    async def close(
        self, *, ended_by_micros: int, now_micros: int, tenant_id: str | None = None
    ) -> int:
        """Close periods, of one tenant or of all, that ended by an instant; return how many.

        What comes of them afterwards is added as adjustments, beside the charges.
        """

    async def standings(
        self, queries: Mapping[str, Sequence[UsageQuery]]
    ) -> Mapping[str, Standing]:
        """Return how tenants stand, with the use of their quotas, all as of one instant.

        Args:
            queries: By tenant id. Who was never assessed is missing in the answer.
        """

    async def currency(self) -> str:
        """Return the currency of the prices that charges were made with; "" if there are none."""

    async def period_covering(
        self, tenant_id: str, subscription_id: str, at_micros: int
    ) -> PeriodMicros | None:
        """Return the period of a former subscription that an instant is in, if it has charges."""

    async def prune(self, *, now_micros: int, rows_max: int, retention: Retention) -> int:
        """Look at the next ids of events, and at parts of calls, and forget what is old.

        More events mean more to look at: nothing that is old stays for long, at any rate.

        Args:
            now_micros: What was to be kept until before it is forgotten.
            rows_max: So many in one transaction.
            retention: For how long ids were to be kept.
        """
