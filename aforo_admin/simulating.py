"""A scenario, played on a catalog and a ledger: what screens and commands call. It writes nothing.

The functions take catalogs, so a database is not needed; `drafts.py` finds versions of plans there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from aforo_admin import messages
from aforo_admin.domain import scenario_names
from aforo_admin.domain.catalog import Catalog, Thresholds
from aforo_admin.domain.checking import find_problems
from aforo_admin.domain.entitling import Contract, GuardInForce, entitle
from aforo_admin.domain.levels_over_time import Agreement
from aforo_admin.domain.problems import Problem
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.scenario_catalog import (
    NO_DRAFTS,
    Drafts,
    changed_catalog,
    find_scenario_problems,
    month_to_come,
)
from aforo_admin.domain.scenario_usage import Met, Reprice, repricing
from aforo_admin.domain.simulate import (
    Comparison,
    Outcome,
    Recorded,
    Terms,
    needs_hours,
    simulate_period,
)
from aforo_admin.ledger_period_sums import is_exact, with_sums
from aforo_admin.ledger_periods import providers_and_models, read_periods, with_rows
from aforo_admin.ledger_reading import Ask, reading
from aforo_admin.places import places
from aforo_admin.price_books import list_named, lists_of
from aforo_admin.prices_file import imported_prices
from aforo_admin.published import up_to_date
from aforo_admin.scenario_yaml import refuse
from aforo_meter.domain import margin
from aforo_meter.domain import terms as meter
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.periods import datetime_of, micros_of
from aforo_meter.domain.prices import NEGOTIATED_SOURCE, PriceBook, Prices
from aforo_meter.domain.revenue import MissingRateError

Progress = Callable[[int, int], None]  # How many periods are done, of how many.
RepricingOf = Callable[[str], Reprice]  # By tenant.
PLACE: Final = Path("catalog")  # From where a catalog of the database names a file of prices.
NO_CONTRACT: Final = "no contract of the catalog holds in this period"
NO_RATE: Final = "no exchange rate from its contract's currency as the period begins"


def untold(_done: int, _all: int) -> None:
    """Tell nobody how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a scenario is played on."""

    catalog: Catalog
    ledger_url: str
    now: datetime  # Aware UTC.
    place: Path = PLACE  # Where the catalog was read from.


def ground_of(catalog: Catalog) -> Ground:
    """Return what a serving process plays scenarios on, as of now.

    Raises:
        NotSetError: It is not told where the ledger is.
    """
    return Ground(catalog=catalog, ledger_url=places().ledger(), now=datetime.now(UTC))


def simulate(
    scenario: Scenario,
    ground: Ground,
    *,
    drafts: Drafts = NO_DRAFTS,
    progress: Progress = untold,
) -> Comparison:
    """Play a scenario.

    Args:
        scenario: What changes.
        ground: The catalog and the ledger.
        drafts: The versions of plans that it names.
        progress: Told how far it is.

    Raises:
        CatalogError: The scenario, or the catalog that it leads to, is wrong: with every fault.
        LedgerUnreadableError, TooMuchUsageError: The ledger can't be read, or has too much.
    """
    book = _book_for(scenario, ground)
    refuse(_problems(scenario, ground, drafts, book))
    changed = changed_by(scenario, ground, drafts)
    met: Met = set()
    repricing_of = _repricing(scenario, ground, book, met) if scenario.touches_usage else None
    found = play(scenario, ground, changed, repricing_of, progress=progress)
    return replace(found, idle=scenario.unmet(met))


def play(
    scenario: Scenario,
    ground: Ground,
    changed: Catalog,
    repricing_of: RepricingOf | None,
    *,
    progress: Progress = untold,
) -> Comparison:
    """Play a scenario's period under a changed catalog, and under what becomes of rows.

    Args:
        scenario: Which period, and for whom.
        ground: The catalog and the ledger.
        changed: The catalog as it would be.
        repricing_of: By tenant, what its rows would be; None: as they are.
        progress: Told how far it is.
    """
    return _Playing(scenario, ground, changed, repricing_of, progress).run()


def problems_of(scenario: Scenario, ground: Ground, drafts: Drafts = NO_DRAFTS) -> list[Problem]:
    """Return what is wrong with a scenario by itself: with every name that there is not.

    Raises:
        LedgerUnreadableError: The ledger can't be read.
    """
    return _problems(scenario, ground, drafts, _book_for(scenario, ground))


def _problems(scenario: Scenario, ground: Ground, drafts: Drafts, book: PriceBook) -> list[Problem]:
    return [
        *find_scenario_problems(ground.catalog, scenario, drafts),
        *month_to_come(scenario, ground.now),
        *_unknown_names(scenario, ground),
        *scenario_names.unknown_models(scenario, book),
    ]


def _book_for(scenario: Scenario, ground: Ground) -> PriceBook:
    """Return the price book where a scenario asks for prices: only another model's are."""
    return book_of(ground) if scenario.swaps else PriceBook(version="", currency="")


