"""Corrections on a real ledger: adjustments that make it what rating from nothing would."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aforo_meter import correction_pages, rerating
from aforo_meter.batches import now_micros
from aforo_meter.command_arguments import CommandError
from aforo_meter.completeness_sql import SqlCompleteness
from aforo_meter.corrections_sql import SqlCorrections
from aforo_meter.domain.account import UsageKey, Used
from aforo_meter.domain.corrections import Adjustment, Row
from aforo_meter.domain.guards import GuardChange
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.quotas import COGS
from aforo_meter.domain.rating import ChargeKey, LoggedKey, ToldAgain, Usage
from aforo_meter.domain.seen import event_key
from aforo_meter.ledger import Place, UsageQuery
from aforo_meter.ledger_adjusting import Order
from aforo_meter.ledger_sql import SqlLedger
from aforo_proto.contract_pb2 import PriceEntry
from lab.servers import eventually
from tests.contract.corrections_lab import (
    HOUR,
    LAST_MONTH,
    PARTITION,
    THIS_MONTH,
    UNIT,
    CorrectionsLab,
    account,
    entry,
    sums,
    usage,
)
from tests.contract.ledger_lab import DOLLAR
from tests.contract.ledgers import AuditedLedger, Ledgers

pytestmark = pytest.mark.contract

CALLS = "api.calls"
LLM = "llm.input_tokens"
TIER = 1001
HOURS = 2


@pytest.fixture
async def lab(ledger: SqlLedger, redis_url: str) -> AsyncIterator[CorrectionsLab]:
    made = CorrectionsLab.on(ledger, redis_url)
    yield made
    await made.close()


# --- The law ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One thing that happens to the ledger; which numbers it means depends on what."""

    what: str
    numbers: tuple[int, ...] = ()


