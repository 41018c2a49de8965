"""What a contract brings, and which period an instant is in."""

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.account import Account, UsageKey, Used
from aforo_meter.domain.charging import LineKind
from aforo_meter.domain.periods import Cadence, PeriodMicros, calendar_month, micros_of
from aforo_meter.domain.rate_card import Component, PerUnit, RateCard
from aforo_meter.domain.revenue import MissingRateError, Revenue, fixed_nanos, revenue
from aforo_meter.domain.terms import ExchangeRate, Phase, RevenueBasis, Terms

UNIT = 1_000_000
DOLLAR = 1_000_000_000

ANCHOR = micros_of(datetime(2026, 1, 31, 6, tzinfo=UTC))
INSTANTS = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001
    max_value=datetime(2099, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def terms(*, fee_nanos: int = 0, cadence: Cadence = Cadence.MONTH) -> Terms:
    return Terms(
        tenant_id="acme",
        subscription_id="sub-1",
        committed_fee_nanos=fee_nanos,
        cadence=cadence,
        anchor_micros=ANCHOR,
    )


JUNE = PeriodMicros(*(micros_of(datetime(2026, month, 1, tzinfo=UTC)) for month in (6, 7)))
JUNE_16 = micros_of(datetime(2026, 6, 16, tzinfo=UTC))


def phase(from_micros: int = 0, *, fee: int = 0, unit_nanos: int = 0, **more: object) -> Phase:
    """Return a phase with a fee in dollars, which charges so much for a call."""
    calls = Component(
        component_id="calls", meter="api.calls", pricing=PerUnit(price_nanos=unit_nanos)
    )
    card = RateCard(effective_from_micros=0, components=(calls,))
    fields = {"rate_cards": (card,) if unit_nanos else ()} | more
    return Phase(
        effective_from_micros=from_micros,
        source=f"plan:{fee}",
        committed_fee_nanos=fee * DOLLAR,
        **fields,  # type: ignore[arg-type]
    )


def calls(count: int) -> Account:
    return {UsageKey("api.calls", "chat", "", "", "", ""): Used(quantity_micros=count * UNIT)}


def june(
    *phases: Phase,
    account: Account | None = None,
    now_micros: int = JUNE_16,
    drawn_before: int = 0,
    **more: object,
) -> Revenue:
    """Return the revenue of June 2026."""
    contract = replace(terms(), anchor_micros=JUNE.start_micros, phases=phases, **more)  # type: ignore[arg-type]
    return revenue(
        contract,
        account or {},
        period=JUNE,
        now_micros=now_micros,
        book_currency="USD",
        drawn_before_nanos=drawn_before * DOLLAR,
    )


def test_the_committed_fee_of_the_whole_period_counts_from_its_first_day() -> None:
    assert june(phase(fee=30), now_micros=JUNE.start_micros).total_nanos == 30 * DOLLAR


def test_a_contract_that_tells_no_dates_has_always_held() -> None:
    contract = terms(fee_nanos=10**10)
    period = contract.period_at(ANCHOR)

    told = revenue(contract, {}, period=period, now_micros=ANCHOR, book_currency="USD")

    assert told.total_nanos == 10**10
    assert fixed_nanos(contract, period, book_currency="USD") == 10**10


def test_no_fee_is_no_revenue() -> None:
    assert june(phase()).total_nanos == 0
    assert june(phase()).lines == ()


def test_a_fee_that_changes_inside_the_period_counts_for_its_part_of_it() -> None:
    told = june(phase(fee=30), phase(JUNE_16, fee=90))

    assert told.total_nanos == (15 + 45) * DOLLAR
    assert [(line.name, line.amount_nanos) for line in told.lines] == [
        ("plan:30", 15 * DOLLAR),
        ("plan:90", 45 * DOLLAR),
    ]
    assert told.lines[0].end_micros == told.lines[1].start_micros == JUNE_16


def test_a_contract_that_begins_inside_the_period_counts_from_then_on() -> None:
    told = june(phase(JUNE_16, fee=30, unit_nanos=DOLLAR), account=calls(2))

    assert told.total_nanos == (15 + 2) * DOLLAR
    assert june(phase(JUNE.end_micros, fee=30)).total_nanos == 0


def test_an_accrued_fee_grows_by_the_second() -> None:
    second = Fraction(30 * DOLLAR * UNIT, JUNE.end_micros - JUNE.start_micros)

    def at(now_micros: int) -> int:
        return june(phase(fee=30), now_micros=now_micros, basis=RevenueBasis.ACCRUED).total_nanos

    assert at(JUNE_16) == 15 * DOLLAR
    assert at(JUNE_16 + UNIT - 1) == 15 * DOLLAR
    assert at(JUNE_16 + UNIT) == round(15 * DOLLAR + second)
    assert at(JUNE.end_micros) == at(JUNE.end_micros + UNIT) == 30 * DOLLAR


def test_a_day_of_an_accrued_fee_is_there_from_the_first_second() -> None:
    """One thirtieth of 30; of a contract that begins on the 16th, the day that begins then."""
    day = 24 * 3600 * UNIT

    def at(now_micros: int, begins_micros: int = JUNE.start_micros) -> int:
        told = june(phase(begins_micros, fee=30), now_micros=now_micros, basis=RevenueBasis.ACCRUED)
        return told.total_nanos

    assert at(JUNE.start_micros) == at(JUNE.start_micros + day) == DOLLAR
    assert at(JUNE.start_micros + 2 * day) == 2 * DOLLAR
    assert at(JUNE_16, JUNE_16) == at(JUNE_16 + day, JUNE_16) == DOLLAR
    assert at(JUNE.end_micros, JUNE.end_micros - day // 2) == DOLLAR // 2


def test_what_is_charged_for_usage_counts_at_once_on_either_basis() -> None:
    for basis in RevenueBasis:
        told = june(phase(unit_nanos=DOLLAR), account=calls(3), basis=basis)

        assert told.total_nanos == told.usage_nanos == 3 * DOLLAR


def test_usage_of_a_period_is_charged_by_the_card_in_force_as_it_begins() -> None:
    cheap, dear = phase(unit_nanos=1), phase(JUNE_16, unit_nanos=100)

    assert june(cheap, dear, account=calls(5)).usage_nanos == 5
    assert (
        june(replace(dear, effective_from_micros=JUNE.start_micros), account=calls(5)).usage_nanos
        == 500
    )


def test_prepaid_usage_is_revenue_as_it_is_drawn() -> None:
    prepaid = phase(fee=30, unit_nanos=DOLLAR, prepaid_nanos=100 * DOLLAR)

    def figures(count: int, drawn_before: int) -> tuple[int, int, int]:
        told = june(prepaid, account=calls(count), drawn_before=drawn_before)
        return tuple(  # type: ignore[return-value]
            nanos // DOLLAR
            for nanos in (told.total_nanos, told.prepaid_drawn_nanos, told.prepaid_left_nanos)
        )

    assert figures(40, 0) == (70, 40, 60)
    assert figures(40, 80) == (70, 20, 0)
    assert figures(40, 100) == (70, 0, 0)


def rate(nanos: int, *, since: int = 0, currency: str = "EUR", to: str = "USD") -> ExchangeRate:
    return ExchangeRate(
        currency=currency, to_currency=to, rate_nanos=nanos, effective_from_micros=since
    )


def test_an_amount_is_kept_in_its_own_currency_and_in_the_books() -> None:
    rates = (
        rate(1_100_000_000),
        rate(1_200_000_000, since=JUNE.start_micros),
        rate(9, since=JUNE_16),
    )

    told = june(phase(fee=30, currency="EUR"), exchange_rates=rates)

    assert (told.currency, told.total_nanos) == ("EUR", 30 * DOLLAR)
    assert (told.book_currency, told.book_nanos) == ("USD", 36 * DOLLAR)


@pytest.mark.parametrize(
    "rates", [(), (rate(1, since=JUNE_16),), (rate(1, currency="GBP"),), (rate(1, to="CHF"),)]
)
def test_without_a_rate_in_force_there_is_no_figure(rates: tuple[ExchangeRate, ...]) -> None:
    with pytest.raises(MissingRateError, match="EUR to USD"):
        june(phase(fee=30, currency="EUR"), exchange_rates=rates)


@pytest.mark.parametrize(
    "contract",
    [
        {"phases": (phase(fee=1), phase(JUNE_16, fee=2))},
        {"phases": (phase(JUNE_16, fee=1),)},
        {"phases": (phase(fee=1, unit_nanos=1),)},
        {"phases": (phase(fee=1, currency="EUR"),)},
        {"phases": (phase(fee=1, prepaid_nanos=1),)},
        {"phases": (phase(fee=1),), "basis": RevenueBasis.ACCRUED},
    ],
)
def test_what_usage_time_or_dates_can_change_is_not_fixed(contract: dict[str, object]) -> None:
    assert fixed_nanos(replace(terms(), **contract), JUNE, book_currency="USD") is None  # type: ignore[arg-type]
    assert (
        fixed_nanos(replace(terms(), phases=(phase(fee=1),)), JUNE, book_currency="USD") == DOLLAR
    )


cuts = st.lists(st.integers(JUNE.start_micros + 1, JUNE.end_micros - 1), unique=True, max_size=6)


def test_what_was_before_and_comes_after_the_period_leaves_it_fixed() -> None:
    phases = (phase(fee=1), phase(JUNE.start_micros, fee=2), phase(JUNE.end_micros, fee=3))

    assert fixed_nanos(replace(terms(), phases=phases), JUNE, book_currency="USD") == 2 * DOLLAR


@given(
    cuts=cuts.map(sorted),
    fee=st.integers(0, 10**15),
    now=st.integers(JUNE.start_micros, JUNE.end_micros),
)
def test_a_fee_cut_into_any_parts_is_the_same_fee(cuts: list[int], fee: int, now: int) -> None:
    parts = [
        Phase(effective_from_micros=at, source=f"part:{at}", committed_fee_nanos=fee)
        for at in (0, *cuts)
    ]
    for basis in RevenueBasis:
        whole = june(parts[0], now_micros=now, basis=basis)
        assert june(*parts, now_micros=now, basis=basis).total_nanos == whole.total_nanos


@given(cuts=cuts.map(sorted), fees=st.lists(st.integers(0, 10**15), min_size=7, max_size=7))
def test_fees_equal_their_exact_sum_by_time(cuts: list[int], fees: list[int]) -> None:
    starts = [JUNE.start_micros, *cuts]
    phases = [
        Phase(effective_from_micros=at, committed_fee_nanos=fee)
        for at, fee in zip(starts, fees, strict=False)
    ]
    length = JUNE.end_micros - JUNE.start_micros
    exact = sum(
        Fraction(fee * (end - start), length)
        for fee, start, end in zip(fees, starts, [*cuts, JUNE.end_micros], strict=False)
    )

    told = june(*phases)

    assert told.total_nanos == round(exact)
    assert all(line.kind is LineKind.FEE for line in told.lines)


def test_periods_are_counted_from_the_anchor_to_the_microsecond() -> None:
    end = micros_of(datetime(2026, 2, 28, 6, tzinfo=UTC))

    assert terms().period_at(end - 1) == PeriodMicros(ANCHOR, end)
    assert terms().period_at(end).start_micros == end


@given(at=INSTANTS, cadence=st.sampled_from(Cadence))
def test_every_instant_is_in_the_period_that_is_found_for_it(
    at: datetime, cadence: Cadence
) -> None:
    assert micros_of(at) in terms(cadence=cadence).period_at(micros_of(at))


@given(at=INSTANTS)
def test_a_calendar_month_starts_on_the_first(at: datetime) -> None:
    month = calendar_month(micros_of(at))

    assert month.start_micros == micros_of(datetime(at.year, at.month, 1, tzinfo=UTC))
    assert micros_of(at) in month
