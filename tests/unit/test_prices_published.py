"""Rating agrees with genai-prices, model by model, to the last nano: the oracle is independent."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from genai_prices import Usage as PublishedUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice

from aforo_admin.builtin_prices import built_in_lists
from aforo_meter.contract_messages import book_of
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.prices import Prices
from aforo_meter.domain.tokens import ReportedTokens, split_tokens
from aforo_proto.contract_pb2 import PriceBook

NANOS = 10**9
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
MODELS = [
    (provider.id, model) for provider in get_snapshot().providers for model in provider.models
]
# Sizes around the tiers that are published.
SIZES = (0, 1, 999, 31_999, 32_000, 32_001, 128_000, 128_001, 200_000, 200_001, 272_001, 999_999)


@pytest.fixture(scope="module")
def prices() -> Prices:
    message = PriceBook(version="1", currency="USD", built_in=built_in_lists())
    return Prices(book_of(message.SerializeToString()))


def priced_by_request(model: ModelInfo) -> bool:
    each = [model.prices] if isinstance(model.prices, ModelPrice) else None
    each = each or [condition.prices for condition in model.prices]  # type: ignore[union-attr]
    return any(price.requests_kcount is not None for price in each)


def published_nanos(
    provider: str, model: str, reported: ReportedTokens, at: datetime
) -> Fraction | None:
    usage = PublishedUsage(
        input_tokens=reported.input_tokens,
        cache_read_tokens=reported.cached_input_tokens,
        cache_write_tokens=reported.cache_creation_tokens,
        output_tokens=reported.output_tokens,
    )
    try:
        price = calc_price(usage, model, provider_id=provider, genai_request_timestamp=at)
    except LookupError:
        return None
    return Fraction(Decimal(NANOS)) * Fraction(price.total_price)


def our_nanos(
    prices: Prices, provider: str, model: str, reported: ReportedTokens, at: datetime
) -> Fraction:
    total = Fraction(0)
    for measure in split_tokens(reported):
        entry = prices.price_of(
            measure.meter,
            provider=provider,
            model=model,
            at_micros=micros_of(at),
            input_tokens=reported.input_tokens or 0,
        )
        if entry is not None:
            total += Fraction(measure.units * entry.price_nanos, entry.per_units)
    return total


@pytest.mark.parametrize("part", range(8))
def test_every_published_model_costs_what_genai_prices_says(prices: Prices, part: int) -> None:
    draw = random.Random(part)  # noqa: S311 - the same sample in every run
    compared = 0
    for provider, model in MODELS[part::16]:
        if priced_by_request(model):
            continue  # A price per request is not imported.
        for _ in range(3):
            size = draw.choice(SIZES)
            reported = ReportedTokens(
                input_tokens=size,
                cached_input_tokens=draw.randint(0, size) // 2,
                cache_creation_tokens=draw.randint(0, size) // 3,
                output_tokens=draw.randint(0, 10**6),
            )
            at = FIRST_DAY + timedelta(seconds=draw.randint(0, 3 * 365 * 86_400))
            expected = published_nanos(provider, model.id, reported, at)
            ours = our_nanos(prices, provider, model.id, reported, at)
            # Their names do not always match the model they are of; then neither knows a price.
            assert ours == (expected or 0), (provider, model.id, reported, at)
            compared += 1
    assert compared > 300


def test_a_model_that_nobody_publishes_has_no_price(prices: Prices) -> None:
    reported = ReportedTokens(input_tokens=1000, output_tokens=1000)

    assert our_nanos(prices, "openai", "no-such-model", reported, FIRST_DAY) == 0
    assert our_nanos(prices, "", "gpt-4o", reported, FIRST_DAY) == 0


def test_a_dated_name_of_a_model_is_recognised(prices: Prices) -> None:
    """1,000 input tokens of gpt-4o at $2.50 per million and 100 output tokens at $10:
    0.0025 + 0.001 = $0.0035 = 3,500,000 nanos."""
    reported = ReportedTokens(input_tokens=1000, output_tokens=100)
    at = datetime(2026, 1, 1, tzinfo=UTC)

    assert our_nanos(prices, "openai", "gpt-4o-2024-08-06", reported, at) == 3_500_000
