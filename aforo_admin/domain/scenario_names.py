"""Models and providers that a scenario names, beside those that there are. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aforo_admin.domain.problems import Path, Problem, unknown
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.scenario_usage import Naming, covers, goes_by
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.prices import PriceBook, PriceList

NamedAt = tuple[Path, str]  # Where a scenario names it, and what.


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Providers and models that prices or usage name."""

    pairs: frozenset[tuple[str, str]]  # (provider, model); one that is empty is none.
    rules: tuple[PriceList, ...] = ()  # Of prices that know a model by more names than one.

    @property
    def providers(self) -> frozenset[str]:
        return frozenset(provider for provider, _ in self.pairs if provider)

    @property
    def models(self) -> frozenset[str]:
        return frozenset(model for _, model in self.pairs if model)

    def __or__(self, more: "Names") -> "Names":
        return Names(pairs=self.pairs | more.pairs, rules=(*self.rules, *more.rules))


def names_of(pairs: Iterable[tuple[str, str]]) -> Names:
    """Return the names of providers with their models."""
    return Names(pairs=frozenset(pairs))


def names_in(book: PriceBook) -> Names:
    lists = (*book.own, *book.built_in)
    return Names(
        pairs=frozenset((each.provider, each.model) for each in lists),
        rules=tuple(each for each in lists if each.match is not None),
    )


def unknown_models(scenario: Scenario, book: PriceBook) -> Iterator[Problem]:
    """Find models that are swapped in and have no price."""
    lists = [each for each in (*book.own, *book.built_in) if each.model or each.match]
    for index, swap in enumerate(scenario.swaps):
        is_name = swap.to_model and "*" not in swap.to_model  # Else that is told.
        if is_name and not any(
            each.covers(provider=swap.to_provider or each.provider, model=swap.to_model)
            for each in lists
        ):
            yield Problem(
                path=("models", index, "to"),
                message=f'no price is for the model "{swap.to_model}"',
                given=swap.to_model,
                kind="model",
                choices=tuple(sorted({each.model for each in lists})),
            )


def unknown_names(scenario: Scenario, known: Names, named: Naming) -> Iterator[Problem]:
    """Find providers and models whose usage a scenario changes, and that there are not.

    It would do nothing.
    """
    for path, provider in _providers(scenario):
        if provider and not any(_is_provider(each, provider) for each in known.providers):
            yield unknown(path, provider, kind="provider", known=known.providers)
    for path, model in _models(scenario):
        if model and not _is_known(model, known, named):
            yield unknown(path, model, kind="model", known=known.models)


def _providers(scenario: Scenario) -> Iterator[NamedAt]:
    for index, change in enumerate(scenario.costs):
        yield ("costs", index, "provider"), change.provider
    for index, swap in enumerate(scenario.swaps):
        yield ("models", index, "provider"), swap.provider


def _models(scenario: Scenario) -> Iterator[NamedAt]:
    for index, change in enumerate(scenario.costs):
        yield ("costs", index, "model"), change.model
    for index, swap in enumerate(scenario.swaps):
        yield ("models", index, "from"), swap.model


def _is_provider(name: str, wanted: str) -> bool:
    return covers(UsageKey("", "", name, "", "", ""), provider=wanted, model="")


def _is_known(wanted: str, known: Names, named: Naming) -> bool:
    if any(
        goes_by(UsageKey("", "", provider, model, "", ""), wanted, named)
        for provider, model in known.pairs
    ):
        return True
    return any(each.covers(provider=each.provider, model=wanted) for each in known.rules)
