"""The message of a transition: complete, and the same each time it is made."""

import json
from dataclasses import replace

import pytest

from aforo_meter.alerts import alert_of
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.ledger import Transition, Watch

WATCH = Watch(
    tenant_id="acme",
    subscription_id="sub-1",
    period=PeriodMicros(1_793_491_200_000_000, 1_796_083_200_000_000),
    revenue_nanos=10**10,
    allowance_nanos=0,
    currency="USD",
    thresholds=Thresholds(source="plan:pro"),
    catalog_version="v1",
    price_book_version="1",
)
WORSE = Transition(
    watch=WATCH,
    seq=1,
    before=Level.NONE,
    after=Assessment(
        level=Level.WARN,
        state=MarginState.DEFINED,
        revenue_nanos=10**10,
        cogs_nanos=8_166_000_000,
        allowance_nanos=0,
    ),
    at_micros=1_795_438_345_298_588,
    estimated_cogs_nanos=1_500_000_000,
    unpriced_rows=2,
)


def test_the_message_says_all_that_a_receiver_needs() -> None:
    message = json.loads(alert_of(WORSE).payload)

    assert message == {
        "type": "margin.level_changed",
        "timestamp": "2026-11-23T12:52:25.298588Z",
        "data": {
            "tenant": "acme",
            "subscription": "sub-1",
            "guard": None,
            "period_start": "2026-11-01T00:00:00Z",
            "period_end": "2026-12-01T00:00:00Z",
            "from": "none",
            "to": "warn",
            "direction": "worse",
            "margin_state": "defined",
            "gross_margin_ratio": "0.1834",
            "revenue_nanos": 10_000_000_000,
            "cogs_nanos": 8_166_000_000,
            "allowance_nanos": 0,
            "estimated_cogs_nanos": 1_500_000_000,
            "unpriced_rows": 2,
            "currency": "USD",
            "thresholds": {
                "warn_below_bp": 2000,
                "throttle_below_bp": 1000,
                "block_below_bp": 0,
                "hysteresis_bp": 100,
                "act_from_revenue_nanos": 0,
                "act_from_calls": 0,
                "allowance": None,
                "source": "plan:pro",
            },
            "price_book_version": "1",
            "as_of": "2026-11-23T12:52:25.298588Z",
        },
    }


GUARD = Guard(
    guard_id="chat-margin",
    features=frozenset({"search", "chat"}),
    meters=("llm.*",),
    revenue_share_bp=6000,
    thresholds=Thresholds(warn_below_bp=3000, source="guard:chat-margin, default"),
)


def test_a_guards_message_names_it_and_its_own_thresholds() -> None:
    """A 60 % share of $10 is $6; $4.50 of costs leave 25 %."""
    after = replace(WORSE.after, revenue_nanos=6_000_000_000, cogs_nanos=4_500_000_000)
    message = json.loads(alert_of(replace(WORSE, guard=GUARD, after=after)).payload)

    data = message["data"]
    assert message["type"] == "margin.level_changed"
    assert data["guard"] == {
        "id": "chat-margin",
        "features": ["chat", "search"],
        "meters": ["llm.*"],
    }
    assert (data["tenant"], data["revenue_nanos"]) == ("acme", 6_000_000_000)
    assert data["gross_margin_ratio"] == "0.2500"
    assert data["thresholds"]["warn_below_bp"] == 3000
    assert data["thresholds"]["source"] == "guard:chat-margin, default"


def test_without_revenue_there_is_no_ratio() -> None:
    after = replace(WORSE.after, state=MarginState.UNDEFINED, revenue_nanos=0, level=Level.NONE)
    message = json.loads(alert_of(replace(WORSE, before=Level.BLOCK, after=after)).payload)

    assert message["data"]["gross_margin_ratio"] is None
    assert message["data"]["margin_state"] == "undefined"
    assert message["data"]["direction"] == "better"


def test_the_same_transition_has_the_same_id_whenever_it_is_made() -> None:
    later = replace(WORSE, at_micros=WORSE.at_micros + 1)

    assert alert_of(later).message_id == alert_of(WORSE).message_id


@pytest.mark.parametrize(
    "other",
    [
        replace(WORSE, seq=2),
        replace(WORSE, watch=replace(WATCH, tenant_id="acme1", subscription_id="sub")),
        replace(WORSE, watch=replace(WATCH, period=PeriodMicros(1, 2))),
        replace(WORSE, guard=GUARD),
    ],
)
def test_another_transition_has_another_id(other: Transition) -> None:
    assert alert_of(other).message_id != alert_of(WORSE).message_id
