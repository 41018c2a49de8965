"""Two ledgers compared, and the hours that can be."""

import pytest

from aforo_meter.domain.ledger_diff import (
    DiffKey,
    Kind,
    Sum,
    compare,
    left_out,
    whole_hours,
)
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros

H = HOUR_MICROS


def key(tenant: str = "acme") -> DiffKey:
    return DiffKey(tenant, 0, "api.calls", "p1", "s", "api", "", "", "", "")


def test_each_row_is_equal_differing_or_in_one_ledger_alone() -> None:
    here = {key("a"): Sum(1, 10), key("b"): Sum(1, 10), key("c"): Sum(1, 10)}
    there = {key("a"): Sum(1, 10), key("b"): Sum(3, 30), key("d"): Sum(2, 20)}

    found = compare(here, there)

    assert found.counts == dict.fromkeys(Kind, 1)
    assert [(one.kind, one.quantity_micros, one.amount_nanos) for one in found.differences] == [
        (Kind.DIFFERING, 2, 20),
        (Kind.MISSING_THERE, -1, -10),
        (Kind.MISSING_HERE, 2, 20),
    ]
    assert not found.is_equal


def test_the_same_quantity_at_another_price_is_a_difference() -> None:
    assert not compare({key(): Sum(1, 10)}, {key(): Sum(1, 11)}).is_equal


def test_equal_ledgers_are_equal() -> None:
    assert compare({key(): Sum(1, 10)}, {key(): Sum(1, 10)}).is_equal


@pytest.mark.parametrize(
    ("asked", "known_from", "hours", "out"),
    [
        ((0, 2 * H), None, (0, 2 * H), ()),
        ((1, 3 * H + 5), None, (H, 3 * H), ((1, H), (3 * H, 3 * H + 5))),
        ((0, 3 * H), H + 1, (2 * H, 3 * H), ((0, 2 * H),)),
        ((5, 10), None, (H, H), ((5, 10),)),
        ((0, H), 2 * H, (2 * H, 2 * H), ((0, H),)),
    ],
)
def test_only_whole_hours_that_are_known_are_compared(
    asked: tuple[int, int],
    known_from: int | None,
    hours: tuple[int, int],
    out: tuple[tuple[int, int], ...],
) -> None:
    period = PeriodMicros(*asked)

    compared = whole_hours(period, known_from)

    assert compared == PeriodMicros(*hours)
    assert left_out(period, compared) == tuple(PeriodMicros(*part) for part in out)
