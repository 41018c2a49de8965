"""Two books of cost prices: what differs, and whose level that would change. Pure, exact."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from aforo_meter.domain import account as accounts
from aforo_meter.domain.account import Account, UsageKey, total
from aforo_meter.domain.guards import Guard, GuardChange, calls_in, guard_changes
from aforo_meter.domain.margin import Assessment, Level, Thresholds, assess
from aforo_meter.domain.prices import Precedence, PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.rating import amount_nanos

DAY_MICROS: Final = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What of a tenant's contract prices and levels depend on."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    guards: tuple[Guard, ...] = ()
    negotiated: tuple[PriceList, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All cost prices there are: those for everyone, and by tenant the negotiated ones."""

    book: PriceBook
    contracts: Mapping[str, Contract] = field(default_factory=dict)  # By tenant id.

    def prices(self, tenant_id: str) -> Prices:
        contract = self.contracts.get(tenant_id, Contract())
        return Prices(self.book, contract.negotiated)


class EntryKey(NamedTuple):
    """What an entry says a price of. Two entries of one key contradict each other."""

    precedence: Precedence
    tenant_id: str  # "" where it is for everyone.
    provider: str
    model: str
    meter: str
    effective_from_micros: int
    tier_input_tokens_from: int
    day_from_s: int
    day_to_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An entry that one of two books lacks, or that they price differently."""

    key: EntryKey
    old: PriceEntry | None
    new: PriceEntry | None


def entries(books: Books) -> Iterator[tuple[EntryKey, PriceEntry]]:
    """Yield every entry, in the order in which prices are asked for."""
    for tenant_id, contract in sorted(books.contracts.items()):
        yield from _entries(contract.negotiated, Precedence.NEGOTIATED, tenant_id)
    yield from _entries(books.book.own, Precedence.OWN)
    yield from _entries(books.book.built_in, Precedence.BUILT_IN)


def _entries(
    lists: Iterable[PriceList], precedence: Precedence, tenant_id: str = ""
) -> Iterator[tuple[EntryKey, PriceEntry]]:
    for prices in lists:
        for entry in prices.entries:
            key = EntryKey(
                precedence=precedence,
                tenant_id=tenant_id,
                provider=prices.provider,
                model=prices.model,
                meter=entry.meter,
                effective_from_micros=entry.effective_from_micros,
                tier_input_tokens_from=entry.tier_input_tokens_from,
                day_from_s=entry.day_from_s,
                day_to_s=entry.day_to_s,
            )
            yield key, entry


def lists(books: Books) -> list[PriceList]:
    """Return all lists of prices, in no order."""
    negotiated = [each for one in books.contracts.values() for each in one.negotiated]
    return [*negotiated, *books.book.own, *books.book.built_in]


def changes(old: Books, new: Books) -> list[Change]:
    """Return what differs in price. Another source or id of the same price is no difference."""
    before, after = dict(entries(old)), dict(entries(new))
    found = [
        Change(key=key, old=before.get(key), new=after.get(key))
        for key in dict.fromkeys([*before, *after])
    ]
    return [one for one in found if not _same_price(one.old, one.new)]


def _same_price(one: PriceEntry | None, other: PriceEntry | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.price_nanos * other.per_units == other.price_nanos * one.per_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A row of the ledger: usage of one hour, and what it cost."""

    meter: str
    feature: str  # The features of its calls, sorted, joined by ",".
    provider: str
    model: str
    hour_start_micros: int
    input_tokens: int  # The least size of request that it may have come from.
    quantity_micros: int
    cogs_nanos: int | None  # None: unpriced.


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A tenant in its current period: its margin, and the usage behind it."""

    tenant_id: str
    assessment: Assessment
    used: Sequence[Used]
    account: Account = field(default_factory=dict)  # All its usage, as corrected, by feature alone.
    guard_levels: Mapping[str, Level] = field(default_factory=dict)  # By guard id.


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a tenant's margin would be, had its usage cost the new prices."""

    tenant_id: str
    before: Assessment
    after: Assessment
    unpriced_rows: int  # Rows that would lose their price.
    guards: tuple[GuardChange, ...] = ()  # Whose level would change.

    @property
    def changes_level(self) -> bool:
        """Would the tenant's own level change, or that of a guard?"""
        return self.before.level is not self.after.level or bool(self.guards)


