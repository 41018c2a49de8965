"""The ledger's port: one body, every adapter. Exact sums, one transaction, the fence."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rating import INPUT_METERS
from aforo_meter.domain.usage import LLM_INPUT, Outcome
from aforo_meter.ledger import (
    Ledger,
    LedgerUnavailableError,
    PartitionLostError,
    Place,
    PriceConflictError,
    Reprice,
    TooLargeError,
    UsageQuery,
)
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.ledger_lab import (
    DOLLAR,
    NOW,
    PARTITION,
    PERIOD,
    START,
    batch,
    price,
    used,
    watch,
    watched,
)
from tests.contract.ledgers import AuditedLedger, Ledgers

pytestmark = pytest.mark.contract

NEXT_PERIOD = PeriodMicros(PERIOD.end_micros, PERIOD.end_micros + 31 * 24 * HOUR_MICROS)


async def test_a_partition_that_was_never_consumed_has_no_position(ledger: Ledger) -> None:
    assert await ledger.next_offset(PARTITION) is None

    await ledger.set_offset(PARTITION, 17)

    assert await ledger.next_offset(PARTITION) == 17


async def test_charges_and_position_move_together(ledger: Ledger, file: AuditedLedger) -> None:
    await ledger.apply(batch([used("e1", 3), used("e2", 4)], at=10))

    assert await ledger.next_offset(PARTITION) == 12
    assert file.units() == {"p1": 7}
    assert file.kept_cogs() == file.audited_cogs() == {("acme", "sub-1", START): 7 * DOLLAR}


async def test_who_lost_the_partition_writes_nothing(ledger: Ledger, file: AuditedLedger) -> None:
    await ledger.apply(batch([used("e1")], at=10))
    before = file.contents()

    with pytest.raises(PartitionLostError, match=r"aforo.usage.v1/3 is past offset 10"):
        await ledger.apply(batch([used("e2"), used("e3")], at=10, watches=watched(watch())))

    assert file.contents() == before


async def test_offsets_may_have_gaps(ledger: Ledger) -> None:
    await ledger.apply(batch([used("e1")], at=10))
    await ledger.apply(batch([used("e2")], at=50))

    assert await ledger.next_offset(PARTITION) == 51


async def test_a_batch_of_nothing_but_dead_letters_moves_the_position(ledger: Ledger) -> None:
    await ledger.apply(batch([], at=10, next_offset=14))

    assert await ledger.next_offset(PARTITION) == 14


async def test_an_event_counts_once_however_often_it_comes(
    ledger: Ledger, file: AuditedLedger
) -> None:
    first = await ledger.apply(batch([used("e1", 3), used("e1", 3), used("e2", 4)], at=0))
    again = await ledger.apply(batch([used("e2", 4), used("e3", 5)], at=3))

    assert (first.duplicates, again.duplicates) == (1, 1)
    assert file.units() == {"p1": 12}


async def test_the_same_id_of_another_tenant_is_another_event(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([used("e1"), used("e1", tenant="globex")]))

    assert (file.units(), file.units("globex")) == ({"p1": 1}, {"p1": 1})


async def test_interventions_are_counted_once(ledger: Ledger, file: AuditedLedger) -> None:
    blocked = used("e1", 0, outcome=Outcome.BLOCK)
    await ledger.apply(batch([blocked, used("e2", 0, outcome=Outcome.BLOCK)]))
    await ledger.apply(batch([blocked], at=2))

    assert file.rows("SELECT outcome, reason, count FROM intervention") == [
        ("block", "some reason", 2)
    ]
    assert file.units() == {}


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 11),  # Which event: repeated ones are duplicates.
        st.integers(0, 5),  # After how many batches it comes.
    ),
    max_size=40,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(deliveries=EVENTS)
def test_no_split_order_or_repetition_changes_a_total(
    deliveries: list[tuple[int, int]], ledgers: Ledgers
) -> None:
    """Each event's content follows from its number; the ledger must hold each that came, once."""
    copy = ledgers.new()
    odd = price("odd", nanos=333_333_333)

    def event(number: int) -> object:
        return used(
            f"e{number}",
            number * 7919,
            prices=[odd] if number % 3 else [price()],
            tenant=("acme", "globex")[number % 2],
            at_micros=NOW + number % 4 * HOUR_MICROS,
        )

    async def write() -> None:
        async with SqlLedger(copy.url) as ledger:
            for at in range(6):
                events = [event(number) for number, when in deliveries if when == at]
                await ledger.apply(batch(events, at=at * 100, next_offset=at * 100 + 99))  # type: ignore[arg-type]

    asyncio.run(write())

    came = {number for number, _ in deliveries}
    units = sum(sum(copy.units(tenant).values()) for tenant in ("acme", "globex"))
    assert units == sum(number * 7919 for number in came)
    assert copy.kept_cogs() == copy.audited_cogs()


