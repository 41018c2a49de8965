"""Models and providers that a scenario names, beside those that there are. Pure."""

from collections.abc import Collection, Iterator

from aforo_admin.domain.problems import Path, Problem, unknown
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.scenario_usage import covers
from aforo_meter.domain.account import UsageKey
from aforo_meter.domain.prices import PriceBook


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


def unknown_providers(scenario: Scenario, known: Collection[str]) -> Iterator[Problem]:
    """Find providers whose usage a scenario changes, and that there are not: it would do nothing.

    Args:
        scenario: What changes.
        known: Those that prices or usage name; "" among them is none.
    """
    for path, provider in _providers(scenario):
        if provider and not any(_is_provider(each, provider) for each in known):
            yield unknown(path, provider, kind="provider", known={each for each in known if each})


def _providers(scenario: Scenario) -> Iterator[tuple[Path, str]]:
    for index, change in enumerate(scenario.costs):
        yield ("costs", index, "provider"), change.provider
    for index, swap in enumerate(scenario.swaps):
        yield ("models", index, "provider"), swap.provider


def _is_provider(name: str, wanted: str) -> bool:
    return covers(UsageKey("", "", name, "", "", ""), provider=wanted, model="")
