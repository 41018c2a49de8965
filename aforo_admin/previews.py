"""What a version of a plan, a deal, or new cost prices, would do to tenants, by recorded usage.

Bounded: a page waits for it. `simulating.simulate` plays everybody.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from aforo_admin.domain.catalog import Catalog, CostPrice, Deal
from aforo_admin.domain.checking import find_problems
from aforo_admin.domain.entitling import entitle
from aforo_admin.domain.scenario import DraftChoice, Scenario
from aforo_admin.domain.scenario_catalog import Drafts, changed_catalog
from aforo_admin.domain.scenario_usage import Reprice, repriced_by
from aforo_admin.domain.simulate import Comparison, Outcome
from aforo_admin.scenario_yaml import refuse
from aforo_admin.simulating import Ground, PricesOf, book_of, play
from aforo_authz.domain.quotas import Quota
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.rate_card import RateCard

TENANTS_MAX: Final = 50  # Of one preview: those that are looked at.


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaMove:
    """A quota of a tenant, before and after. None: there is none."""

    quota_id: str
    before: Quota | None
    after: Quota | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What a contract says of money, per billing period."""

    nanos: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsMove:
    """What a version or a deal changes of a contract, whatever is used."""

    fee: tuple[Amount, Amount] | None  # Before and after. None: it stays.
    allowance: tuple[Amount, Amount] | None
    quotas: tuple[QuotaMove, ...]

    def __bool__(self) -> bool:
        return bool(self.fee or self.allowance or self.quotas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A tenant that something changes for."""

    outcome: Outcome
    quotas: tuple[QuotaMove, ...] = ()

    @property
    def changes_price(self) -> bool:
        return self.outcome.recorded.revenue_nanos != self.outcome.replayed.revenue_nanos

    @property
    def changes_level(self) -> bool:
        return self.outcome.recorded.level is not self.outcome.replayed.level


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Who would have had another price, quota or level in the period in force."""

    comparison: Comparison
    moved: tuple[Moved, ...]
    tenants: int  # That it is about: those that have the plan, or the deal's.
    looked_at: int  # The first of them.


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A tenant whose level would be another, and when in its period that would have begun."""

    outcome: Outcome
    before: Level
    after: Level
    at_micros: int | None  # None: it would be better from the period's begin on.


def preview_version(
    choice: DraftChoice, drafts: Drafts, ground: Ground, *, having: Sequence[str] | None = None
) -> Preview:
    """Return whose price, quota or level a version of a plan would change, had it been in force.

    Args:
        choice: Which version.
        drafts: What it says; it was checked when it was saved.
        ground: The catalog, and the ledger with the usage.
        having: Who has the plan; the catalog need hold no more than the first of them. None: as the
            catalog says.

    Raises:
        LedgerUnreadableError: The ledger can't be read.
    """
    if having is None:
        having = sorted(
            tenant_id
            for tenant_id, tenant in ground.catalog.tenants.items()
            if tenant.subscription.plan_at(ground.now) == choice.plan_id
        )
    looked_at = having[:TENANTS_MAX]
    scenario = Scenario(tenants=tuple(looked_at), drafts=(choice,))
    changed = changed_catalog(ground.catalog, scenario, drafts)
    return _preview(ground, changed, looked_at, tenants=len(having))


def terms_of_version(
    choice: DraftChoice, drafts: Drafts, catalog: Catalog, having: Sequence[str], now: datetime
) -> Mapping[str, TermsMove]:
    """Return what a version of a plan changes of each contract: it needs no recorded usage.

    Args:
        choice: Which version.
        drafts: What it says.
        catalog: As it is, with the tenants that are looked at.
        having: Who has the plan; of many the first are looked at, as in `preview_version`.
        now: Of a subscription that is to come, its start is taken.
    """
    changed = changed_catalog(catalog, Scenario(drafts=(choice,)), drafts)
    moves = {name: _terms_move(name, catalog, changed, now) for name in having[:TENANTS_MAX]}
    return {name: move for name, move in moves.items() if move}


def preview_deal(tenant_id: str, deal: Deal, ground: Ground) -> Preview:
    """Return what a deal would change for its tenant, had it held in all of the period in force.

    Args:
        tenant_id: Whose deal it is.
        deal: As it would be.
        ground: The catalog as it is, with this tenant at least, and the ledger with the usage.

    Raises:
        LedgerUnreadableError: The ledger can't be read.
    """
    return _preview(ground, _always(tenant_id, deal, ground.catalog), [tenant_id], tenants=1)


def terms_of_deal(tenant_id: str, deal: Deal, catalog: Catalog, now: datetime) -> TermsMove:
    """Return what a deal changes of fee, allowance and quotas: it needs no recorded usage.

    Args:
        tenant_id: Whose deal it is.
        deal: As it would be.
        catalog: As it is, with this tenant at least.
        now: Of a subscription that is to come, its start is taken.
    """
    return _terms_move(tenant_id, catalog, _always(tenant_id, deal, catalog), now)


def _terms_move(tenant_id: str, catalog: Catalog, changed: Catalog, now: datetime) -> TermsMove:
    at = max(now, catalog.tenants[tenant_id].subscription.started_at)
    before, after = (
        entitle(each, each.tenants[tenant_id], at).contract for each in (catalog, changed)
    )
    fees = (
        Amount(nanos=before.committed_fee_nanos, currency=before.currency),
        Amount(nanos=after.committed_fee_nanos, currency=after.currency),
    )
    # What usage may cost us is in the currency of costs, whatever the fee is in.
    allowances = (
        Amount(nanos=before.allowance_nanos, currency=catalog.currency),
        Amount(nanos=after.allowance_nanos, currency=catalog.currency),
    )
    return TermsMove(
        fee=fees if fees[0] != fees[1] else None,
        allowance=allowances if allowances[0] != allowances[1] else None,
        quotas=_moves_of(tenant_id, catalog, changed, at),
    )


def _always(tenant_id: str, deal: Deal, catalog: Catalog) -> Catalog:
    """Return the catalog as if a deal had held from the subscription's begin on."""
    tenant = catalog.tenants[tenant_id]
    begin = min(deal.effective_from, tenant.subscription.started_at)
    always = replace(
        deal,
        effective_from=begin,
        effective_until=None,
        rate_cards=_begun(deal.rate_cards, micros_of(begin)),
    )
    # Alone: of deals one holds at a time, and this one would.
    tenants = {**catalog.tenants, tenant_id: replace(tenant, deals=(always,))}
    return replace(catalog, tenants=tenants)


def _begun(cards: tuple[RateCard, ...] | None, begin_micros: int) -> tuple[RateCard, ...] | None:
    """Return rate cards of which the first has begun by then."""
    if not cards:
        return cards
    first, *others = sorted(cards, key=lambda card: card.effective_from_micros)
    at_micros = min(first.effective_from_micros, begin_micros)
    return (replace(first, effective_from_micros=at_micros), *others)


def _preview(
    ground: Ground, changed: Catalog, looked_at: Sequence[str], *, tenants: int
) -> Preview:
    scenario = Scenario(tenants=tuple(looked_at))
    quotas = _quota_moves(ground, changed, looked_at)
    comparison = Comparison(currency=ground.catalog.currency, outcomes=())
    if looked_at:
        comparison = play(scenario, ground, changed, None)
    moved = tuple(
        Moved(outcome=one, quotas=quotas.get(one.tenant_id, ()))
        for one in comparison.outcomes
        if one.is_changed or one.tenant_id in quotas
    )
    return Preview(
        comparison=comparison,
        moved=moved,
        tenants=tenants,
        looked_at=len(looked_at),
    )


def _quota_moves(
    ground: Ground, changed: Catalog, tenants: Sequence[str]
) -> Mapping[str, tuple[QuotaMove, ...]]:
    found: dict[str, tuple[QuotaMove, ...]] = {}
    for tenant_id in tenants:
        moves = _moves_of(tenant_id, ground.catalog, changed, ground.now)
        if moves:
            found[tenant_id] = moves
    return found


def _moves_of(
    tenant_id: str, held: Catalog, changed: Catalog, at: datetime
) -> tuple[QuotaMove, ...]:
    before, after = (
        {each.quota_id: each for each in _quotas(catalog, tenant_id, at)}
        for catalog in (held, changed)
    )
    return tuple(
        QuotaMove(quota_id=name, before=before.get(name), after=after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )


def _quotas(catalog: Catalog, tenant_id: str, at: datetime) -> Iterable[Quota]:
    return entitle(catalog, catalog.tenants[tenant_id], at).policy.quotas


def preview_prices(
    entries: Sequence[CostPrice], ground: Ground, *, tenants: Sequence[str] = ()
) -> tuple[Comparison, tuple[Crossing, ...]]:
    """Return who crosses which level once entries are in force, and when, by recorded usage.

    The usage of the period in force is taken as if it had come when all of them hold.

    Args:
        entries: What is to be added to the price book.
        ground: The catalog, and the ledger with the usage.
        tenants: Of these only; empty: all.

    Raises:
        CatalogError: An entry contradicts one that there is.
        LedgerUnreadableError: The ledger can't be read.
    """
    catalog = ground.catalog
    changed = replace(catalog, costs=(*catalog.costs, *entries))
    refuse(find_problems(changed))
    old, new = (
        PricesOf(catalog, book_of(each)) for each in (ground, replace(ground, catalog=changed))
    )
    latest_micros = max((micros_of(each.effective_from) for each in entries), default=0)

    def repricing_of(tenant_id: str) -> Reprice:
        return repriced_by(old(tenant_id), new(tenant_id), latest_micros=latest_micros)

    found = play(Scenario(tenants=tuple(tenants)), ground, catalog, repricing_of)
    return found, tuple(crossings(found.outcomes))


def crossings(outcomes: Iterable[Outcome]) -> Iterable[Crossing]:
    """Yield whose level would be another, the worst first."""
    by_level: dict[Level, list[Crossing]] = defaultdict(list)
    for one in outcomes:
        before, after = one.recorded.level, one.replayed.level
        if before is after:
            continue
        at_micros = next((at for at, level in one.replayed.steps if level > before), None)
        by_level[after].append(
            Crossing(outcome=one, before=before, after=after, at_micros=at_micros)
        )
    for level in sorted(by_level, reverse=True):
        yield from by_level[level]