async def test_a_price_that_changed_after_it_was_used_is_refused(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([used("e1")]))
    before = file.contents()

    with pytest.raises(PriceConflictError, match="prices p1 changed") as caught:
        await ledger.apply(batch([used("e2", prices=[price(nanos=2)])], at=1))

    assert caught.value.price_ids == ["p1"]
    assert file.contents() == before


async def test_a_price_may_come_from_a_newer_source(ledger: Ledger, file: AuditedLedger) -> None:
    await ledger.apply(batch([used("e1")]))
    await ledger.apply(batch([used("e2", prices=[replace(price(), source="newer")])], at=1))

    assert file.rows("SELECT price_id, price_nanos, per_units, currency, source FROM price") == [
        ("p1", DOLLAR, 1, "USD", "test")
    ]


async def test_a_sum_that_does_not_fit_is_an_error_not_a_wrap(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([used("e1", 2**62 // 10**6, prices=[price(nanos=0)])]))
    before = file.contents()

    with pytest.raises(TooLargeError, match=r"quantity of api\.calls"):
        await ledger.apply(batch([used("e2", 2**62 // 10**6 + 10, prices=[price(nanos=0)])], at=1))
    with pytest.raises(TooLargeError, match="COGS"):
        await ledger.apply(batch([used("e3", 10**10, prices=[price("big")])], at=1))

    assert file.contents() == before


async def test_a_level_that_changes_leaves_one_alert(ledger: Ledger, file: AuditedLedger) -> None:
    """A fee of $10: at $8.01 warn, at $9.01 throttle, at $10.01 block."""
    watches = watched(watch())
    levels = []
    for number, cents in enumerate((700, 101, 1, 100, 100, 1)):
        cent = price(nanos=DOLLAR // 100)
        written = await ledger.apply(
            batch([used(f"e{number}", cents, prices=[cent])], at=number, watches=watches)
        )
        levels += [(one.before.name, one.after.level.name, one.seq) for one in written.transitions]

    assert levels == [("NONE", "WARN", 1), ("WARN", "THROTTLE", 2), ("THROTTLE", "BLOCK", 3)]
    assert file.rows("SELECT COUNT(*), COUNT(DISTINCT message_id) FROM outbox") == [(3, 3)]


async def test_a_jump_from_none_to_block_is_one_alert(ledger: Ledger, file: AuditedLedger) -> None:
    written = await ledger.apply(batch([used("e1", 11)], watches=watched(watch())))

    (transition,) = written.transitions
    assert (transition.before, transition.after.level) == (Level.NONE, Level.BLOCK)
    ((tenant, kind, created, routed),) = file.rows(
        "SELECT tenant_id, kind, created_at_micros, routed_at_micros FROM outbox"
    )
    assert (tenant, kind, created, routed) == ("acme", "margin.level_changed", NOW, None)


async def test_an_alert_is_not_left_behind_by_a_batch_that_failed(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([used("e1")], at=10))

    with pytest.raises(PartitionLostError):
        await ledger.apply(batch([used("e2", 50)], at=10, watches=watched(watch())))

    assert file.rows("SELECT COUNT(*) FROM outbox") == [(0,)]


async def test_a_bigger_contract_lifts_the_level_and_says_so(ledger: Ledger) -> None:
    await ledger.apply(batch([used("e1", 11)], watches=watched(watch())))
    bigger = watched(watch(revenue_nanos=30 * DOLLAR))

    written = await ledger.reassess(Place(PARTITION, 1), bigger, now_micros=NOW + 1)
    again = await ledger.reassess(Place(PARTITION, 1), bigger, now_micros=NOW + 2)

    (transition,) = written.transitions
    assert (transition.before, transition.after.level) == (Level.BLOCK, Level.NONE)
    assert again.transitions == []
    standing = (await ledger.standings({"acme": []}))["acme"]
    assert standing.assessment.level is Level.NONE
    assert standing.assessment.revenue_nanos == 30 * DOLLAR
    assert standing.assessed_at_micros == NOW + 2


async def test_who_stands_elsewhere_assesses_nothing(ledger: Ledger, file: AuditedLedger) -> None:
    await ledger.apply(batch([used("e1", 11)], watches=watched(watch())))
    before = file.contents()

    with pytest.raises(PartitionLostError):
        await ledger.reassess(
            Place(PARTITION, 0), watched(watch(revenue_nanos=10**12)), now_micros=NOW
        )

    assert file.contents() == before


async def test_a_new_period_begins_with_nothing_and_frees(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([used("e1", 11)], watches=watched(watch())))

    now = NEXT_PERIOD.start_micros
    written = await ledger.reassess(
        Place(PARTITION, 1), watched(watch(period=NEXT_PERIOD)), now_micros=now
    )

    (transition,) = written.transitions
    assert (transition.before, transition.after.level) == (Level.BLOCK, Level.NONE)
    assert transition.seq == 1
    standing = (await ledger.standings({"acme": []}))["acme"]
    assert standing.period == NEXT_PERIOD
    assert standing.assessment.cogs_nanos == 0
    # The past period keeps what it ended with.
    assert file.rows("SELECT in_force, level FROM margin_state ORDER BY period_start_micros") == [
        (0, 3),
        (1, 0),
    ]


async def test_a_late_event_lands_in_its_own_period_and_leaves_the_level(
    ledger: Ledger, file: AuditedLedger
) -> None:
    current = watched(watch(period=NEXT_PERIOD))
    await ledger.apply(batch([used("e1", 1, period=NEXT_PERIOD)], watches=current))

    written = await ledger.apply(batch([used("late", 50)], at=1, watches=current))

    assert written.transitions == []
    assert file.kept_cogs() == {
        ("acme", "sub-1", START): 50 * DOLLAR,
        ("acme", "sub-1", NEXT_PERIOD.start_micros): DOLLAR,
    }


async def test_another_subscription_takes_the_level_over(ledger: Ledger) -> None:
    """An upgrade while blocked: what was used under the old contract is no longer counted."""
    await ledger.apply(batch([used("e1", 11)], watches=watched(watch())))
    upgraded = watched(watch(subscription="sub-2"))

    written = await ledger.reassess(Place(PARTITION, 1), upgraded, now_micros=NOW)

    (transition,) = written.transitions
    assert (transition.before, transition.after.level) == (Level.BLOCK, Level.NONE)
    back = await ledger.reassess(Place(PARTITION, 1), watched(watch()), now_micros=NOW)
    (transition,) = back.transitions
    assert (transition.before, transition.after.level) == (Level.NONE, Level.BLOCK)
    # The second alert about the same subscription and period is not the first one again.
    assert transition.seq == 2


async def test_usage_without_a_price_is_kept_and_counted(
    ledger: Ledger, file: AuditedLedger
) -> None:
    events = [used("e1", 5, prices=[]), used("e2", 6, prices=[]), used("e3", 7)]
    await ledger.apply(batch(events, watches=watched(watch())))

    assert file.units() == {"": 11, "p1": 7}
    standing = (await ledger.standings({"acme": []}))["acme"]
    assert standing.unpriced_rows == 1
    assert standing.assessment.cogs_nanos == 7 * DOLLAR
    assert await ledger.unpriced_rows() == 1


async def test_usage_is_rated_as_soon_as_there_is_a_price(
    ledger: Ledger, file: AuditedLedger
) -> None:
    watches = watched(watch())
    await ledger.apply(batch([used("e1", 11, prices=[]), used("e2", 2)], watches=watches))
    (row,) = await ledger.unpriced("acme")
    reprice = Reprice(moves=[(row, price())], currency="USD")

    written = await ledger.reprice(Place(PARTITION, 2), reprice, watches, now_micros=NOW)
    again = await ledger.reprice(Place(PARTITION, 2), reprice, watches, now_micros=NOW)

    assert (written.rows_repriced, again.rows_repriced) == (1, 0)
    (transition,) = written.transitions
    assert transition.after.level is Level.BLOCK
    assert file.units() == {"p1": 13}
    assert file.kept_cogs() == file.audited_cogs()
    assert (await ledger.standings({"acme": []}))["acme"].unpriced_rows == 0
    assert await ledger.unpriced("acme") == []


async def test_unpriced_tokens_are_told_apart_by_the_size_of_their_requests(
    ledger: Ledger,
) -> None:
    assert LLM_INPUT in INPUT_METERS
    events = [
        used("small", 1000, prices=[], meter=LLM_INPUT),
        used("large", 250_000, prices=[], meter=LLM_INPUT),
    ]
    await ledger.apply(batch(events))

    rows = await ledger.unpriced("acme")
    assert sorted(row.input_tokens for row in rows) == [1000, 250_000]
    assert await ledger.unpriced("globex") == []


async def test_only_tenants_with_a_margin_or_unpriced_usage_need_upkeep(ledger: Ledger) -> None:
    await ledger.apply(
        batch(
            [used("e1"), used("e2", tenant="priced"), used("e3", tenant="waiting", prices=[])],
            watches=watched(watch()),
        )
    )

    assert sorted(await ledger.tenants()) == ["acme", "waiting"]


async def test_who_was_never_assessed_has_no_standing(ledger: Ledger) -> None:
    await ledger.apply(batch([used("e1")]))

    assert await ledger.standings({"acme": [], "nobody": []}) == {}


def asks(
    window: PeriodMicros, *features: str, billing: bool = False, meter: str = "api.calls"
) -> UsageQuery:
    return UsageQuery(
        quota_id="q",
        meter=meter,
        features=frozenset(features),
        window=window,
        billing=billing,
    )


async def used_units(ledger: Ledger, query: UsageQuery) -> int:
    return (await ledger.standings({"acme": [query]}))["acme"].used_units["q"]


async def test_the_use_of_a_quota_is_told_by_hours(ledger: Ledger) -> None:
    hour = PeriodMicros(NOW, NOW + HOUR_MICROS)
    two_hours = PeriodMicros(NOW - HOUR_MICROS, NOW + HOUR_MICROS)
    events = [
        used("before", 1, at_micros=NOW - 1),
        used("first", 10, at_micros=NOW),
        used("last", 100, at_micros=NOW + HOUR_MICROS - 1),
        used("after", 1000, at_micros=NOW + HOUR_MICROS),
    ]
    await ledger.apply(batch(events, watches=watched(watch())))

    assert await used_units(ledger, asks(hour)) == 110
    assert await used_units(ledger, asks(two_hours)) == 111
    assert await used_units(ledger, asks(hour, meter="other")) == 0


async def test_what_usage_has_cost_is_a_quota_too_to_the_nano(ledger: Ledger) -> None:
    """3 × $1 and 5 tokens at $1 for 3 units, rounded to $1.666666667, make $4.666666667."""
    third = replace(price("p2", meter="llm.output_tokens"), per_units=3)
    events = [
        used("e1", 3, features=("chat",)),
        used("e2", 5, features=("api",), meter="llm.output_tokens", prices=(third,)),
        used("late", 1, at_micros=NOW - HOUR_MICROS),
        used("unpriced", 7, meter="bytes.response"),
    ]
    await ledger.apply(batch(events, watches=watched(watch())))
    hour = PeriodMicros(NOW, NOW + HOUR_MICROS)

    assert await used_units(ledger, asks(hour, meter="money.cogs")) == 4_666_666_667
    assert await used_units(ledger, asks(hour, "chat", meter="money.cogs")) == 3_000_000_000
    assert await used_units(ledger, asks(PERIOD, meter="money.cogs", billing=True)) == 5_666_666_667


async def test_the_use_of_a_quota_is_told_by_features(ledger: Ledger) -> None:
    events = [
        used("e1", 1, features=("chat",)),
        used("e2", 10, features=("api", "chat")),
        used("e3", 100, features=()),
    ]
    await ledger.apply(batch(events, watches=watched(watch())))

    assert await used_units(ledger, asks(PERIOD)) == 111
    assert await used_units(ledger, asks(PERIOD, "chat")) == 11
    assert await used_units(ledger, asks(PERIOD, "api", "other")) == 10
    assert await used_units(ledger, asks(PERIOD, "ch")) == 0


async def test_a_billing_period_may_start_within_an_hour(ledger: Ledger) -> None:
    middle = NOW + HOUR_MICROS // 2
    old, new = PeriodMicros(START, middle), PeriodMicros(middle, PERIOD.end_micros)
    events = [
        used("old", 1, period=old, at_micros=middle - 1),
        used("new", 10, period=new, at_micros=middle),
        used("later", 100, period=new, at_micros=middle + 5 * HOUR_MICROS),
        used("other", 1000, period=new, at_micros=middle, subscription="sub-2"),
    ]
    await ledger.apply(batch(events, watches=watched(watch(period=new))))

    assert await used_units(ledger, asks(new, billing=True)) == 110
    assert await used_units(ledger, asks(old, billing=True)) == 1


async def test_the_use_of_a_quota_may_exceed_what_one_row_can_hold(ledger: Ledger) -> None:
    most = 9 * 10**12
    events = [
        used(f"e{hour}", most, prices=[price(nanos=0)], at_micros=NOW + hour * HOUR_MICROS)
        for hour in range(3)
    ]
    await ledger.apply(batch(events, watches=watched(watch())))

    assert await used_units(ledger, asks(PERIOD)) == 3 * most


async def test_the_ledger_knows_the_periods_of_a_former_subscription(ledger: Ledger) -> None:
    await ledger.apply(batch([used("e1")], watches=watched(watch())))

    assert await ledger.period_covering("acme", "sub-1", START) == PERIOD
    assert await ledger.period_covering("acme", "sub-1", PERIOD.end_micros) is None
    assert await ledger.period_covering("acme", "sub-2", START) is None


async def test_a_locked_database_changes_nothing_and_works_again(
    ledger: Ledger, file: AuditedLedger
) -> None:
    with file.locked():
        with pytest.raises(LedgerUnavailableError, match="lock"):
            await ledger.apply(batch([used("e1")]))
        assert await ledger.next_offset(PARTITION) is None  # Reading goes on.

    await ledger.apply(batch([used("e1")]))
    assert file.units() == {"p1": 1}


async def test_what_was_learnt_in_a_failed_transaction_is_not_remembered(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([used("e1")], at=10))
    new = price("p2", nanos=5)

    with pytest.raises(PartitionLostError):
        await ledger.apply(batch([used("e2", prices=[new])], at=10))
    with pytest.raises(TooLargeError):
        await ledger.apply(batch([used("e2", 2**63, prices=[new])], at=11))
    await ledger.apply(batch([used("e2", prices=[new])], at=11))

    assert file.kept_cogs() == file.audited_cogs() == {("acme", "sub-1", START): DOLLAR + 5}


async def test_charges_in_two_currencies_are_never_added_up(
    ledger: Ledger, file: AuditedLedger
) -> None:
    """$10 and 25,000 VND are not 25,010 of anything."""
    assert await ledger.currency() == ""
    await ledger.apply(batch([used("e1", 10)]))
    before = file.contents()
    dong = price("p2", nanos=25_000 * DOLLAR)

    with pytest.raises(PriceConflictError, match="p2 are in VND, and the ledger has") as caught:
        await ledger.apply(replace(batch([used("e2", prices=[dong])], at=1), currency="VND"))

    assert caught.value.price_ids == ["p2"]
    assert file.contents() == before
    assert await ledger.currency() == "USD"
