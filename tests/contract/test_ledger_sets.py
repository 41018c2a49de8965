"""Writing in sets: usage that stands for many events, and what a writer remembers of the ledger."""

import json
from dataclasses import replace

import pytest

from aforo_meter.domain.margin import Level
from aforo_meter.domain.rating import Rated
from aforo_meter.domain.seen import event_key
from aforo_meter.domain.terms import Terms
from aforo_meter.domain.usage import BYTES_RESPONSE, LLM_INPUT
from aforo_meter.ledger import Ledger, Partition, Place, RepeatedError, Reprice, Standing
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.publish import margin_of
from tests.contract.ledger_lab import (
    DOLLAR,
    NOW,
    PARTITION,
    START,
    batch,
    price,
    used,
    watch,
    watched,
)
from tests.contract.ledgers import AuditedLedger
from tests.contract.test_ledger_calls import told

pytestmark = pytest.mark.contract

OTHER = Partition("aforo.usage.v1", 4)


def many(*event_ids: str, units: int) -> Rated:
    """Return usage that stands for several events."""
    return replace(used("of many", units), event_keys=[event_key("acme", one) for one in event_ids])


async def test_usage_of_many_events_counts_as_they_would(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([many("e1", "e2", units=5), used("e3", 2)], next_offset=3))

    assert file.units() == {"p1": 7}
    assert file.rows("SELECT COUNT(*) FROM seen_event") == [(3,)]


@pytest.mark.parametrize("again", [["e1", "e4"], ["e3", "e4"], ["e4", "e4"]])
async def test_many_of_which_one_was_counted_are_given_back(
    ledger: Ledger, file: AuditedLedger, again: list[str]
) -> None:
    await ledger.apply(batch([many("e1", "e2", units=5), used("e3", 2)], next_offset=3))
    before = file.contents()

    if again[0] == again[1]:
        # The caller keeps what comes twice at once apart; what does not is counted no more often.
        done = await ledger.apply(batch([used(one) for one in again], at=3))
        assert done.duplicates == 1
        return
    with pytest.raises(RepeatedError) as caught:
        await ledger.apply(batch([many(*again, units=9)], at=3))

    assert caught.value.event_keys == {event_key("acme", again[0])}
    assert file.contents() == before
    await ledger.apply(batch([used("e4", 9)], at=3))
    assert file.units() == {"p1": 16}


async def test_writers_that_take_turns_see_what_the_other_has_written(
    file: AuditedLedger,
) -> None:
    """Each remembers rows and states that the other has changed since."""
    watches, bytes_price = watched(watch()), price("b", meter=BYTES_RESPONSE)
    async with SqlLedger(file.url) as one, SqlLedger(file.url) as other:
        for at in range(6):
            ledger, partition = ((one, PARTITION), (other, OTHER))[at % 2]
            some = [
                used(f"e{at}", 1),
                used(f"o{at}", 1, meter=BYTES_RESPONSE, prices=[bytes_price]),
            ]
            await ledger.apply(batch(some, at=at * 10, partition=partition, watches=watches))

    assert file.units() == {"p1": 6, "b": 6}
    assert file.kept_cogs() == file.audited_cogs() == {("acme", "sub-1", START): 12 * DOLLAR}
    assert file.rows("SELECT COUNT(*), COUNT(DISTINCT message_id) FROM outbox") == [(2, 2)]


async def test_who_changes_a_period_behind_a_writer_is_noticed(
    ledger: Ledger, file: AuditedLedger
) -> None:
    watches = watched(watch())
    await ledger.apply(batch([used("e1", 3)], watches=watches))
    file.execute("UPDATE margin_state SET cogs_nanos = cogs_nanos + 5, revision = revision + 1")
    file.execute("UPDATE charge SET quantity_micros = quantity_micros + 1000000")

    await ledger.apply(batch([used("e2", 1)], at=1, watches=watches))

    assert file.units() == {"p1": 5}
    assert file.kept_cogs() == {("acme", "sub-1", START): 4 * DOLLAR + 5}


async def test_the_standing_after_a_transaction_is_what_the_ledger_says(
    ledger: Ledger,
) -> None:
    for at, units in enumerate((1, 1, 7, 0)):
        written = await ledger.apply(
            batch([used(f"e{at}", units)], at=at, watches=watched(watch()))
        )

        assert written.standings == await ledger.standings({"acme": []})
        (standing,) = written.standings.values()
        assert standing.holds_until_nanos > standing.assessment.cogs_nanos


