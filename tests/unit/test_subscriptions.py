"""Subscriptions that end: what they bill to the last instant, and whose the usage around it is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from aforo_admin.catalog_yaml import read_text
from aforo_admin.domain.entitling import Entitled, entitle
from aforo_admin.faults import CatalogError
from aforo_admin.messages import contract
from aforo_admin.readable import fields_of
from aforo_authz.domain.access import SubscriptionState
from aforo_meter.contract_messages import terms_of
from aforo_meter.domain.account import Account, UsageKey, Used
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.prices import PriceBook
from aforo_meter.domain.revenue import fixed_nanos, revenue
from aforo_meter.domain.terms import Terms
from aforo_meter.watches import watch_of

DOLLAR = 1_000_000_000
UNIT = 1_000_000
CHANGED = datetime(2026, 6, 16, tzinfo=UTC)
CHANGED_MICROS = micros_of(CHANGED)
CATALOG = """\
version: 1
currency: USD
features: [{id: chat}]
plans:
  pro:
    committed_fee: 30
    features: [chat]
    rate_card:
      - from: 2026-01-01
        components:
          - {id: calls, meter: api.calls, price: 1, included: 10}
          - {id: seat, flat: 6}
  flat: {committed_fee: 90, features: [chat]}
tenants:
  acme:
    former_subscriptions:
      - {id: s0, plan: pro, started_at: 2026-06-01, ended_at: 2026-06-16}
    subscription: {id: s1, plan: flat, started_at: 2026-06-16, ended_at: 2026-08-01}
    deals:
      - {id: summer, from: 2026-06-11, committed_fee: 15, until: 2026-06-20}
"""


def entitled(now: datetime) -> Entitled:
    catalog = read_text(CATALOG.encode(), name="c.yaml")
    return entitle(catalog, catalog.tenants["acme"], now)


def synced() -> Terms:
    message = contract(entitled(CHANGED).contract)
    return terms_of("acme", message.SerializeToString(), None)


def calls(count: int) -> Account:
    return {UsageKey("api.calls", "chat", "", "", "", ""): Used(quantity_micros=count * UNIT)}


def test_the_last_period_bills_what_is_left_of_it() -> None:
    """Ten days of 30 at 30, five at 15; half of 10 is included, so 15 of 20; half of the seat."""
    (former,) = synced().former
    june = former.period_at(micros_of(CHANGED) - 1)

    told = revenue(former, calls(20), period=june, now_micros=june.end_micros, book_currency="USD")

    assert former.covered(june) == Fraction(1, 2)
    assert [line.amount_nanos / DOLLAR for line in told.lines] == [10, 2.5, 15, 3]


def test_an_allowance_counts_by_the_part_that_is_covered() -> None:
    terms = replace(synced().former[0], allowance_nanos=50 * DOLLAR, ended_at_micros=None)
    june_20 = micros_of(datetime(2026, 6, 20, tzinfo=UTC))
    half = replace(terms, phases=(replace(terms.phases[0], effective_from_micros=CHANGED_MICROS),))
    book = PriceBook(version="1", currency="USD")

    found = [watch_of(each, book, now_micros=june_20) for each in (terms, half)]

    assert [each and each.allowance_nanos for each in found] == [50 * DOLLAR, 25 * DOLLAR]


def test_after_its_end_a_subscription_brings_nothing() -> None:
    terms = synced()
    august = terms.period_at(micros_of(datetime(2026, 8, 20, tzinfo=UTC)))
    july = terms.period_at(micros_of(datetime(2026, 7, 20, tzinfo=UTC)))

    assert fixed_nanos(terms, august, book_currency="USD") is None
    assert revenue(terms, {}, period=august, now_micros=0, book_currency="USD").lines == ()
    # From the 16th of July on, 16 of 31 days.
    assert fixed_nanos(terms, july, book_currency="USD") is None
    told = revenue(terms, {}, period=july, now_micros=0, book_currency="USD")
    assert told.total_nanos == round(Fraction(90 * DOLLAR * 16, 31))


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (datetime(2026, 6, 15, tzinfo=UTC), SubscriptionState.CREATED),
        (CHANGED, SubscriptionState.ACTIVE),
        (datetime(2026, 8, 1, tzinfo=UTC) - timedelta(microseconds=1), SubscriptionState.ACTIVE),
        (datetime(2026, 8, 1, tzinfo=UTC), SubscriptionState.EXPIRED),
    ],
)
def test_from_its_end_on_a_subscription_counts_as_expired(
    now: datetime, state: SubscriptionState
) -> None:
    assert entitled(now).policy.state is state


def test_its_end_is_the_next_instant_at_which_time_changes_something() -> None:
    found = entitled(datetime(2026, 7, 20, tzinfo=UTC))

    assert found.holds_until == datetime(2026, 8, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("named", "at", "charged_to"),
    [
        ("", CHANGED - timedelta(microseconds=1), "s0"),
        ("", CHANGED, "s1"),
        ("s0", CHANGED, "s1"),  # Decided a moment before, and no longer the former one's.
        ("s1", CHANGED - timedelta(seconds=1), "s0"),
        ("s0", CHANGED - timedelta(days=3), "s0"),
        ("s0", datetime(2026, 5, 1, tzinfo=UTC), "s0"),  # No contract covers it: as it says.
        ("s1", datetime(2026, 9, 1, tzinfo=UTC), "s1"),
        ("", datetime(2026, 5, 1, tzinfo=UTC), "s1"),
    ],
)
def test_usage_is_charged_to_the_contract_that_covers_its_time(
    named: str, at: datetime, charged_to: str
) -> None:
    charging = synced().charging(named, micros_of(at))

    assert charging is not None
    assert charging.subscription_id == charged_to


def test_of_an_unknown_subscription_no_contract_is_known() -> None:
    assert synced().charging("s9", micros_of(CHANGED)) is None
    assert synced().of_subscription("s9") is None


def test_a_former_subscription_can_be_read() -> None:
    told = fields_of(contract(entitled(CHANGED).contract))

    assert told["ended_at"] == "2026-08-01 00:00:00Z"
    assert told["former[s0]"] == "plan pro, until 2026-06-16 00:00:00Z"
    assert "former[s0].phases[2026-06-11 00:00:00Z]" in told


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            ("ended_at: 2026-06-16}", "state: active}"),
            "former_subscriptions[0].ended_at: is missing",
        ),
        (("ended_at: 2026-06-16}", "ended_at: 2026-06-01}"), "must be after 2026-06-01, its start"),
        (("ended_at: 2026-06-16}", "ended_at: 2026-06-17}"), "subscription.started_at: is before"),
        (("ended_at: 2026-08-01", "ended_at: 2026-06-01"), "subscription.ended_at: must be after"),
        (("id: s0", "id: s1"), 'subscription.id: "s1" is another'),
        (("id: s0, plan: pro", "id: s0, plan: por"), 'no plan "por"'),
    ],
)
def test_subscriptions_follow_each_other(change: tuple[str, str], fault: str) -> None:
    with pytest.raises(CatalogError) as caught:
        read_text(CATALOG.replace(*change).encode(), name="c.yaml")

    (line,) = caught.value.lines
    assert fault in line
