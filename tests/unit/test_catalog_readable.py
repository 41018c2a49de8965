"""What the read model holds is shown in words and units that people use."""

from datetime import UTC, datetime, timedelta

import pytest

from aforo_admin.differences import report, summary
from aforo_admin.read_model import ReadModel
from aforo_admin.readable import age_text, fields_of, margin_ratio_text
from aforo_admin.readable_values import money
from aforo_admin.sync import Differences
from aforo_meter.domain.periods import micros_of
from aforo_proto.contract_pb2 import (
    CADENCE_YEAR,
    Contract,
    ModelMatch,
    PriceEntry,
    PriceList,
    Thresholds,
)
from aforo_proto.policy_pb2 import (
    CREDENTIAL_KIND_API_KEY,
    SUBSCRIPTION_STATE_PAST_DUE,
    WINDOW_BILLING_PERIOD,
    Credential,
    Policy,
    Quota,
    RouteRule,
    Routes,
)

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
CRED_KEY = b"aforo:v1:cred:" + b"ab12" * 16


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (36_000 * 10**9, "36,000 USD"),
        (100 * 10**9, "100 USD"),
        (1_500_000_000, "1.5 USD"),
        (1, "0.000000001 USD"),
        (-2_500_000_000, "-2.5 USD"),
        (0, "0 USD"),
    ],
)
def test_money_is_shown_exactly(nanos: int, text: str) -> None:
    assert money(nanos, "USD") == text


@pytest.mark.parametrize(
    ("revenue", "cogs", "text"),
    [
        (100, 80, "0.2000"),
        (100_000, 80_001, "0.1999"),
        (100, 160, "-0.6000"),
        (3, 1, "0.6666"),
        (3, 4, "-0.3334"),
        (0, 5, "undefined (no revenue)"),
    ],
)
def test_a_margin_is_rounded_down_and_undefined_without_revenue(
    revenue: int, cogs: int, text: str
) -> None:
    assert margin_ratio_text(revenue_nanos=revenue, cogs_nanos=cogs) == text


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=0), "0 s ago"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(hours=2, minutes=5, seconds=9), "2 h 5 min ago"),
        (timedelta(days=3, seconds=7), "3 d 7 s ago"),
        (timedelta(seconds=-4), "4 s ahead of this clock"),
    ],
)
def test_an_age_is_shown_in_two_units(age: timedelta, text: str) -> None:
    assert age_text(micros_of(NOW - age), NOW) == text


def test_fields_lose_their_unit_and_gain_a_reading() -> None:
    contract = Contract(
        currency="USD",
        committed_fee_nanos=5 * 10**9,
        cadence=CADENCE_YEAR,
        anchor_micros=micros_of(NOW),
        thresholds=Thresholds(warn_below_bp=2050, source="plan:pro"),
        negotiated=[
            PriceList(
                provider="openai",
                match=ModelMatch(
                    any_of=ModelMatch.List(
                        matches=[ModelMatch(equals="a"), ModelMatch(regex="^b$")]
                    )
                ),
                entries=[
                    PriceEntry(
                        price_id="p1",
                        meter="llm.input_tokens",
                        price_nanos=2 * 10**9,
                        per_units=1_000_000,
                        tier_input_tokens_from=200_001,
                        day_to_s=60,
                        source="negotiated",
                    )
                ],
            )
        ],
    )

    fields = fields_of(contract)

    assert fields["committed_fee"] == "5 USD"
    assert fields["cadence"] == "year"
    assert fields["anchor"] == "2026-03-10 12:00:00Z"
    assert fields["thresholds.warn_below"] == "20.5%"
    assert fields["allowance"] == "none"
    assert fields["negotiated[openai/*].match"] == 'any_of(equals "a", regex "^b$")'
    assert fields["negotiated[p1]"] == (
        "2 USD per 1,000,000 llm.input_tokens, always, for requests of 200,001 input tokens or "
        "more, from second 0 to 60 of the day (UTC) (negotiated)"
    )


def test_enums_flags_and_lists_read_as_words() -> None:
    policy = Policy(
        state=SUBSCRIPTION_STATE_PAST_DUE,
        features=["chat", "reports"],
        shadow=True,
        quotas=[
            Quota(
                quota_id="q",
                meter="api.calls",
                limit_units=5000,
                window=WINDOW_BILLING_PERIOD,
                features=["chat"],
            )
        ],
    )

    fields = fields_of(policy)

    assert fields["state"] == "past_due"
    assert fields["features"] == "chat, reports"
    assert fields["shadow"] == "yes"
    assert fields["quotas[q]"] == "5,000 api.calls of chat a billing_period, hard"
    assert fields_of(Credential())["expires_at"] == "never"


