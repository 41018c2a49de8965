"""Which cost price holds: by whose it is, how specific it is, since when, and for what request."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.periods import HOUR_MICROS, micros_of
from aforo_meter.domain.prices import (
    MEMO_MAX,
    MatchKind,
    ModelMatch,
    PriceBook,
    PriceEntry,
    PriceList,
    Prices,
)
from aforo_meter.domain.usage import (
    API_CALLS,
    LLM_CACHE_CREATION,
    LLM_CACHED_INPUT,
    LLM_INPUT,
    LLM_OUTPUT,
    LLM_REASONING,
    LLM_TOOL,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def entry(
    price_id: str,
    meter: str = LLM_INPUT,
    *,
    since: datetime = START,
    tier: int = 0,
    hours: tuple[int, int] = (0, 0),
) -> PriceEntry:
    return PriceEntry(
        price_id=price_id,
        meter=meter,
        price_nanos=1,
        per_units=1,
        effective_from_micros=micros_of(since),
        tier_input_tokens_from=tier,
        day_from_s=hours[0] * 3600,
        day_to_s=hours[1] * 3600,
    )


def prices(
    *,
    negotiated: tuple[PriceList, ...] = (),
    own: tuple[PriceList, ...] = (),
    built_in: tuple[PriceList, ...] = (),
) -> Prices:
    return Prices(PriceBook(version="1", currency="USD", own=own, built_in=built_in), negotiated)


def found(
    known: Prices,
    meter: str = LLM_INPUT,
    *,
    provider: str = "openai",
    model: str = "gpt-4o",
    at: datetime = NOON,
    input_tokens: int = 0,
) -> str | None:
    price = known.price_of(
        meter, provider=provider, model=model, at_micros=micros_of(at), input_tokens=input_tokens
    )
    return None if price is None else price.price_id


def any_list(*entries: PriceEntry) -> PriceList:
    return PriceList(entries=entries)


def model_list(*entries: PriceEntry, provider: str = "openai", model: str = "gpt-4o") -> PriceList:
    return PriceList(provider=provider, model=model, entries=entries)


def test_negotiated_comes_before_own_and_own_before_built_in() -> None:
    lists = [any_list(entry(name)) for name in ("negotiated", "own", "built in")]

    assert found(prices(negotiated=(lists[0],), own=(lists[1],), built_in=(lists[2],))) == (
        "negotiated"
    )
    assert found(prices(own=(lists[1],), built_in=(lists[2],))) == "own"
    assert found(prices(built_in=(lists[2],))) == "built in"


def test_a_general_own_price_comes_before_a_built_in_one_for_the_model() -> None:
    known = prices(own=(any_list(entry("own")),), built_in=(model_list(entry("model")),))

    assert found(known) == "own"


def test_the_most_specific_list_wins_whatever_the_order() -> None:
    general = any_list(entry("anything"))
    provider = PriceList(provider="openai", entries=(entry("provider"),))
    model = PriceList(model="gpt-4o", entries=(entry("model"),))
    both = model_list(entry("both"))

    assert found(prices(own=(general, provider, model, both))) == "both"
    assert found(prices(own=(general, provider, model))) == "model"
    assert found(prices(own=(general, provider))) == "provider"
    assert found(prices(own=(general,))) == "anything"


def test_another_model_or_provider_has_no_price() -> None:
    known = prices(built_in=(model_list(entry("gpt-4o")),))

    assert found(known, model="gpt-4o-mini") is None
    assert found(known, provider="azure") is None
    assert found(known, provider="") is None


def test_usage_without_a_model_matches_no_list_for_a_model() -> None:
    anywhere = ModelMatch(kind=MatchKind.CONTAINS, text="")
    named = PriceList(model="any", match=anywhere, entries=(entry("model"),))

    assert found(prices(own=(named,)), model="") is None
    assert found(prices(own=(named, any_list(entry("anything")))), model="") == "anything"


@pytest.mark.parametrize(
    ("meter", "stands_in"),
    [
        (LLM_CACHED_INPUT, LLM_INPUT),
        (LLM_CACHE_CREATION, LLM_INPUT),
        (LLM_TOOL, LLM_INPUT),
        (LLM_REASONING, LLM_OUTPUT),
    ],
)
def test_a_kind_of_token_without_a_price_has_that_of_its_parent(meter: str, stands_in: str) -> None:
    parent = model_list(entry("parent", stands_in))
    general = any_list(entry("general", meter))

    assert found(prices(own=(parent, general)), meter) == "parent"
    own = model_list(entry("parent", stands_in), entry("own", meter))
    assert found(prices(own=(own,)), meter) == "own"


def test_nothing_stands_in_for_input_or_calls() -> None:
    known = prices(own=(model_list(entry("output", LLM_OUTPUT)),))

    assert found(known, LLM_INPUT) is None
    assert found(known, API_CALLS) is None


def test_the_latest_price_that_has_started_holds() -> None:
    later = NOON - timedelta(days=1)
    known = prices(
        own=(any_list(entry("old"), entry("new", since=later), entry("next", since=NOON)),)
    )

    assert found(known, at=later - timedelta(microseconds=1)) == "old"
    assert found(known, at=later) == "new"
    assert found(known, at=NOON) == "next"
    assert found(known, at=START - timedelta(microseconds=1)) is None


def test_lists_of_the_same_model_are_one() -> None:
    older, newer = model_list(entry("old")), model_list(entry("new", since=NOON))

    assert found(prices(own=(older, newer))) == "new"


def test_the_highest_tier_that_the_request_reaches_holds_for_all_of_it() -> None:
    known = prices(
        own=(any_list(entry("base"), entry("200k", tier=200_000), entry("1m", tier=10**6)),)
    )

    assert found(known, input_tokens=199_999) == "base"
    assert found(known, input_tokens=200_000) == "200k"
    assert found(known, input_tokens=10**7) == "1m"


def test_a_later_price_without_tiers_ends_them() -> None:
    known = prices(
        own=(any_list(entry("tier", tier=200_000), entry("flat", since=NOON)),),
    )

    assert found(known, input_tokens=300_000) == "flat"


@pytest.mark.parametrize(
    ("hours", "inside", "outside"), [((1, 5), 1, 5), ((22, 6), 23, 6), ((22, 6), 0, 12)]
)
def test_a_price_for_part_of_the_day_comes_before_the_days(
    hours: tuple[int, int], inside: int, outside: int
) -> None:
    known = prices(own=(any_list(entry("day"), entry("night", hours=hours)),))

    assert found(known, at=NOON.replace(hour=inside)) == "night"
    assert found(known, at=NOON.replace(hour=outside)) == "day"


def match(kind: MatchKind, text: str) -> ModelMatch:
    return ModelMatch(kind=kind, text=text)


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        (match(MatchKind.EQUALS, "gpt-4o"), "GPT-4o", "gpt-4o-mini"),
        (match(MatchKind.STARTS_WITH, "gpt-4o"), "gpt-4o-mini", "my-gpt-4o"),
        (match(MatchKind.ENDS_WITH, "-mini"), "gpt-4o-mini", "gpt-4o-mini-1"),
        (match(MatchKind.CONTAINS, "4o"), "gpt-4o-mini", "gpt-4.1"),
        (match(MatchKind.REGEX, r"^gpt-\d"), "gpt-5", "o-gpt-5"),
        (
            ModelMatch(
                kind=MatchKind.ANY_OF,
                parts=(match(MatchKind.EQUALS, "a"), match(MatchKind.EQUALS, "b")),
            ),
            "b",
            "c",
        ),
        (
            ModelMatch(
                kind=MatchKind.ALL_OF,
                parts=(match(MatchKind.STARTS_WITH, "a"), match(MatchKind.ENDS_WITH, "z")),
            ),
            "a-z",
            "a",
        ),
        (ModelMatch(kind=MatchKind.ANY_OF), None, "anything"),
    ],
)
def test_model_names_are_recognised_in_any_case(rule: ModelMatch, yes: str | None, no: str) -> None:
    known = prices(own=(PriceList(model="shown", match=rule, entries=(entry("it"),)),))

    assert found(known, model=no) is None
    if yes is not None:
        assert found(known, model=yes) == "it"


def test_of_published_models_that_match_the_first_one_is_meant() -> None:
    first = PriceList(
        provider="openai",
        model="gpt-4o",
        match=match(MatchKind.STARTS_WITH, "gpt-4o"),
        entries=(entry("output", LLM_OUTPUT),),
    )
    second = PriceList(
        provider="openai",
        model="gpt-4",
        match=match(MatchKind.STARTS_WITH, "gpt-4"),
        entries=(entry("input of another"),),
    )

    assert found(prices(built_in=(first, second))) is None
    # The owner's own are tried one after the other.
    assert found(prices(own=(first, second))) == "input of another"


def test_usage_of_which_only_the_hour_is_known_gets_the_first_price_of_that_hour() -> None:
    hour = NOON
    known = prices(
        own=(
            any_list(
                entry("second", since=hour + timedelta(minutes=40)),
                entry("first", since=hour + timedelta(minutes=20)),
            ),
        )
    )

    def in_hour(start: datetime) -> str | None:
        price = known.price_in_hour(
            LLM_INPUT,
            provider="openai",
            model="gpt-4o",
            hour_start_micros=micros_of(start),
            input_tokens=0,
        )
        return None if price is None else price.price_id

    assert in_hour(hour - timedelta(hours=1)) is None
    assert in_hour(hour) == "first"
    assert in_hour(hour + timedelta(hours=1)) == "second"


def test_an_hour_ends_before_the_next_begins() -> None:
    known = prices(own=(any_list(entry("next hour", since=NOON + timedelta(hours=1))),))
    price = known.price_in_hour(
        LLM_INPUT, provider="", model="", hour_start_micros=micros_of(NOON), input_tokens=0
    )

    assert price is None
    assert micros_of(NOON) % HOUR_MICROS == 0


def test_what_is_remembered_of_model_names_is_bounded() -> None:
    known = prices(own=(any_list(entry("it")),))
    for number in range(MEMO_MAX + 10):
        assert found(known, model=f"model-{number}") == "it"

    assert len(known._memo) <= MEMO_MAX


@given(
    starts=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    at=st.integers(0, 60),
    added=st.integers(0, 60),
)
def test_a_new_price_never_changes_what_held_before_it(
    starts: list[int], at: int, added: int
) -> None:
    """Entries are never edited, so an answer for a past time is final."""
    dated = tuple(
        entry(f"{number}", since=START + timedelta(days=day)) for number, day in enumerate(starts)
    )
    before = prices(own=(any_list(*dated),))
    new = entry("new", since=START + timedelta(days=added))
    after = prices(own=(any_list(*dated, new),))
    when = START + timedelta(days=at)

    if at < added:
        assert found(before, at=when) == found(after, at=when)
    elif added > max((day for day in starts if day <= at), default=-1):
        assert found(after, at=when) == "new"
