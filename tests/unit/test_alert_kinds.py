"""Every kind of alert: as documented, by what it is told apart, and what it says in a sentence."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from aforo_meter.alerts import (
    KINDS,
    TEST,
    Alert,
    alert_of,
    price_alert,
    quota_alert,
    sync_alert,
    unpriced_alert,
)
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import AllowanceThresholds, MarginState, Thresholds
from aforo_meter.domain.periods import DAY_MICROS, PeriodMicros
from aforo_meter.domain.price_changes import ChangeState
from aforo_meter.domain.quotas import COGS
from aforo_meter.slack_text import money, price, sentence
from tests.alert_schemas import FOLDER, check
from tests.unit.alert_samples import (
    CHANGE,
    NOW,
    REACHED,
    REPRICING,
    UNPRICED,
    WORSE,
    samples,
)

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = {alert.kind: alert for alert in samples()}


def data(alert: Alert) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(alert.payload)["data"]
    return found


def said(alert: Alert) -> str:
    return sentence(alert.payload.encode())


def test_there_is_a_sample_and_a_schema_of_every_kind() -> None:
    assert set(SAMPLES) == {*KINDS, TEST}
    assert {path.name.removesuffix(".schema.json") for path in FOLDER.glob("*")} == set(SAMPLES)


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_a_message_is_as_its_schema_says(kind: str) -> None:
    message = json.loads(SAMPLES[kind].payload)

    check(message)
    for name in message["data"]:
        less = {**message, "data": {k: v for k, v in message["data"].items() if k != name}}
        with pytest.raises(fastjsonschema.JsonSchemaValueException):
            check(less)
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        check({**message, "data": {**message["data"], "more": 1}})


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_the_page_shows_the_very_message_and_its_sentence(kind: str) -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    shown = json.dumps(json.loads(SAMPLES[kind].payload)["data"], indent=2, ensure_ascii=False)

    assert f"```json\n{shown}\n```" in page
    assert f"> {said(SAMPLES[kind])}\n" in page
    assert f"(alerts/{kind}.schema.json)" in page


def test_a_guards_level_names_the_guard_and_is_as_the_schema_says() -> None:
    allowance = AllowanceThresholds(warn_at_bp=8000, throttle_at_bp=9000, block_at_bp=10_000)
    guard = Guard(
        guard_id="chat-margin",
        features=frozenset({"chat"}),
        meters=("llm.*",),
        thresholds=Thresholds(allowance=allowance, act_from_calls=100),
    )
    alert = alert_of(replace(WORSE, guard=guard))

    check(json.loads(alert.payload))
    assert data(alert)["guard"] == {"id": "chat-margin", "features": ["chat"], "meters": ["llm.*"]}
    assert data(alert)["thresholds"]["act_from_calls"] == 100
    assert said(alert).startswith("acme: level of the margin chat-margin none → warn, ")
    assert alert.message_id != alert_of(WORSE).message_id


@pytest.mark.parametrize(
    "other",
    [
        replace(REACHED, threshold_bp=10_000),
        replace(REACHED, tenant_id="globex"),
        replace(REACHED, window=PeriodMicros(1, 2)),
        replace(REACHED, quota=replace(REACHED.quota, limit_units=20_000)),
        replace(REACHED, quota=replace(REACHED.quota, quota_id="other")),
    ],
)
def test_a_quota_is_told_again_in_another_window_or_of_another_limit(other: Any) -> None:  # noqa: ANN401
    first = quota_alert(REACHED)

    assert quota_alert(other).message_id != first.message_id
    later = replace(REACHED, used_units=9_000, as_of_micros=NOW + 1)
    assert quota_alert(later).message_id == first.message_id


@pytest.mark.parametrize(
    ("limit", "used", "reached"),
    [
        (10, 7, []),
        (10, 8, [8000]),
        (10, 10, [8000, 10_000]),
        (3, 2, []),
        (10**18, 8 * 10**17, [8000]),
        (0, 0, []),  # A quota of nothing is no quota to run out of.
    ],
)
def test_a_part_of_a_quota_is_reached_exactly(limit: int, used: int, reached: list[int]) -> None:
    quota = replace(REACHED.quota, limit_units=limit)

    assert quota.reached_bp(used, (8000, 10_000)) == reached


def test_unpriced_usage_is_told_once_an_episode() -> None:
    first = unpriced_alert(UNPRICED, now_micros=NOW)

    assert unpriced_alert(UNPRICED, now_micros=NOW + 1).message_id == first.message_id
    again = unpriced_alert(replace(UNPRICED, episode=2), now_micros=NOW)
    assert again.message_id != first.message_id


def test_an_announced_price_is_told_again_when_it_holds() -> None:
    announced = replace(CHANGE, state=ChangeState.ANNOUNCED)
    first = price_alert(replace(REPRICING, changes=[announced]), now_micros=NOW)

    assert first.message_id != SAMPLES["price.changed"].message_id
    assert "new price of openai gpt-4o from 2026-11-23 12:52 UTC" in said(first)


def test_a_sync_is_told_of_once_until_the_next_complete_pass() -> None:
    def at(completed: int, now: int) -> str:
        alert = sync_alert(since_micros=completed, stale_after_s=300, now_micros=now)
        return alert.message_id

    assert at(NOW, NOW + 10**9) == at(NOW, NOW + 10**10)
    assert at(NOW, NOW + 10**9) != at(NOW + 1, NOW + 10**9)


def test_a_sync_that_nobody_knows_of_is_told_once_a_day() -> None:
    def at(now: int, since: int = NOW) -> Alert:
        return sync_alert(since_micros=since, stale_after_s=300, now_micros=now, is_known=False)

    alert = at(NOW + 301 * 10**6)
    assert (data(alert)["completed_at"], data(alert)["age_s"]) == (None, 301)
    assert "no complete sync has been in Redis for 301 s" in said(alert)
    assert at(NOW + 600 * 10**6, NOW + 10**6).message_id == alert.message_id
    assert at(NOW + DAY_MICROS).message_id != alert.message_id


def test_a_quota_of_money_is_told_in_money() -> None:
    quota = replace(REACHED.quota, quota_id="cap", meter=COGS, limit_units=50_000_000_000)
    alert = quota_alert(replace(REACHED, quota=quota, used_units=40_004_999_999))

    assert data(alert)["currency"] == "USD"
    assert said(alert).startswith("acme: $40.00 of $50.00 of COGS used, 80 % of quota cap")


def test_quantities_are_exact_decimals() -> None:
    alert = unpriced_alert(replace(UNPRICED, quantity_micros=10_000_001), now_micros=NOW)

    assert data(alert)["quantity"] == "10.000001"
    check(json.loads(alert.payload))
    whole = unpriced_alert(replace(UNPRICED, quantity_micros=10**15), now_micros=NOW)
    assert data(whole)["quantity"] == "1000000000"


def test_without_revenue_a_sentence_speaks_of_the_allowance() -> None:
    free = replace(REPRICING.before, state=MarginState.UNDEFINED, revenue_nanos=0)
    allowed = replace(free, allowance_nanos=12_000_000_000)
    alert = price_alert(replace(REPRICING, before=free, after=allowed), now_micros=NOW)

    check(json.loads(alert.payload))
    assert "$7.01 spent, no revenue and no allowance" in said(alert)
    assert "$7.01 of an allowance of $12.00 spent, no revenue" in said(alert)


def test_names_from_outside_are_no_markup() -> None:
    use = UNPRICED.use._replace(model="<!channel> & co")
    alert = unpriced_alert(replace(UNPRICED, use=use), now_micros=NOW)

    assert "&lt;!channel&gt; &amp; co" in said(alert)


@pytest.mark.parametrize(
    "payload", ['{"type": "new.kind", "data": {}}', '{"type": "sync.stale", "data": {}}']
)
def test_a_message_of_another_version_is_named_at_least(payload: str) -> None:
    assert sentence(payload.encode()) == f"aforo: {json.loads(payload)['type']}"


@pytest.mark.parametrize(
    ("nanos", "currency", "text"),
    [
        (7_010_000_000, "USD", "$7.01"),
        (1_234_567_890_000_000, "EUR", "€1,234,567.89"),
        (-3_000_000_000, "GBP", "−£3.00"),
        (-3_000_000_000, "CHF", "−3.00 CHF"),
        (4_999_999, "USD", "$0.00"),
        (5_000_000, "USD", "$0.00"),
        (15_000_000, "USD", "$0.02"),
    ],
)
def test_amounts_are_told_to_the_cent(nanos: int, currency: str, text: str) -> None:
    assert money(nanos, currency) == text


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(2_500_000_000, "$2.50"), (500, "$0.0000005"), (100_000_000_000, "$100.00"), (0, "$0.00")],
)
def test_prices_are_told_to_the_last_digit(nanos: int, text: str) -> None:
    assert price(nanos, "USD") == text
