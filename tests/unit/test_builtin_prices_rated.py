"""Rating finds, among the imported prices, those that genai-prices would calculate with."""

import random
from fractions import Fraction

import pytest
from genai_prices import Usage, calc_price, types
from genai_prices.data_snapshot import get_snapshot

from aforo_admin.builtin_prices import built_in_lists
from aforo_meter.contract_messages import book_of
from aforo_meter.domain.prices import Prices
from aforo_proto.contract_pb2 import PriceBook
from tests.unit.test_builtin_prices import (
    INPUT_KINDS,
    NANOS,
    has_price_per_request,
    name_of,
    some_time,
    some_tokens,
)

PROVIDERS = {provider.id: provider for provider in get_snapshot().providers}


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices(book_of(PriceBook(built_in=built_in_lists()).SerializeToString()))


@pytest.mark.parametrize("seller", ["openai", "anthropic", "google", "deepseek", "mistral", "aws"])
def test_a_model_costs_the_same_under_its_seller(seller: str, prices: Prices) -> None:
    compare(prices, PROVIDERS[seller], PROVIDERS[seller].models)


@pytest.mark.parametrize(("reseller", "maker"), [("azure", "openai"), ("google", "anthropic")])
def test_a_model_costs_the_same_under_its_reseller(
    reseller: str, maker: str, prices: Prices
) -> None:
    compare(prices, PROVIDERS[reseller], PROVIDERS[maker].models)


def test_cached_input_is_a_part_of_the_input_and_costs_once(prices: Prices) -> None:
    """1,000 tokens in, 400 of them cached, and 100 out: $0.0030 on gpt-4o."""
    tokens = {
        "llm.input_tokens": 600,
        "llm.cached_input_tokens": 400,
        "llm.output_tokens": 100,
    }
    total = Fraction(0)
    for meter, count in tokens.items():
        entry = prices.price_of(
            meter,
            provider="openai",
            model="gpt-4o",
            at_micros=1_793_491_200_000_000,  # 2026-11-01
            input_tokens=1000,
        )
        assert entry is not None
        total += Fraction(count * entry.price_nanos, entry.per_units)

    assert total == 3_000_000


def compare(prices: Prices, provider: types.Provider, models: list[types.ModelInfo]) -> None:
    random_ = random.Random(provider.id)  # noqa: S311 - not a secret.
    compared = 0
    for model in models:
        name = name_of(model)
        if name is None or has_price_per_request(model):
            continue
        at, tokens = some_time(random_), some_tokens(random_)
        input_tokens = sum(tokens[meter] for meter in INPUT_KINDS)
        usage = Usage(
            input_tokens=input_tokens,
            cache_read_tokens=tokens["llm.cached_input_tokens"],
            cache_write_tokens=tokens["llm.cache_creation_tokens"],
            output_tokens=tokens["llm.output_tokens"] + tokens["llm.reasoning_tokens"],
            output_reasoning_tokens=tokens["llm.reasoning_tokens"],
        )
        theirs = calc_price(
            usage, name, provider_id=provider.id, genai_request_timestamp=at
        ).total_price
        ours = Fraction(0)
        for meter, count in tokens.items():
            entry = prices.price_of(
                meter,
                provider=provider.id,
                model=name,
                at_micros=int(at.timestamp()) * 10**6,
                input_tokens=input_tokens,
            )
            # Without a price usage is unpriced for us; genai-prices counts it as nothing.
            ours += Fraction(count * entry.price_nanos, entry.per_units) if entry else 0

        assert ours == Fraction(theirs) * NANOS, (name, at, tokens)
        compared += 1
    assert compared > 5