def _repricing(scenario: Scenario, ground: Ground, book: PriceBook, met: Met) -> RepricingOf:
    prices_of = PricesOf(ground.catalog, book)

    def of_tenant(tenant_id: str) -> Reprice:
        return repricing(scenario, tenant_id, prices_of(tenant_id), list_named, met)

    return of_tenant


def _unknown_names(scenario: Scenario, ground: Ground) -> Sequence[Problem]:
    """Find what neither a price nor usage names; what is quick to ask is asked first."""
    catalog = ground.catalog
    negotiated = (each for one in catalog.tenants.values() for each in one.negotiated_costs)
    known = scenario_names.names_of(
        (each.provider, each.model) for each in (*catalog.costs, *negotiated)
    )
    for more in (_priced, _used):
        if not any(scenario_names.unknown_names(scenario, known, list_named)):
            return ()
        known |= more(ground)
    return list(scenario_names.unknown_names(scenario, known, list_named))


def _priced(ground: Ground) -> scenario_names.Names:
    return scenario_names.names_in(book_of(ground))


def _used(ground: Ground) -> scenario_names.Names:
    with reading(ground.ledger_url) as ask:
        return scenario_names.names_of(providers_and_models(ask))


def changed_by(scenario: Scenario, ground: Ground, drafts: Drafts = NO_DRAFTS) -> Catalog:
    """Return the catalog that a scenario leads to.

    Raises:
        CatalogError: The scenario, or that catalog, is wrong: with every fault.
    """
    refuse(find_scenario_problems(ground.catalog, scenario, drafts))
    changed = changed_catalog(ground.catalog, scenario, drafts)
    if changed == ground.catalog:
        return ground.catalog
    refuse(find_problems(changed))
    return changed


def instant_of(scenario: Scenario, now: datetime) -> datetime:
    """Return the instant whose periods are meant: the month's last, but not one to come."""
    if not scenario.month:
        return now
    begin = datetime.strptime(scenario.month, "%Y-%m").replace(tzinfo=UTC)
    following = (begin + timedelta(days=32)).replace(day=1)
    return min(now, following - timedelta(microseconds=1))


class _Playing:
    """One scenario on its way."""

    def __init__(
        self,
        scenario: Scenario,
        ground: Ground,
        changed: Catalog,
        repricing_of: RepricingOf | None,
        progress: Progress,
    ) -> None:
        self._scenario = scenario
        self._ground = ground
        self._repricing_of = repricing_of
        self._progress = progress
        self._left_out: list[tuple[str, str]] = []
        self._known_terms = TermsOf(ground.catalog)
        self._changed_terms = self._known_terms if changed is ground.catalog else TermsOf(changed)

    def run(self) -> Comparison:
        scenario, now = self._scenario, self._ground.now
        at = instant_of(scenario, now)
        with reading(self._ground.ledger_url) as ask:
            found = read_periods(
                ask,
                at_micros=micros_of(at),
                now_micros=micros_of(now),
                tenants=scenario.tenants,
            )
            chosen = [
                one
                for one in found.recorded
                if one.tenant_id and (not scenario.tenants or one.tenant_id in scenario.tenants)
            ]
            outcomes = list(self._outcomes(ask, chosen))
        return Comparison(
            currency=found.currency or self._ground.catalog.currency,
            outcomes=tuple(outcomes),
            left_out=tuple(self._left_out),
        )

    def _outcomes(self, ask: Ask, recorded: Sequence[Recorded]) -> Iterable[Outcome]:
        terms = {id(one): self._terms(one) for one in recorded}
        done = self._without_hours(ask, recorded, terms)
        rows = with_rows(ask, [one for one in recorded if id(one) not in done])
        for number, one in enumerate(recorded):
            self._progress(number, len(recorded))
            yield done.get(id(one)) or self._outcome(next(rows), terms[id(one)])
        self._progress(len(recorded), len(recorded))

    def _without_hours(
        self, ask: Ask, recorded: Sequence[Recorded], terms: Mapping[int, Terms | None]
    ) -> Mapping[int, Outcome]:
        """Return the outcomes for which no hours must be read: by far the most, mostly."""
        resting = [
            one
            for one in recorded
            if not needs_hours(one, terms[id(one)], cogs_nanos=one.cogs_nanos)
        ]
        if self._repricing_of is None:
            return {id(one): self._outcome(one, terms[id(one)]) for one in resting}
        if self._scenario.heeds_hours or not self._scenario.costs:
            return {}
        found = {}
        for number, (one, summed) in enumerate(zip(resting, with_sums(ask, resting), strict=True)):
            self._progress(number, len(recorded))
            reprice = self._repricing_of(one.tenant_id)
            if summed is None:
                continue
            changed = [reprice(row) for row in summed.rows]
            pairs = list(zip(summed.rows, changed, strict=True))
            rise_nanos = sum(after.cogs_nanos - before.cogs_nanos for before, after in pairs)
            cogs_nanos = one.cogs_nanos + rise_nanos
            if all(is_exact(*pair) for pair in pairs) and not needs_hours(
                one, terms[id(one)], cogs_nanos=cogs_nanos
            ):
                found[id(one)] = self._outcome(summed, terms[id(one)])
        return found

    def _outcome(self, recorded: Recorded, terms: Terms | None) -> Outcome:
        reprice = None
        if self._repricing_of is not None:
            reprice = self._repricing_of(recorded.tenant_id)
        if terms is None:
            self._left_out.append((recorded.tenant_id, NO_CONTRACT))
        try:
            return simulate_period(recorded, terms, reprice)
        except MissingRateError:
            self._left_out.append((recorded.tenant_id, NO_RATE))
            return simulate_period(recorded, None, reprice)

    def _terms(self, recorded: Recorded) -> Terms | None:
        known = self._known_terms.of(recorded)
        changed = known
        if self._changed_terms is not self._known_terms:
            changed = self._changed_terms.of(recorded)
        if known is None or changed is None:
            return None
        return Terms(known=known, changed=changed, currency=self._ground.catalog.currency)


