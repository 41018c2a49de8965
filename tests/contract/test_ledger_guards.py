"""Guards in the ledger: levels of their own beside the tenant's, each change with one alert."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Level, Thresholds
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rating import Rated
from aforo_meter.domain.terms import Phase, RevenueBasis, Terms
from aforo_meter.ledger import Ledger, Place, Reprice, Standing, Transition
from tests.contract.ledger_lab import (
    DOLLAR,
    NOW,
    PARTITION,
    PERIOD,
    batch,
    price,
    used,
    watch,
    watched,
)
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

TOKENS = "llm.output_tokens"
CHAT = Guard(
    guard_id="chat", features=frozenset({"chat"}), meters=("llm.*",), revenue_share_bp=6000
)
SEARCH = Guard(guard_id="search", features=frozenset({"search"}), revenue_nanos=5 * DOLLAR)
GUARDED = watched(watch(revenue_nanos=100 * DOLLAR, guards=[CHAT, SEARCH]))


def chat(event_id: str, dollars: int) -> Rated:
    """Return usage of chat that costs so much."""
    return used(
        event_id,
        dollars,
        prices=[price("tokens", meter=TOKENS)],
        meter=TOKENS,
        features=("chat",),
    )


def told(transitions: Sequence[Transition]) -> list[tuple[str, str, str, int]]:
    return [
        (
            one.guard.guard_id if one.guard is not None else "",
            one.before.name,
            one.after.level.name,
            one.seq,
        )
        for one in transitions
    ]


async def standing_of(ledger: Ledger) -> Standing:
    return (await ledger.standings({"acme": []}))["acme"]


async def test_a_guard_has_a_level_of_its_own(ledger: Ledger) -> None:
    """Of $100 chat has 60 %: $61 of it is a loss there, and a margin of 39 % for the tenant."""
    written = await ledger.apply(batch([chat("e1", 61)], watches=GUARDED))

    standing = await standing_of(ledger)
    assert standing.assessment.level is Level.NONE
    assert standing.guard_levels == {"chat": Level.BLOCK, "search": Level.NONE}
    assert told(written.transitions) == [("chat", "NONE", "BLOCK", 1)]


async def test_each_change_of_a_guards_level_leaves_one_alert_that_names_it(
    ledger: Ledger, file: AuditedLedger
) -> None:
    found = []
    for number, dollars in enumerate((48, 1, 5, 1, 5, 1)):  # 48.00 of 60 is on the floor.
        written = await ledger.apply(
            batch([chat(f"e{number}", dollars)], at=number, watches=GUARDED)
        )
        found += told(written.transitions)

    assert found == [
        ("chat", "NONE", "WARN", 1),
        ("chat", "WARN", "THROTTLE", 2),
        ("chat", "THROTTLE", "BLOCK", 3),
    ]
    rows = file.rows("SELECT message_id, kind, payload FROM outbox ORDER BY outbox_id")
    assert len({message_id for message_id, _, _ in rows}) == 3
    assert {kind for _, kind, _ in rows} == {"margin.level_changed"}
    data = json.loads(rows[0][2])["data"]
    assert (data["guard"]["id"], data["revenue_nanos"], data["cogs_nanos"]) == (
        "chat",
        60 * DOLLAR,
        49 * DOLLAR,
    )


async def test_tenant_and_guard_can_change_at_once_each_with_its_own_alert(
    ledger: Ledger, file: AuditedLedger
) -> None:
    written = await ledger.apply(batch([chat("e1", 101)], watches=GUARDED))

    assert told(written.transitions) == [("", "NONE", "BLOCK", 1), ("chat", "NONE", "BLOCK", 1)]
    assert file.rows("SELECT COUNT(DISTINCT message_id) FROM outbox") == [(2,)]


async def test_the_same_again_changes_nothing(ledger: Ledger, file: AuditedLedger) -> None:
    await ledger.apply(batch([chat("e1", 61)], watches=GUARDED))
    before = file.contents()

    repeated = await ledger.apply(batch([chat("e1", 61)], at=1, watches=GUARDED))
    again = await ledger.reassess(Place(PARTITION, 2), GUARDED, now_micros=NOW)

    assert (repeated.transitions, again.transitions) == ([], [])
    after = file.contents()
    assert after["guard_state"] == before["guard_state"]
    assert after["outbox"] == before["outbox"]


async def test_a_guards_own_revenue_and_features_are_what_counts(ledger: Ledger) -> None:
    events = [used("e1", 4, features=("search",)), used("e2", 2, features=("api",))]
    await ledger.apply(batch(events, watches=GUARDED))
    before = (await standing_of(ledger)).guard_levels

    await ledger.apply(batch([used("e3", 1, features=("chat", "search"))], at=2, watches=GUARDED))

    assert before["search"] is Level.NONE  # $4 of $5: on the floor.
    assert (await standing_of(ledger)).guard_levels["search"] is Level.THROTTLE  # $5 of $5.


async def test_a_changed_guard_is_measured_anew_and_says_so(ledger: Ledger) -> None:
    await ledger.apply(batch([chat("e1", 61)], watches=GUARDED))
    more = Guard(guard_id="chat", features=CHAT.features, revenue_nanos=1000 * DOLLAR)
    richer = watched(watch(revenue_nanos=100 * DOLLAR, guards=[more]))

    written = await ledger.reassess(Place(PARTITION, 1), richer, now_micros=NOW)

    assert told(written.transitions) == [("chat", "BLOCK", "NONE", 2)]
    assert (await standing_of(ledger)).guard_levels == {"chat": Level.NONE}


async def test_a_guard_that_the_contract_no_longer_has_holds_nobody(
    ledger: Ledger, file: AuditedLedger
) -> None:
    await ledger.apply(batch([chat("e1", 61)], watches=GUARDED))
    bare = watched(watch(revenue_nanos=100 * DOLLAR))

    await ledger.reassess(Place(PARTITION, 1), bare, now_micros=NOW)
    gone = (await standing_of(ledger)).guard_levels
    back = await ledger.reassess(Place(PARTITION, 1), GUARDED, now_micros=NOW)

    assert gone == {}
    # Back in the same period it goes on counting: no second alert has the first one's id.
    assert told(back.transitions) == [("chat", "NONE", "BLOCK", 2)]
    assert file.rows("SELECT COUNT(DISTINCT message_id) FROM outbox") == [(2,)]


async def test_a_new_period_frees_a_guard(ledger: Ledger) -> None:
    await ledger.apply(batch([chat("e1", 61)], watches=GUARDED))
    period = PeriodMicros(PERIOD.end_micros, PERIOD.end_micros + 31 * 24 * HOUR_MICROS)
    later = watched(watch(revenue_nanos=100 * DOLLAR, guards=[CHAT], period=period))

    written = await ledger.reassess(Place(PARTITION, 1), later, now_micros=period.start_micros)

    assert told(written.transitions) == [("chat", "BLOCK", "NONE", 1)]
    assert (await standing_of(ledger)).guard_levels == {"chat": Level.NONE}


async def test_waiting_usage_reaches_its_guard_once_it_has_a_price(ledger: Ledger) -> None:
    event = used("e1", 61, prices=[], meter=TOKENS, features=("chat",))
    await ledger.apply(batch([event], watches=GUARDED))
    before = (await standing_of(ledger)).guard_levels
    (row,) = await ledger.unpriced("acme")

    written = await ledger.reprice(
        Place(PARTITION, 1),
        Reprice(moves=[(row, price("tokens", meter=TOKENS))], currency="USD"),
        GUARDED,
        now_micros=NOW,
    )

    assert before["chat"] is Level.NONE
    assert told(written.transitions) == [("chat", "NONE", "BLOCK", 1)]


async def test_guards_of_two_tenants_are_strangers(ledger: Ledger) -> None:
    both = {**GUARDED, "globex": watch(tenant="globex", guards=[SEARCH])}
    events = [chat("e1", 61), used("e2", 6, tenant="globex", features=("search",))]

    await ledger.apply(batch(events, watches=both))

    standings = await ledger.standings({"acme": [], "globex": []})
    assert standings["acme"].guard_levels == {"chat": Level.BLOCK, "search": Level.NONE}
    assert standings["globex"].guard_levels == {"search": Level.BLOCK}


@pytest.mark.parametrize(("calls", "level"), [(19, Level.WARN), (20, Level.BLOCK)])
async def test_with_too_few_calls_in_the_period_the_level_is_at_most_a_warning(
    ledger: Ledger, calls: int, level: Level
) -> None:
    """A fee of $10, and a dollar a call; another period's calls are no sample of this one."""
    watches = watched(watch(thresholds=Thresholds(act_from_calls=20)))
    former = PeriodMicros(PERIOD.start_micros - 30 * 24 * HOUR_MICROS, PERIOD.start_micros)
    old = used("old", 50, period=former, at_micros=former.start_micros)

    await ledger.apply(batch([old, used("e1", calls)], watches=watches))

    assert (await standing_of(ledger)).assessment.level is level


async def test_a_guards_own_revenue_accrues_as_the_contracts_does(ledger: Ledger) -> None:
    """Of $5 in 30 days, $2.50 by the middle: $2.60 of search is a loss then, and not at the end."""
    terms = Terms(
        tenant_id="acme",
        subscription_id="sub-1",
        phases=(Phase(committed_fee_nanos=100 * DOLLAR),),
        basis=RevenueBasis.ACCRUED,
    )
    watches = watched(replace(watch(guards=[SEARCH]), terms=terms))
    cent = [price("cent", nanos=DOLLAR // 100)]
    found = used("e1", 260, prices=cent, features=("search",))
    middle = PERIOD.start_micros + (PERIOD.end_micros - PERIOD.start_micros) // 2

    await ledger.apply(batch([found], watches=watches, now_micros=middle))
    early = (await standing_of(ledger)).guard_levels["search"]
    last = PERIOD.end_micros - 1
    await ledger.reassess(Place(PARTITION, 1), watches, now_micros=last)
    late = (await standing_of(ledger)).guard_levels["search"]

    assert (early, late) == (Level.BLOCK, Level.NONE)
