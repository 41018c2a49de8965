"""How long the ledger knows ids of events, and that it grows no further, at whatever rate."""

from itertools import count

import pytest

from aforo_meter.domain.periods import DAY_MICROS, HOUR_MICROS
from aforo_meter.ledger import Ledger, Retention
from tests.contract.ledger_lab import NOW, batch, used
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

KEPT = Retention()


@pytest.mark.parametrize(("from_gateway", "days"), [(True, 35), (False, 91)])
async def test_ids_are_kept_for_as_long_as_their_source_may_repeat_them(
    ledger: Ledger, *, from_gateway: bool, days: int
) -> None:
    one = used("e1", from_gateway=from_gateway)
    await ledger.apply(batch([one], now_micros=NOW))
    kept_until = NOW + days * DAY_MICROS

    assert await a_round(ledger, now_micros=kept_until) == 0
    assert (await ledger.apply(batch([one], at=1))).duplicates == 1
    assert await a_round(ledger, now_micros=kept_until + 1) == 1
    assert (await ledger.apply(batch([one], at=2))).duplicates == 0


@pytest.mark.parametrize(("from_gateway", "days"), [(True, 35), (False, 91)])
async def test_events_kept_long_enough_are_forgotten_a_few_at_a_time(
    ledger: Ledger, file: AuditedLedger, *, from_gateway: bool, days: int
) -> None:
    old = [used(f"e{number}", from_gateway=from_gateway) for number in range(5)]
    await ledger.apply(batch(old, now_micros=NOW))
    later = NOW + 2 * HOUR_MICROS
    new = used("new", at_micros=later, from_gateway=from_gateway)
    await ledger.apply(batch([new], at=5, now_micros=later))
    assert await ledger.prune(now_micros=NOW, rows_max=3, retention=KEPT) == 0

    now = NOW + days * DAY_MICROS + HOUR_MICROS
    # Of each look three; nothing was added since, so there is one.
    forgotten = [await ledger.prune(now_micros=now, rows_max=3, retention=KEPT) for _ in range(6)]

    assert max(forgotten) <= 3
    assert sum(forgotten) == 5
    assert known(file) == 1
    again = await ledger.apply(batch([new, old[1]], at=6))
    assert again.duplicates == 1


@pytest.mark.parametrize(("from_gateway", "over"), [(True, 1.05), (False, 1.4)])
async def test_however_fast_events_come_no_more_are_kept_than_of_their_days(
    ledger: Ledger, file: AuditedLedger, *, from_gateway: bool, over: float
) -> None:
    """Each look is at far fewer than come between two of them."""
    kept = Retention(gateway_days=4, ingest_days=4)
    a_step, steps_a_day, rows_max = 40, 6, 8
    numbers = count()
    most = 0
    for step in range(20 * steps_a_day):
        now = NOW + step * DAY_MICROS // steps_a_day
        events = [
            used(f"e{next(numbers)}", at_micros=now, from_gateway=from_gateway)
            for _ in range(a_step)
        ]
        one = batch(events, at=step * a_step, now_micros=now, retention=kept)
        await ledger.apply(one)
        await ledger.prune(now_micros=now, rows_max=rows_max, retention=kept)
        most = max(most, known(file))

    of_their_days = a_step * steps_a_day * 4
    # Those of the hours that are not over yet besides.
    assert of_their_days <= most < of_their_days * over + 2 * a_step


async def a_round(ledger: Ledger, *, now_micros: int) -> int:
    """Look until all ids were looked at; return how many were forgotten."""
    looks = [
        await ledger.prune(now_micros=now_micros, rows_max=10, retention=KEPT) for _ in range(3)
    ]
    return sum(looks)


def known(file: AuditedLedger) -> int:
    ((found,),) = file.rows("SELECT COUNT(*) FROM seen_event")
    return int(found)
