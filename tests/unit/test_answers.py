"""Amounts, ages and periods as people write and read them."""

from datetime import UTC, datetime

import pytest

from aforo_meter.__main__ import main
from aforo_meter.command_tables import money, units
from aforo_meter.commands_answers import period
from aforo_meter.domain.periods import Cadence, billing_period, datetime_of, micros_of
from aforo_meter.domain.prices import Precedence, precedence_of
from aforo_meter.shown_values import age, exact_amount, exact_units, percent_bp, share


def at(*parts: int) -> int:
    return micros_of(datetime(*parts, tzinfo=UTC))  # type: ignore[arg-type, misc]


NOW = at(2026, 11, 26, 10)


@pytest.mark.parametrize(
    ("nanos", "shown", "exact"),
    [
        (0, "0.00", "0.00"),
        (10_700_000_000, "10.70", "10.70"),
        (125_000, "0.000125", "0.000125"),
        (1_234_567_000_000_001, "1,234,567.000000001", "1234567.000000001"),
        (-500_000_000, "-0.50", "-0.50"),
    ],
)
def test_no_digit_of_an_amount_is_lost(nanos: int, shown: str, exact: str) -> None:
    assert (money(nanos), exact_amount(nanos)) == (shown, exact)


def test_quantities_shares_and_ages_are_short() -> None:
    assert (units(1_500_000_000), exact_units(1_500_500_000)) == ("1,500", "1500.5")
    assert [percent_bp(bp) for bp in (2000, -6000, 1234)] == ["20 %", "-60 %", "12.34 %"]
    assert (share(1, 3), share(0, 0)) == ("33.33 %", "-")
    assert age(NOW - 7_500_000_000, NOW) == "2 h 5 min ago"
    assert age(NOW, NOW) == "0 s ago"
    assert age(NOW + 2_000_000, NOW) == "2 s ahead of this clock"


@pytest.mark.parametrize("anchor_day", [1, 15, 26, 27, 31])
def test_a_month_means_the_period_that_begins_in_it(anchor_day: int) -> None:
    anchor = at(2026, 1, anchor_day)

    found = billing_period(anchor, Cadence.MONTH, period("2026-10")(NOW))

    begins = datetime_of(found.start_micros)
    assert (begins.month, begins.day) == (10, anchor_day)


def test_the_running_month_means_the_period_that_runs() -> None:
    assert period("2026-11")(NOW) == period("current")(NOW) == NOW
    assert period("2026-11-15")(NOW) == at(2026, 11, 15)
    assert period("2027-01")(NOW) == at(2027, 1, 1)  # Which is refused: it is to come.


@pytest.mark.parametrize("text", ["2026-13", "november", "2026-11-31", ""])
def test_what_is_no_period_is_refused_with_an_example(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--ledger-url", "sqlite:////l.db", "--redis-url", "redis://x"]
    with pytest.raises(SystemExit) as caught:
        main(["statement", "acme", text, *where])

    assert caught.value.code == 2
    assert "write 2026-11" in capsys.readouterr().err


def test_whose_price_it_is_follows_from_its_source() -> None:
    assert [precedence_of(name) for name in ("negotiated", "catalog", "genai-prices 0.2.3")] == [
        Precedence.NEGOTIATED,
        Precedence.OWN,
        Precedence.BUILT_IN,
    ]


@pytest.mark.parametrize("command", ["explain", "statement", "forecast"])
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])

    assert caught.value.code == 0
    assert f"aforo-meter {command} acme" in capsys.readouterr().out