async def test_a_level_holds_until_the_cost_that_is_told(ledger: Ledger) -> None:
    at = 0

    async def use(units: int) -> Standing:
        nonlocal at
        some = batch([used(f"e{at}", units)], at=at, watches=watched(watch()))
        at += 1
        return (await ledger.apply(some)).standings["acme"]

    before = await use(1)
    for _ in range(30):
        after = await use(1)
        if after.assessment.cogs_nanos < before.holds_until_nanos:
            assert after.assessment.level is before.assessment.level
        before = after
    assert before.assessment.level is Level.BLOCK


async def test_a_row_that_went_to_its_price_is_forgotten(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([used("e1", 3, prices=[])]))
    (key,) = await ledger.unpriced("acme")
    await ledger.reprice(
        Place(PARTITION, 1), Reprice(moves=[(key, price())], currency="USD"), {}, now_micros=NOW
    )

    await ledger.apply(batch([used("e2", 2, prices=[]), used("e3", 1)], at=1))

    assert file.units() == {"p1": 4, "": 2}
    assert file.rows("SELECT unpriced_rows FROM margin_state") == [(1,)]


async def test_what_is_estimated_is_told_and_goes_with_the_truth(
    ledger: Ledger, file: AuditedLedger
) -> None:
    estimated = told("e1", (LLM_INPUT, 40), (BYTES_RESPONSE, 7), call="d1", estimated=True)
    await ledger.apply(batch([estimated, used("e2", 5, estimated=True)]))
    query = "SELECT meter, SUM(quantity_micros), SUM(estimated_micros) FROM charge GROUP BY meter"
    assert sorted(file.rows(query)) == [
        ("api.calls", 5_000_000, 5_000_000),
        ("bytes.response", 7_000_000, 7_000_000),
        ("llm.input_tokens", 40_000_000, 40_000_000),
    ]

    await ledger.apply(batch([told("e3", (LLM_INPUT, 33), call="d1", model="m")], at=2))

    assert sorted(file.rows(query)) == [
        ("api.calls", 5_000_000, 5_000_000),
        ("bytes.response", 7_000_000, 7_000_000),
        ("llm.input_tokens", 33_000_000, 0),
    ]


async def test_how_much_of_a_margin_rests_on_estimates_is_kept_beside_it(
    ledger: Ledger, file: AuditedLedger
) -> None:
    """Tokens at 0.05: 40 are estimated, $2 of 3; they are 33 in truth, and a call has no price."""
    tokens = price("tokens", meter=LLM_INPUT, nanos=DOLLAR // 20)
    watches = watched(watch(revenue_nanos=3 * DOLLAR))
    events = [
        told("e1", (LLM_INPUT, 40), call="d1", estimated=True, prices=[tokens, price()]),
        used("e2", 1),
        used("e3", 1, prices=[]),
    ]

    written = await ledger.apply(batch(events, watches=watches))

    (transition,) = written.transitions
    assert (transition.estimated_cogs_nanos, transition.unpriced_rows) == (2 * DOLLAR, 1)
    standing = (await ledger.standings({"acme": []}))["acme"]
    assert (standing.assessment.cogs_nanos, standing.estimated_cogs_nanos) == (
        3 * DOLLAR,
        2 * DOLLAR,
    )
    margin = margin_of(
        standing, Terms(tenant_id="acme", subscription_id="sub-1"), partition=3, now_micros=NOW
    )
    assert (margin.estimated_cogs_nanos, margin.unpriced_rows) == (2 * DOLLAR, 1)
    data = json.loads(file.rows("SELECT payload FROM outbox")[0][0])["data"]
    assert (data["estimated_cogs_nanos"], data["unpriced_rows"]) == (2 * DOLLAR, 1)

    truth = told("e4", (LLM_INPUT, 33), call="d1", prices=[tokens, price()])
    await ledger.apply(batch([truth], at=3, watches=watches))

    standing = (await ledger.standings({"acme": []}))["acme"]
    assert standing.assessment.cogs_nanos == DOLLAR + 33 * DOLLAR // 20
    assert standing.estimated_cogs_nanos == 0
