"""The imported prices say what genai-prices would calculate, for any model, time and usage."""

import random
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from genai_prices import Usage, calc_price, types
from genai_prices.data_snapshot import get_snapshot

from aforo_admin.builtin_prices import (
    PRICE_KEYS,
    built_in_lists,
    exact_nanos,
    lists_of,
    match_of,
    spells_of,
)
from aforo_admin.domain.catalog import (
    CACHE_CREATION_TOKENS,
    CACHED_INPUT_TOKENS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    PRICE_FALLBACKS,
    REASONING_TOKENS,
)
from aforo_proto.contract_pb2 import ModelMatch, PriceEntry, PriceList

NANOS = 10**9
SECOND_MICROS = 1_000_000
DAY_S = 86_400
INPUT_KINDS = (INPUT_TOKENS, CACHED_INPUT_TOKENS, CACHE_CREATION_TOKENS)


def matches(match: ModelMatch, name: str) -> bool:
    rule = match.WhichOneof("rule")
    if rule == "any_of":
        return any(matches(part, name) for part in match.any_of.matches)
    if rule == "all_of":
        return all(matches(part, name) for part in match.all_of.matches)
    if rule == "regex":
        return re.search(match.regex, name) is not None
    assert rule is not None
    given: str = getattr(match, rule)
    return {
        "equals": name == given,
        "starts_with": name.startswith(given),
        "ends_with": name.endswith(given),
        "contains": given in name,
    }[rule]


def in_window(entry: PriceEntry, at_micros: int) -> bool:
    if entry.day_from_s == entry.day_to_s:
        return True
    second = at_micros // SECOND_MICROS % DAY_S
    if entry.day_from_s < entry.day_to_s:
        return entry.day_from_s <= second < entry.day_to_s
    return second >= entry.day_from_s or second < entry.day_to_s


def entry_in_force(
    entries: Iterable[PriceEntry], *, meter: str, at_micros: int, input_tokens: int
) -> PriceEntry | None:
    """The rule of contract.proto, as plainly as it can be written."""
    begun = [
        entry
        for entry in entries
        if entry.meter == meter
        and entry.effective_from_micros <= at_micros
        and in_window(entry, at_micros)
    ]
    if not begun:
        return None
    latest = max(entry.effective_from_micros for entry in begun)
    tiers = [
        entry
        for entry in begun
        if entry.effective_from_micros == latest and entry.tier_input_tokens_from <= input_tokens
    ]
    (entry,) = [
        entry
        for entry in tiers
        if entry.tier_input_tokens_from == max(e.tier_input_tokens_from for e in tiers)
    ]
    return entry


def cost_nanos(
    found: PriceList, *, at: datetime, tokens: dict[str, int], input_tokens: int
) -> Fraction:
    at_micros = int(at.timestamp()) * SECOND_MICROS
    total = Fraction(0)
    for meter, count in tokens.items():
        for name in (meter, PRICE_FALLBACKS.get(meter)):
            entry = name and entry_in_force(
                found.entries, meter=name, at_micros=at_micros, input_tokens=input_tokens
            )
            if entry:
                total += Fraction(count * entry.price_nanos, entry.per_units)
                break
    return total


def first_match(provider: str, name: str) -> PriceList | None:
    lists = (each for each in built_in_lists() if each.provider == provider)
    return next((each for each in lists if matches(each.match, name.lower())), None)


def some_time(random_: random.Random) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=random_.randrange(4 * 365 * DAY_S))


def some_tokens(random_: random.Random) -> dict[str, int]:
    # Around the tiers' starts, 128 000, 200 000 and 272 000, as often as anywhere else.
    top = random_.choice([0, 1, 5_000, 128_000, 128_001, 200_000, 200_001, 272_001, 1_000_000])
    cached = random_.randint(0, top)
    created = random_.randint(0, top - cached)
    reasoning = random_.randint(0, 1000)
    return {
        INPUT_TOKENS: top - cached - created,
        CACHED_INPUT_TOKENS: cached,
        CACHE_CREATION_TOKENS: created,
        OUTPUT_TOKENS: random_.randint(0, 1000),
        REASONING_TOKENS: reasoning,
    }