def book_of(ground: Ground) -> PriceBook:
    """Return a catalog's price book, with the published prices of its file or the package."""
    catalog = ground.catalog
    published = imported_prices(catalog, ground.place)
    if published is None:
        published = tuple(up_to_date((), now_micros=micros_of(ground.now)))
    message = messages.price_book(catalog, published)
    return PriceBook(
        version=message.version,
        currency=message.currency,
        own=lists_of(message.own),
        built_in=lists_of(message.built_in),
    )


class PricesOf:
    """The prices of each tenant: its own before those for everyone."""

    def __init__(self, catalog: Catalog, book: PriceBook) -> None:
        self._catalog = catalog
        self._book = book
        self._general = Prices(book)  # It remembers its answers: most tenants share it.

    def __call__(self, tenant_id: str) -> Prices:
        tenant = self._catalog.tenants.get(tenant_id)
        if tenant is None or not tenant.negotiated_costs:
            return self._general
        owner = f"negotiated:{tenant_id}"
        said = messages.price_lists(tenant.negotiated_costs, source=NEGOTIATED_SOURCE, owner=owner)
        return Prices(self._book, lists_of(said))


class TermsOf:
    """What a catalog says of its tenants, in the words that the ledger reckons in."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def of(self, recorded: Recorded) -> Agreement | None:
        """Return what holds at the end of a period; None if the catalog has no such contract."""
        tenant = self._catalog.tenants.get(recorded.tenant_id)
        if tenant is None or not recorded.subscription_id:
            return None
        last = max(recorded.period.start_micros, recorded.as_of_micros - 1)
        entitled = entitle(self._catalog, tenant, datetime_of(last))
        terms = _terms(entitled.contract).of_subscription(recorded.subscription_id)
        if terms is None:
            return None
        policy = entitled.policy
        override = policy.override_level_max
        return Agreement(
            terms=terms,
            shadow=policy.shadow,
            override_level_max=None if override is None else margin.Level(int(override)),
            override_until_micros=policy.override_until_micros,
        )


def _terms(said: Contract) -> meter.Terms:
    return meter.Terms(
        tenant_id=said.tenant_id,
        subscription_id=said.subscription_id,
        plan_id=said.plan_id,
        currency=said.currency,
        committed_fee_nanos=said.committed_fee_nanos,
        allowance_nanos=said.allowance_nanos,
        cadence=said.cadence,
        anchor_micros=micros_of(said.anchor),
        thresholds=_thresholds(said.thresholds, said.thresholds_source),
        guards=tuple(_guard(each) for each in said.guards),
        phases=said.phases,
        ended_at_micros=None if said.ended_at is None else micros_of(said.ended_at),
        former=tuple(_terms(each) for each in said.former),
        basis=said.basis,
        exchange_rates=said.exchange_rates,
    )


def _guard(said: GuardInForce) -> Guard:
    return Guard(
        guard_id=said.guard.guard_id,
        features=frozenset(said.guard.features),
        meters=said.guard.meters,
        revenue_nanos=said.guard.revenue_nanos,
        revenue_share_bp=said.guard.revenue_share_bp or 0,
        thresholds=_thresholds(said.thresholds, said.thresholds_source),
    )


def _thresholds(said: Thresholds, source: str) -> margin.Thresholds:
    return margin.Thresholds(
        **{each.name: getattr(said, each.name) for each in fields(said)}, source=source
    )