def price_of(number: int) -> list[PriceEntry]:
    """Return one price, of one meter and hour on; of tokens for both sizes of requests."""
    meter = (CALLS, LLM)[number % 2]
    at_micros = HOUR + (number // 2 - 5) * HOUR_MICROS
    nanos, per_units = 1 + number * 7919 % 1009, (7, 3, 1000)[number % 3]
    tiers = (0,) if meter == CALLS else (0, TIER)
    return [
        entry(meter, nanos + tier, from_micros=at_micros, per_units=per_units, tier=tier)
        for tier in tiers
    ]


def event_of(number: int) -> Usage:
    """Return one event: its content follows from its number."""
    measures = [(CALLS, 1 + number * 331_337)] if number % 3 else []
    measures += [(LLM, (1 + number * 37 % 2000) * UNIT)] if number % 4 else [(CALLS, UNIT)]
    return usage(
        f"e{number}",
        *measures,
        occurred_at_micros=HOUR + number % HOURS * HOUR_MICROS + number * 1_234_567,
        model=("small", "large")[number % 7 == 0],
        weight_units=1 + number % 3,
    )


EVENTS = st.lists(st.integers(0, 60), min_size=3, max_size=15).map(tuple)
CONSUME = st.builds(Step, st.just("consume"), EVENTS)
PRICE = st.builds(Step, st.just("price"), st.tuples(st.integers(0, 13)))
RERATE = st.builds(Step, st.just("rerate"), st.tuples(st.sampled_from([1, 3, 99])))
VOID = st.builds(Step, st.just("void"), st.tuples(st.integers(0, 60)))
RARE = st.one_of(
    st.builds(Step, st.just("void hour"), st.tuples(st.integers(0, HOURS - 1))),
    st.just(Step("reprice")),
    st.just(Step("close")),
)
ROUND = st.tuples(CONSUME, PRICE, st.one_of(RERATE, VOID, RARE), st.one_of(RERATE, VOID))
STEPS = st.lists(ROUND, min_size=1, max_size=5).map(lambda rounds: [*chain(*rounds)])


class KilledError(Exception):
    """Stands for a process that ends between two transactions."""


class Mortal(SqlCorrections):
    """Ends after so many batches."""

    def __init__(self, ledger: SqlLedger, *, batches: int) -> None:
        super().__init__(ledger)
        self._left = batches

    async def rerate(
        self,
        to: Mapping[ChargeKey, str],
        entries: Sequence[Any],
        currency: str,
        order: Order,
    ) -> Sequence[Adjustment]:
        if self._left == 0:
            raise KilledError
        self._left -= 1
        return await super().rerate(to, entries, currency, order)


class History:
    """Does steps to one ledger, and knows which events should be left."""

    def __init__(self, lab: CorrectionsLab) -> None:
        self.lab = lab
        self.prices: list[PriceEntry] = []
        self.left: set[int] = set()
        self._voided: set[int] = set()
        lab.prices([])

    async def take(self, step: Step) -> None:
        match step.what:
            case "consume":
                await self.lab.consume(*(event_of(number) for number in step.numbers))
                self.left |= {*step.numbers} - self._voided
            case "price":
                new = [one for one in price_of(*step.numbers) if one not in self.prices]
                self.prices += new
                self.lab.prices(self.prices)
            case "rerate":
                await self._rerate(*step.numbers)
            case "void":
                await self._void(*step.numbers)
            case "void hour":
                await self._void_hour(*step.numbers)
            case "reprice":
                await self.lab.reprice()
            case "close":
                await self.lab.ledger.close(
                    ended_by_micros=LAST_MONTH.end_micros, now_micros=LAST_MONTH.end_micros + 1
                )

    async def _rerate(self, batches: int) -> None:
        with suppress(KilledError):
            await self.lab.rerate(corrections=Mortal(self.lab.ledger, batches=batches))

    async def _void(self, number: int) -> None:
        if number in self.left:
            await self.lab.void_event(event_of(number))
            assert (await self.lab.void_event(event_of(number))).was_done_before
            self._gone({number})

    async def _void_hour(self, number: int) -> None:
        start = HOUR + number * HOUR_MICROS
        await self.lab.void(hours=PeriodMicros(start, start + HOUR_MICROS))
        self._gone({one for one in self.left if event_of(one).hour_start_micros == start})

    def _gone(self, numbers: set[int]) -> None:
        self.left -= numbers
        self._voided |= numbers


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_a_corrected_ledger_equals_one_that_was_rated_from_nothing(
    steps: list[Step],
    ledgers: Ledgers,
    redis_url: str,
    monkeypatch: Any,  # noqa: ANN401
) -> None:
    """To the nano: whatever came, at whatever prices, taken back, closed or killed in between."""
    monkeypatch.setattr(rerating, "BATCH_ROWS_MAX", 1)

    async def live_and_scratch() -> None:
        async with SqlLedger(ledgers.new().url) as ledger, SqlLedger(ledgers.new().url) as empty:
            live, scratch = (CorrectionsLab.on(one, redis_url) for one in (ledger, empty))
            history = History(live)
            for step in steps:
                await history.take(step)
                await is_sound(live)
            await live.reprice()
            await live.rerate()
            assert not (await live.rerate()).effects
            await scratch.consume(*(event_of(number) for number in sorted(history.left)))

            assert left(await live.rows()) == left(await scratch.rows())
            assert await live.cogs_nanos() == await scratch.cogs_nanos()
            assert await account(live) == await account(scratch)
            await is_sound(live)
            await live.close()
            await scratch.close()

    asyncio.run(live_and_scratch())


def left(rows: Mapping[ChargeKey, Row]) -> dict[ChargeKey, Row]:
    return {key: row for key, row in rows.items() if row.quantity_micros}


async def is_sound(lab: CorrectionsLab) -> None:
    """The period's total is the sum of its rows; none is below zero; who waits is counted."""
    rows = await lab.rows()
    assert all(min(row) >= 0 for row in rows.values())
    assert await lab.cogs_nanos() == sum(row.cogs_nanos for row in rows.values())
    waiting = [key for key, row in rows.items() if not key.price_id and row.quantity_micros]
    assert await lab.ledger.unpriced_rows() == len(waiting)
    assert {*await lab.ledger.unpriced("acme")} == {*waiting}
    # What comes into a row that was taken back while it waited is counted with its next change.
    assert sum(one.unpriced_rows for one in await lab.corrections.periods(None)) <= len(waiting)


# --- One case each ----------------------------------------------------------------------------


async def test_a_price_that_came_late_is_put_right_beside_the_charges(
    lab: CorrectionsLab, file: AuditedLedger
) -> None:
    """7 calls at $1 that should have cost $2: $7 off, $14 on."""
    lab.prices([entry(CALLS, DOLLAR)])
    await lab.consume(usage("e1", (CALLS, 7 * UNIT)))
    charges = file.rows("SELECT * FROM charge")
    lab.prices([entry(CALLS, DOLLAR), entry(CALLS, 2 * DOLLAR, from_micros=HOUR)])

    done = await lab.rerate()

    assert file.rows("SELECT * FROM charge") == charges
    assert file.rows(
        "SELECT kind, price_id, seq, quantity_micros, cogs_nanos, reason, author FROM adjustment"
        " ORDER BY cogs_nanos"
    ) == [
        ("rerate", f"{CALLS}@{DOLLAR}/1/0/0", 1, -7 * UNIT, -7 * DOLLAR, "a test", "tester"),
        (
            "rerate",
            f"{CALLS}@{2 * DOLLAR}/1/{HOUR}/0",
            1,
            7 * UNIT,
            14 * DOLLAR,
            "a test",
            "tester",
        ),
    ]
    assert await lab.cogs_nanos() == 14 * DOLLAR
    (effect,) = done.effects
    assert (effect.before.cogs_nanos, effect.cogs_nanos) == (7 * DOLLAR, 14 * DOLLAR)


async def test_a_preview_says_what_is_then_done_and_writes_nothing(
    lab: CorrectionsLab, file: AuditedLedger
) -> None:
    lab.prices([entry(CALLS, 333, per_units=7)])
    await lab.consume(*(usage(f"e{n}", (CALLS, n * 777_777), model=f"m{n}") for n in range(1, 9)))
    lab.prices([entry(CALLS, 333, per_units=7), entry(CALLS, 1001, per_units=9, from_micros=1)])
    before = file.contents()

    preview = await lab.rerate(apply=False)

    assert file.contents() == before
    done = await lab.rerate()
    assert preview.effects == done.effects
    assert len(done.effects) == 1


async def test_rerating_twice_changes_nothing_the_second_time(
    lab: CorrectionsLab, file: AuditedLedger
) -> None:
    lab.prices([entry(CALLS, 5)])
    await lab.consume(usage("e1", (CALLS, 7 * UNIT)))
    lab.prices([entry(CALLS, 5), entry(CALLS, 3, from_micros=1)])
    await lab.rerate()
    before = file.contents()

    again = await lab.rerate()

    assert not again.effects
    assert file.contents() == before


async def test_a_price_from_within_an_hour_leaves_that_hour_alone(lab: CorrectionsLab) -> None:
    """The hour's sum has usage from before and after: it stays where it was rated."""
    half_past = HOUR + HOUR_MICROS // 2
    first = entry(CALLS, 5)
    lab.prices([first])
    await lab.consume(
        usage("e1", (CALLS, UNIT), occurred_at_micros=HOUR + HOUR_MICROS - 1),
        usage("e2", (CALLS, UNIT), occurred_at_micros=HOUR + HOUR_MICROS),
    )
    later = entry(CALLS, 3, from_micros=half_past)
    lab.prices([first, later])

    await lab.rerate()

    totals = await lab.totals()
    assert totals[CALLS, "", first.price_id].quantity_micros == UNIT
    assert totals[CALLS, "", later.price_id].quantity_micros == UNIT


async def test_large_requests_get_the_new_price_of_their_tier(lab: CorrectionsLab) -> None:
    old = [entry(LLM, 10), entry(LLM, 20, tier=TIER)]
    new = [entry(LLM, 1, from_micros=1), entry(LLM, 2, from_micros=1, tier=TIER)]
    lab.prices(old)
    await lab.consume(usage("small", (LLM, 1000 * UNIT)), usage("large", (LLM, 1001 * UNIT)))
    lab.prices([*old, *new])

    await lab.rerate()

    totals = await lab.totals()
    assert totals[LLM, "", new[0].price_id] == Row(1000 * UNIT, 0, 1000)
    assert totals[LLM, "", new[1].price_id] == Row(1001 * UNIT, 0, 2002)


async def test_only_what_is_asked_for_is_rated_again(lab: CorrectionsLab) -> None:
    lab.prices([entry(CALLS, 5)])
    await lab.consume(
        usage("e1", (CALLS, UNIT), model="a"),
        usage("e2", (CALLS, UNIT), model="b"),
        usage("e3", (CALLS, UNIT), model="a", occurred_at_micros=HOUR + HOUR_MICROS),
    )
    lab.prices([entry(CALLS, 5), entry(CALLS, 3, from_micros=1)])

    await lab.rerate(equal={"model": "a"}, hours=PeriodMicros(HOUR, HOUR + HOUR_MICROS))

    totals = await lab.totals()
    assert totals[CALLS, "a", f"{CALLS}@3/1/1/0"].quantity_micros == UNIT
    assert totals[CALLS, "a", f"{CALLS}@5/1/0/0"].quantity_micros == UNIT
    assert totals[CALLS, "b", f"{CALLS}@5/1/0/0"].quantity_micros == UNIT


async def test_prices_that_contradict_the_ledger_stop_it(lab: CorrectionsLab) -> None:
    lab.prices([entry(CALLS, 5, price_id="old"), entry(CALLS, 7, from_micros=HOUR, price_id="p")])
    await lab.consume(
        usage("e1", (CALLS, UNIT)), usage("e2", (CALLS, UNIT), occurred_at_micros=HOUR - 1)
    )
    lab.prices([entry(CALLS, 9, from_micros=1, price_id="p")])

    with pytest.raises(CommandError, match="prices p changed after they were used"):
        await lab.rerate(apply=False)


async def test_waiting_usage_is_counted_and_left_to_consume(lab: CorrectionsLab) -> None:
    await lab.ledger.set_offset(PARTITION, 0)
    lab.prices([])
    await lab.consume(usage("e1", (CALLS, UNIT)))
    lab.prices([entry(CALLS, 5)])

    assert (await lab.rerate()).waiting == 1
    assert await lab.reprice() == 1
    assert await lab.totals() == {(CALLS, "", f"{CALLS}@5/1/0/0"): Row(UNIT, 0, 5)}


async def test_an_event_is_taken_back_once(lab: CorrectionsLab, file: AuditedLedger) -> None:
    lab.prices([entry(CALLS, 5), entry(LLM, 1)])
    one = usage("e1", (CALLS, 2 * UNIT), (LLM, 9 * UNIT), weight_units=3)
    await lab.consume(one, usage("e2", (CALLS, UNIT)))

    done = await lab.void_event(one)

    assert sums(done.adjustments) == Row(-11 * UNIT, -4 * UNIT, -19)
    assert await lab.cogs_nanos() == 5
    kind = UsageKey(CALLS, "api", "", "", "", "")
    assert await account(lab) == {kind: Used(quantity_micros=UNIT, cogs_nanos=5)}
    before = file.contents()
    assert (await lab.void_event(one)).was_done_before
    assert file.contents() == before


async def test_what_was_never_counted_is_not_taken_back(lab: CorrectionsLab) -> None:
    lab.prices([entry(CALLS, 5)])
    await lab.consume(usage("e1", (CALLS, UNIT)))

    with pytest.raises(CommandError, match="does not know event 'e2'"):
        await lab.void_event(usage("e2", (CALLS, UNIT)))


async def test_an_event_whose_hour_was_taken_back_is_not_taken_back_again(
    lab: CorrectionsLab,
) -> None:
    lab.prices([entry(CALLS, 5)])
    await lab.consume(usage("e1", (CALLS, UNIT)))
    await lab.void(hours=PeriodMicros(HOUR, HOUR + HOUR_MICROS))

    with pytest.raises(CommandError, match=r"has less api.calls of 'acme' in that hour"):
        await lab.void_event(usage("e1", (CALLS, UNIT)))
    assert await lab.cogs_nanos() == 0


async def test_an_event_that_counted_under_a_name_for_all_is_found_there(
    lab: CorrectionsLab,
) -> None:
    """Tools beyond the 200th of an hour share a name."""
    lab.prices([entry(CALLS, 5)])
    many = [usage(f"e{n}", (CALLS, UNIT), tool=f"tool-{n}") for n in range(202)]
    await lab.consume(*many)

    done = await lab.void_event(many[201])

    assert [one.key.tool for one in done.adjustments] == ["(other)"]


async def test_only_rows_of_the_feature_are_taken_back(lab: CorrectionsLab) -> None:
    lab.prices([entry(CALLS, 5)])
    await lab.consume(
        usage("e1", (CALLS, UNIT), features=("api", "search")),
        usage("e2", (CALLS, 2 * UNIT), features=("api",)),
    )

    await lab.void(features=frozenset({"search"}))

    assert await lab.cogs_nanos() == 10


def told(event_id: str, units: int, *, estimated: bool) -> Usage:
    """Return an estimate by the gateway, or the true figure from elsewhere, of one call."""
    call = ToldAgain("call-1", interim=False, estimated=estimated)
    return usage(event_id, (LLM, units * UNIT), call=call, from_gateway=estimated)


async def test_a_call_is_taken_back_as_a_whole_and_its_truth_adds_nothing(
    lab: CorrectionsLab,
) -> None:
    """An estimate of 9 tokens is in no row any more, so the true figure has no place to take."""
    lab.prices([entry(LLM, 1)])
    guess = told("e1", 9, estimated=True)
    await lab.consume(guess, usage("e2", (LLM, UNIT)))

    await lab.void_event(guess)

    assert (await lab.void_event(guess)).was_done_before
    await lab.consume(told("e3", 4, estimated=False))
    assert await lab.cogs_nanos() == 1


async def test_a_true_figure_replaces_an_estimate_that_moved_to_another_price(
    lab: CorrectionsLab,
) -> None:
    """9 estimated tokens at 1, moved to 3; the truth is 4: 12 nanos, not 9 * 3 - 9 + 4 * 3."""
    lab.prices([entry(LLM, 1)])
    await lab.consume(told("e1", 9, estimated=True))
    lab.prices([entry(LLM, 1), entry(LLM, 3, from_micros=1)])
    await lab.rerate()

    await lab.consume(told("e2", 4, estimated=False))

    assert await lab.cogs_nanos() == 12
    assert [row.quantity_micros for row in left(await lab.rows()).values()] == [4 * UNIT]


async def test_a_closed_period_keeps_its_charges(lab: CorrectionsLab, file: AuditedLedger) -> None:
    """3 calls at 1/2 nano and a late one: 2 nanos, as if they had come together."""
    lab.prices([entry(CALLS, 1, per_units=2)])
    await lab.consume(usage("e1", (CALLS, 3 * UNIT)))
    charges = file.rows("SELECT * FROM charge")
    assert await close(lab) == 1

    await lab.consume(usage("e2", (CALLS, UNIT)), usage("e3", (LLM, UNIT)))

    assert file.rows("SELECT * FROM charge") == charges
    assert file.rows("SELECT kind, meter, quantity_micros, cogs_nanos FROM adjustment") == [
        ("late", CALLS, UNIT, 0),
        ("late", LLM, UNIT, 0),
    ]
    assert await lab.cogs_nanos() == 2
    assert await close(lab) == 0


async def test_late_usage_without_a_price_gets_it_beside_the_charges(
    lab: CorrectionsLab, file: AuditedLedger
) -> None:
    lab.prices([])
    await lab.consume(usage("e1", (CALLS, 3 * UNIT)))
    await close(lab)
    await lab.consume(usage("e2", (CALLS, 4 * UNIT)))
    charges = file.rows("SELECT * FROM charge")
    lab.prices([entry(CALLS, 5)])

    assert await lab.reprice() == 1
    assert await lab.reprice() == 0

    assert file.rows("SELECT * FROM charge") == charges
    assert await lab.cogs_nanos() == 35
    assert file.rows("SELECT SUM(unpriced_rows) FROM margin_state") == [(0,)]


async def test_usage_that_was_taken_back_gets_no_price(lab: CorrectionsLab) -> None:
    lab.prices([])
    await lab.consume(usage("e1", (CALLS, 3 * UNIT)), usage("e2", (CALLS, 4 * UNIT)))
    await lab.void_event(usage("e1", (CALLS, 3 * UNIT)))
    lab.prices([entry(CALLS, 5)])

    assert await lab.reprice() == 1

    assert await lab.cogs_nanos() == 20


async def test_a_period_that_goes_on_is_not_closed(lab: CorrectionsLab) -> None:
    lab.prices([entry(CALLS, 5)])
    await lab.consume(usage("e1", (CALLS, UNIT), occurred_at_micros=now_micros()))

    assert await close(lab) == 0


@pytest.mark.parametrize("billing", [False, True])
async def test_quotas_and_spending_limits_know_what_was_taken_back(
    lab: CorrectionsLab, *, billing: bool
) -> None:
    """5 calls, one of weight 3, at 7 nanos: 2 are taken back."""
    now = now_micros()
    lab.prices([entry(CALLS, 7)])
    gone = usage("e1", (CALLS, 2 * UNIT), weight_units=3, occurred_at_micros=now)
    await lab.consume(gone, usage("e2", (CALLS, 3 * UNIT), occurred_at_micros=now))
    assert await used(lab, billing=billing) == {"calls": 9, "money": 35}

    await lab.void_event(gone)

    assert await used(lab, billing=billing) == {"calls": 3, "money": 21}


async def test_whose_margin_was_corrected_is_assessed_again(lab: CorrectionsLab) -> None:
    """$6 of $10 is none; $9.50 of $10 is throttle. One transition, once."""
    now = now_micros()
    lab.prices([entry(CALLS, DOLLAR)])
    await lab.consume(usage("e1", (CALLS, 6 * UNIT), occurred_at_micros=now))
    assert await lab.ledger.adjusted() == []
    later = now - now % HOUR_MICROS - HOUR_MICROS
    lab.prices([entry(CALLS, DOLLAR), entry(CALLS, 9_500_000_000, from_micros=later, per_units=6)])

    done = await lab.rerate()

    assert [(one.before.level, one.level) for one in done.effects] == [(Level.NONE, Level.THROTTLE)]
    assert await lab.ledger.adjusted() == ["acme"]
    _, rater = await lab.known()
    written = await lab.ledger.reassess(
        Place(PARTITION, lab.offset), rater.watches(["acme"]), now_micros=now_micros()
    )
    assert [one.after.level for one in written.transitions] == [Level.THROTTLE]
    assert await lab.ledger.adjusted() == []


async def test_a_preview_names_guards_whose_level_would_change_and_heeds_too_few_calls(
    lab: CorrectionsLab,
) -> None:
    """Two calls at $1, then at $6: more than the $10; the guard's $5 are undercut as well."""
    now = now_micros()
    contract = lab.catalog.contracts["acme"]
    contract.thresholds.act_from_calls = 3
    contract.guards.add(guard_id="api", features=["api"], revenue_nanos=5 * DOLLAR)
    lab.prices([entry(CALLS, DOLLAR)])
    await lab.consume(usage("e1", (CALLS, 2 * UNIT), occurred_at_micros=now))
    lab.prices([entry(CALLS, DOLLAR), entry(CALLS, 6 * DOLLAR, from_micros=1)])

    preview = await lab.rerate(apply=False)
    done = await lab.rerate()

    assert preview.effects == done.effects
    (effect,) = done.effects
    assert (effect.level, effect.cogs_nanos) == (Level.WARN, 12 * DOLLAR)
    assert effect.guards == (GuardChange("api", Level.NONE, Level.BLOCK),)
    assert "guard api of acme: none → block" in correction_pages.rerated_text(done, None)
    _, rater = await lab.known()
    written = await lab.ledger.reassess(
        Place(PARTITION, lab.offset), rater.watches(["acme"]), now_micros=now_micros()
    )
    assert [one.after.level for one in written.transitions] == [Level.WARN, Level.BLOCK]


async def test_what_was_taken_back_is_no_usage_to_estimate_by(lab: CorrectionsLab) -> None:
    lab.prices([entry(CALLS, 5)])
    wrong = usage("e1", (CALLS, 50 * UNIT), logged=LoggedKey(HOUR, "acme", "api", "allow"))
    await lab.consume(
        wrong, usage("e2", (CALLS, UNIT), logged=LoggedKey(HOUR, "acme", "api", "allow"))
    )
    await lab.void_event(wrong)

    basis = await SqlCompleteness(lab.ledger).basis(
        "acme", "api", PeriodMicros(HOUR, HOUR + HOUR_MICROS)
    )

    assert [one.quantity_micros for one in basis.sums] == [UNIT]


async def test_sums_that_would_not_fit_are_refused(
    lab: CorrectionsLab, file: AuditedLedger
) -> None:
    lab.prices([entry(CALLS, 1)])
    await lab.consume(usage("e1", (CALLS, 2**62)))
    lab.prices([entry(CALLS, 1), entry(CALLS, 2**62, from_micros=1)])
    before = file.contents()

    with pytest.raises(CommandError, match=r"exceed 64 bits; .*its rows can't be rated again"):
        await lab.rerate()

    assert file.contents() == before


async def test_beside_a_consumer_nothing_is_lost(
    lab: CorrectionsLab, file: AuditedLedger, redis_url: str
) -> None:
    """One consumes while another, on connections of its own, rates again and takes back."""
    now = now_micros()
    hour = PeriodMicros(now - now % HOUR_MICROS, now - now % HOUR_MICROS + HOUR_MICROS)
    lab.prices([entry(CALLS, 1)])
    await lab.consume(usage("first", (CALLS, UNIT), occurred_at_micros=now))

    def came(event_id: str) -> bool:
        return bool(
            file.rows("SELECT 1 FROM seen_event WHERE event_key = ?", event_key("acme", event_id))
        )

    async def consume() -> None:
        async with SqlLedger(file.url) as ledger:  # As patient as a consumer is.
            other = CorrectionsLab.on(ledger, redis_url)
            other.offset = lab.offset
            for number in range(60):
                await other.consume(usage(f"e{number}", (CALLS, UNIT), occurred_at_micros=now))
            await other.close()

    async def correct() -> None:
        async with SqlLedger(file.url) as ledger:
            other = CorrectionsLab.on(ledger, redis_url)
            entries = [entry(CALLS, 1)]
            for number in range(20):
                entries.append(entry(CALLS, 2 + number, from_micros=1 + number))
                other.prices(entries)
                await other.rerate()
                await eventually(lambda: came(f"e{number}"), every_s=0.001)  # noqa: B023 - at once.
                await other.void_event(usage(f"e{number}", (CALLS, UNIT), occurred_at_micros=now))
            await other.close()

    await asyncio.gather(consume(), correct())
    await lab.rerate()

    last = f"{CALLS}@21/1/20/0"
    assert left(await lab.rows()) == {
        key: Row(41 * UNIT, 0, 41 * 21) for key in await lab.rows() if key.price_id == last
    }
    assert await lab.cogs_nanos(THIS_MONTH) == 41 * 21
    await lab.void(hours=hour)
    assert await lab.cogs_nanos(THIS_MONTH) == 0


async def close(lab: CorrectionsLab) -> int:
    return await lab.ledger.close(ended_by_micros=now_micros(), now_micros=now_micros())


async def used(lab: CorrectionsLab, *, billing: bool) -> Mapping[str, int]:
    queries = [
        UsageQuery(
            quota_id=name, meter=meter, features=frozenset(), window=THIS_MONTH, billing=billing
        )
        for name, meter in (("calls", CALLS), ("money", COGS))
    ]
    return (await lab.ledger.standings({"acme": queries}))["acme"].used_units


async def test_what_is_rounded_apart_is_put_right_with_the_next_rerating(
    lab: CorrectionsLab,
) -> None:
    """Thirds: 1 moved is 0, 1 more is 0, and both are 2/3: one nano."""
    third = entry(CALLS, 1, per_units=3, from_micros=1)
    lab.prices([entry(CALLS, 5)])
    await lab.consume(usage("e1", (CALLS, UNIT)))
    lab.prices([entry(CALLS, 5), third])
    await lab.rerate()
    await lab.consume(usage("e2", (CALLS, UNIT)))
    assert await lab.cogs_nanos() == 0

    await lab.rerate()

    assert left(await lab.rows()) == {key: Row(2 * UNIT, 0, 1) for key in left(await lab.rows())}
    assert await lab.cogs_nanos() == 1