def name_of(model: types.ModelInfo) -> str | None:
    """A name that the model is known by; its id need not be one."""
    names = [model.id, *literals(model.match)]
    return next((name for name in names if model.is_match(name)), None)


def literals(clause: types.MatchLogic) -> list[str]:
    if isinstance(clause, types.ClauseOr):
        return [text for part in clause.or_ for text in literals(part)]
    if isinstance(clause, types.ClauseAnd):
        return [text for part in clause.and_ for text in literals(part)]
    return list(vars(clause).values())


def has_price_per_request(model: types.ModelInfo) -> bool:
    sets = model.prices if isinstance(model.prices, list) else [model.prices]
    prices = [each.prices if isinstance(each, types.ConditionalPrice) else each for each in sets]
    return any(each.requests_kcount is not None for each in prices)


@pytest.mark.parametrize("provider", get_snapshot().providers, ids=lambda provider: provider.id)
def test_every_model_costs_what_genai_prices_calculates(provider: types.Provider) -> None:
    random_ = random.Random(provider.id)  # noqa: S311 - not a secret.
    compared = 0
    for model in provider.models:
        name = name_of(model)
        found = first_match(provider.id, name) if name else None
        if name is None or found is None or has_price_per_request(model):
            continue
        assert found.model == model.id
        for _ in range(3):
            at, tokens = some_time(random_), some_tokens(random_)
            input_tokens = sum(
                tokens[meter]
                for meter in (INPUT_TOKENS, CACHED_INPUT_TOKENS, CACHE_CREATION_TOKENS)
            )
            theirs = calc_price(
                Usage(
                    input_tokens=input_tokens,
                    cache_read_tokens=tokens[CACHED_INPUT_TOKENS],
                    cache_write_tokens=tokens[CACHE_CREATION_TOKENS],
                    output_tokens=tokens[OUTPUT_TOKENS] + tokens[REASONING_TOKENS],
                    output_reasoning_tokens=tokens[REASONING_TOKENS],
                ),
                name,
                provider_id=provider.id,
                genai_request_timestamp=at,
            ).total_price
            ours = cost_nanos(found, at=at, tokens=tokens, input_tokens=input_tokens)

            assert ours == Fraction(theirs) * NANOS, (name, at, tokens)
            compared += 1
    assert compared or provider.id in {"elevenlabs", "openai-decisions"}


def test_a_thousand_input_tokens_of_which_400_are_cached_cost_three_tenths_of_a_cent() -> None:
    """600 x $2.50/M + 400 x $1.25/M + 100 x $10/M = $0.0015 + $0.0005 + $0.0010 = $0.0030."""
    found = first_match("openai", "gpt-4o")
    assert found is not None
    tokens = {INPUT_TOKENS: 600, CACHED_INPUT_TOKENS: 400, OUTPUT_TOKENS: 100}

    cost = cost_nanos(found, at=datetime(2026, 6, 1, tzinfo=UTC), tokens=tokens, input_tokens=1000)

    assert cost == 3_000_000


def test_a_reseller_has_the_models_of_those_it_resells_after_its_own() -> None:
    ours = first_match("azure", "claude-sonnet-4-5")
    theirs = first_match("anthropic", "claude-sonnet-4-5")

    assert ours is not None
    assert theirs is not None
    assert ours.model == theirs.model
    assert ours.entries[0].price_id.startswith("genai:azure:anthropic/")


def test_price_ids_and_names_are_unique() -> None:
    ids = [entry.price_id for each in built_in_lists() for entry in each.entries]
    names = [(each.provider, each.model) for each in built_in_lists()]

    assert len(ids) == len(set(ids))
    assert len(names) == len(set(names))