def test_a_value_from_the_future_is_shown_as_such() -> None:
    assert fields_of(Policy.FromString(b"\x20\x63"))["state"] == "unknown (99)"


def model(**values: bytes) -> ReadModel:
    return ReadModel(
        version="v2",
        tenants={"acme": "v2"},
        basis={
            b"aforo:v1:routes": values.get("routes", b""),
            b"aforo:v1:{acme}:contract": values.get("contract", b""),
            b"aforo:v1:{acme}:policy": values.get("policy", b""),
        },
        credentials={CRED_KEY: values.get("credential", b"")},
        holds_until=NOW,
    )


def contract_bytes(fee: int, version: str = "v2") -> bytes:
    return Contract(
        plan_id="pro",
        currency="USD",
        committed_fee_nanos=fee * 10**9,
        cadence=CADENCE_YEAR,
        catalog_version=version,
    ).SerializeToString()


def test_a_difference_names_old_and_new() -> None:
    told = report(
        model(contract=contract_bytes(8)),
        Differences(stale={b"aforo:v1:{acme}:contract": contract_bytes(5, "v1")}, gone={}),
    )

    assert told.lines == ["~ tenant acme", "    contract.committed_fee: 5 USD → 8 USD"]
    assert summary(told, version="v2") == "0 to add, 1 to change, 0 to remove; version v2"


def test_what_is_new_and_what_is_gone_take_a_line_each() -> None:
    key = Credential(tenant_id="old", credential_id="main", kind=CREDENTIAL_KIND_API_KEY)
    told = report(
        model(contract=contract_bytes(8)),
        Differences(
            stale={b"aforo:v1:{acme}:contract": None, b"aforo:v1:{acme}:policy": None},
            gone={
                CRED_KEY: key.SerializeToString(),
                b"aforo:v1:{old}:contract": b"",
                b"aforo:v1:{old}:policy": b"",
                b"aforo:v1:{old}:margin": b"",
            },
        ),
    )

    assert told.lines == [
        "+ tenant acme: plan pro, 8 USD a year",
        "- credential old/main (api_key, ab12ab12…)",
        "- tenant old",
    ]


def test_one_missing_value_of_a_tenant_is_a_change_of_it() -> None:
    told = report(model(), Differences(stale={b"aforo:v1:{acme}:policy": None}, gone={}))

    assert told.lines == ["~ tenant acme", "    policy: was missing"]


def test_what_gets_only_the_version_is_counted_and_not_listed() -> None:
    told = report(
        model(contract=contract_bytes(5)),
        Differences(stale={b"aforo:v1:{acme}:contract": contract_bytes(5, "v1")}, gone={}),
    )

    assert told.lines == []
    assert "1 value gets only the new version" in summary(told, version="v2")


def test_an_unreadable_value_is_told_and_not_a_crash() -> None:
    told = report(
        model(contract=contract_bytes(5)),
        Differences(stale={b"aforo:v1:{acme}:contract": b"\xff\xff"}, gone={CRED_KEY: b"\xff"}),
    )

    assert "    contract: held something unreadable" in told.lines
    assert any(line.startswith("- credential ?/?") for line in told.lines)


def test_a_route_that_moves_is_a_change() -> None:
    first = RouteRule(methods=["GET"], path_template="/a", features=["x"])
    second = RouteRule(path_template="/b")
    told = report(
        model(routes=Routes(rules=[second, first]).SerializeToString()),
        Differences(
            stale={b"aforo:v1:routes": Routes(rules=[first, second]).SerializeToString()}, gone={}
        ),
    )

    assert told.lines == ["~ routes", "    routes.rules.order: GET /a, any /b → any /b, GET /a"]


def test_a_flood_of_changes_is_cut() -> None:
    many = Routes(rules=[RouteRule(path_template=f"/{n}") for n in range(100)])
    told = report(
        model(routes=many.SerializeToString()),
        Differences(stale={b"aforo:v1:routes": Routes().SerializeToString()}, gone={}),
    )

    assert told.lines[-1] == "    … and 61 more"