def effects(
    standings: Iterable[Standing], old: Books, new: Books, changed: Sequence[Change]
) -> Iterator[Effect]:
    """Yield what changes for whom; nothing for tenants whose COGS stay the same.

    Usage is taken as if it had come once every change is in force: also those that are dated later
    than it. What both books price alike keeps the amount that the ledger has.
    """
    latest_micros = max((one.key.effective_from_micros for one in changed), default=0)
    for standing in standings:
        tenant_id = standing.tenant_id
        asked = (old.prices(tenant_id), new.prices(tenant_id))
        rises = [
            rise
            for row in standing.used
            if (rise := _rise(row, *asked, latest_micros=latest_micros)) is not None
        ]
        if rises:
            yield _effect(standing, new.contracts.get(tenant_id, Contract()), rises)


class _Rise(NamedTuple):
    key: UsageKey
    nanos: int
    loses_price: bool


def _rise(row: Used, old: Prices, new: Prices, *, latest_micros: int) -> _Rise | None:
    """Return how much more a row would cost; None if the books agree on it."""
    # By whole days, so that prices for parts of the day stay the same ones.
    days = max(0, -((row.hour_start_micros - latest_micros) // DAY_MICROS))
    at_micros = row.hour_start_micros + days * DAY_MICROS
    before, after = (
        prices.price_of(
            row.meter,
            provider=row.provider,
            model=row.model,
            at_micros=at_micros,
            input_tokens=row.input_tokens,
        )
        for prices in (old, new)
    )
    if _same_price(before, after):
        return None
    cost_nanos = row.cogs_nanos or 0
    if after is None:
        return _Rise(
            key_of(row.meter, row.feature), -cost_nanos, loses_price=row.cogs_nanos is not None
        )
    amount = amount_nanos(
        row.quantity_micros, price_nanos=after.price_nanos, per_units=after.per_units
    )
    key = key_of(row.meter, row.feature)
    return _Rise(key, amount - cost_nanos, loses_price=False)


def key_of(meter: str, feature: str) -> UsageKey:
    """Return what tells usage apart for guards: they go by nothing else."""
    return UsageKey(meter, feature, provider="", model="", tool="", execution_status="")


def _effect(standing: Standing, contract: Contract, rises: Sequence[_Rise]) -> Effect:
    before = standing.assessment
    account = total(
        (standing.account, *({rise.key: accounts.Used(cogs_nanos=rise.nanos)} for rise in rises))
    )
    after = assess(
        revenue_nanos=before.revenue_nanos,
        cogs_nanos=before.cogs_nanos + sum(rise.nanos for rise in rises),
        allowance_nanos=before.allowance_nanos,
        thresholds=contract.thresholds,
        previous=before.level,
        calls=calls_in(account, account),
    )
    return Effect(
        tenant_id=standing.tenant_id,
        before=before,
        after=after,
        unpriced_rows=sum(rise.loses_price for rise in rises),
        guards=guard_changes(
            contract.guards,
            account,
            contract_revenue_nanos=before.revenue_nanos,
            levels=standing.guard_levels,
        ),
    )


def covering(books: Books, *, provider: str = "", model: str = "") -> Books:
    """Return the lists that hold for usage of a model, or of a provider; "": of any."""
    provider, model = provider.lower(), model.lower()

    def kept(lists: Iterable[PriceList]) -> tuple[PriceList, ...]:
        return tuple(
            each
            for each in lists
            if (not provider or each.provider in ("", provider))
            and (not model or each.covers(provider=provider or each.provider, model=model))
        )

    return Books(
        book=replace(books.book, own=kept(books.book.own), built_in=kept(books.book.built_in)),
        contracts={
            tenant_id: replace(contract, negotiated=kept(contract.negotiated))
            for tenant_id, contract in books.contracts.items()
        },
    )


def begun_by(
    found: Iterable[tuple[EntryKey, PriceEntry]], at_micros: int
) -> list[tuple[EntryKey, PriceEntry]]:
    """Return the latest entries that had begun by then: of each list and meter, one date's."""
    begun = [(key, entry) for key, entry in found if key.effective_from_micros <= at_micros]
    latest: dict[tuple[str, ...], int] = {}
    for key, _ in begun:
        group = key[:5]
        latest[group] = max(latest.get(group, key.effective_from_micros), key.effective_from_micros)
    return [(key, entry) for key, entry in begun if latest[key[:5]] == key.effective_from_micros]