def provider_with(*prices: types.ConditionalPrice) -> types.Provider:
    model = types.ModelInfo(id="m", match=types.ClauseEquals("m"), prices=list(prices))
    return types.Provider(id="p", name="P", api_pattern="", models=[model])


def priced(
    constraint: object = None, **prices: Decimal | types.TieredPrices
) -> types.ConditionalPrice:
    assert constraint is None or isinstance(
        constraint, types.StartDateConstraint | types.TimeOfDateConstraint
    )
    return types.ConditionalPrice(constraint, prices=types.ModelPrice(**prices))


def entries_of(provider: types.Provider, source: str = "test") -> list[PriceEntry]:
    return [entry for each in lists_of([provider], source=source) for entry in each.entries]


def test_an_id_outlives_an_upgrade_of_the_data_but_not_a_correction_of_the_price() -> None:
    (old,) = entries_of(provider_with(priced(input_mtok=Decimal("2.5"))), source="genai-prices 1")
    (same,) = entries_of(provider_with(priced(input_mtok=Decimal("2.50"))), source="genai-prices 2")
    (other,) = entries_of(provider_with(priced(input_mtok=Decimal("2.6"))))

    assert old.price_id == same.price_id
    assert same.source == "genai-prices 2"
    assert other.price_id != old.price_id
    assert other.price_id.startswith("genai:p/m/llm.input_tokens/undated/0#")


def test_a_tier_above_a_start_begins_with_the_next_token() -> None:
    tiers = types.TieredPrices(base=Decimal(1), tiers=[types.Tier(start=200_000, price=Decimal(2))])

    starts = [e.tier_input_tokens_from for e in entries_of(provider_with(priced(input_mtok=tiers)))]

    assert starts == [0, 200_001]


def test_a_price_that_is_dropped_gives_way_to_its_fallback() -> None:
    later = types.StartDateConstraint(start_date=date(2026, 1, 1))
    provider = provider_with(
        priced(input_mtok=Decimal(4), cache_read_mtok=Decimal(1)),
        priced(later, input_mtok=Decimal(3)),
    )

    cached = [e for e in entries_of(provider) if e.meter == CACHED_INPUT_TOKENS]

    assert [entry.price_nanos for entry in cached] == [1 * NANOS, 3 * NANOS]


def test_hours_of_the_day_are_cut_so_that_each_second_has_one_price() -> None:
    def at(hour: int, minute: int = 0) -> time:
        return time(hour, minute, tzinfo=UTC)

    spells = spells_of(
        [
            priced(input_mtok=Decimal(1)),
            priced(types.TimeOfDateConstraint(at(1), at(4)), input_mtok=Decimal(2)),
            priced(types.TimeOfDateConstraint(at(22), at(0)), input_mtok=Decimal(3)),
        ]
    )

    assert [(s.day_from_s // 3600, s.day_to_s // 3600) for s in spells] == [
        (0, 1),
        (1, 4),
        (4, 22),
        (22, 0),
    ]
    assert [s.prices.input_mtok for s in spells] == [1, 2, 1, 3]


def test_a_price_finer_than_a_nano_is_quoted_for_more_tokens_instead_of_rounded() -> None:
    assert exact_nanos(Decimal("0.15")) == (150_000_000, 1_000_000)
    assert exact_nanos(Decimal("0.0000000005")) == (1, 2_000_000)


def test_names_are_compared_in_lower_case() -> None:
    rule = types.ClauseOr([types.ClauseStartsWith("GPT-4O"), types.ClauseEquals("Chat-X")])

    assert matches(match_of(rule), "gpt-4o-2024-08-06")
    assert matches(match_of(rule), "chat-x")
    assert not matches(match_of(rule), "gpt-4")


def test_every_meter_of_ours_that_they_price_is_imported() -> None:
    assert {e.meter for each in built_in_lists() for e in each.entries} == set(PRICE_KEYS)
