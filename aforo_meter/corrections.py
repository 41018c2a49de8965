"""The port of whoever corrects the ledger: its rows as they are, and what is added to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from aforo_meter.domain.account import Account
from aforo_meter.domain.corrections import Adjustment, Known, Row
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.ledger_adjusting import Order


class ChangedMeanwhileError(Exception):
    """The ledger is no longer what was looked at. Nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which rows are meant: all of these must hold; None, or empty: any."""

    tenant_id: str | None = None
    hours: PeriodMicros | None = None  # By the beginnings of the rows' hours.
    features: frozenset[str] = field(default_factory=frozenset)  # A row has one of these.
    equal: Mapping[str, str] = field(default_factory=dict)  # meter, provider, model, tool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodState:
    """What the ledger holds of one tenant's period."""

    tenant_id: str
    subscription_id: str
    period: PeriodMicros
    cogs_nanos: int
    unpriced_rows: int
    revenue_nanos: int | None  # As last assessed; None: it never was.
    allowance_nanos: int | None
    currency: str | None
    level: Level
    in_force: bool
    is_closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelBasis:
    """What levels go by in a tenant's period in force, beside its totals."""

    account: Account
    guard_levels: Mapping[str, Level]  # By guard id.


class Take(NamedTuple):
    """What to take off one row; None: all that is there."""

    key: ChargeKey
    amounts: tuple[int, int] | None  # quantity_micros, extra_micros; at least that must be there.


class Corrections(Protocol):
    """Every method raises LedgerUnavailableError if the database can't be asked.

    What writes does so in one transaction. Consumers go on beside it: of two that change the same
    period of a tenant, one waits for the other, or begins again.
    """

    async def tenants(self, scope: Scope) -> Sequence[str]:
        """Return the tenants that have rows in scope."""

    async def hours(self, scope: Scope) -> PeriodMicros | None:
        """Return the hours that a tenant's rows in scope lie in; None if there are none."""

    async def rows(self, scope: Scope) -> Mapping[ChargeKey, Row]:
        """Return a tenant's rows in scope, each with its adjustments."""

    async def prices(self) -> Mapping[str, Known]:
        """Return all prices that were ever used, by id."""

    async def periods(self, tenant_id: str | None) -> Sequence[PeriodState]:
        """Return what is known of a tenant's periods, or of all tenants'."""

    async def level_basis(self, state: PeriodState) -> LevelBasis:
        """Return the usage of a period in force, and the levels of the tenant's guards."""

    async def was_seen(self, event_key: bytes) -> bool:
        """Return whether an event was counted, as far as the ledger remembers."""

    async def parts(self, tenant_id: str, decision_id: str) -> Sequence[Take]:
        """Return what is counted of a call of which more than one event tells."""

    async def is_voided(self, tenant_id: str, voided: str) -> bool:
        """Return whether an event, or a call, was taken back before."""

    async def rerate(
        self,
        to: Mapping[ChargeKey, str],
        entries: Sequence[PriceEntry],
        currency: str,
        order: Order,
    ) -> Sequence[Adjustment]:
        """Move rows to other prices, as they are by now; return what was written.

        Args:
            to: The id of each row's price; its own, to put the amount right alone.
            entries: Prices that may be used for the first time.
            currency: Theirs.
            order: Who wants it.

        Raises:
            PriceConflictError: A price is known with other figures.
            TooLargeError: A sum would not fit.
        """

    async def void(
        self, takes: Sequence[Take], order: Order, *, decision_id: str = ""
    ) -> Sequence[Adjustment]:
        """Take usage back; return what was written: nothing if `order.voided` was taken before.

        Args:
            takes: From which rows of one tenant, and how much.
            order: Who wants it.
            decision_id: The call that all of it belongs to: what is counted of it is forgotten.

        Raises:
            ChangedMeanwhileError: A row has less than what is to be taken.
        """

    async def close(
        self, *, ended_by_micros: int, now_micros: int, tenant_id: str | None = None
    ) -> int:
        """Close periods that ended by an instant; return how many."""
