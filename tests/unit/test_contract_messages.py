"""Contracts and prices from their messages: nothing broken is taken for something else."""

import pytest

from aforo_meter.contract_messages import UnreadableError, book_of, terms_of
from aforo_meter.domain.margin import Thresholds
from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.prices import Prices
from aforo_meter.domain.quotas import Quota, WindowKind
from aforo_proto import contract_pb2, policy_pb2
from aforo_proto.contract_pb2 import Contract, ModelMatch, PriceBook, PriceEntry, PriceList


def contract(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "tenant_id": "acme",
        "subscription_id": "sub-1",
        "plan_id": "pro",
        "currency": "USD",
        "committed_fee_nanos": 10**10,
        "cadence": contract_pb2.CADENCE_MONTH,
        "anchor_micros": 1_767_225_600_000_000,
        "catalog_version": "v1",
    }
    return Contract(**(fields | changes)).SerializeToString()  # type: ignore[arg-type]


def price(**changes: object) -> PriceEntry:
    fields: dict[str, object] = {
        "price_id": "p",
        "meter": "api.calls",
        "price_nanos": 5,
        "per_units": 1,
    }
    return PriceEntry(**(fields | changes))  # type: ignore[arg-type]


def priced(match: ModelMatch | None, model: str, *, entry: PriceEntry | None = None) -> bool:
    listed = PriceList(provider="OpenAI", model="It", match=match, entries=[entry or price()])
    book = book_of(PriceBook(version="1", currency="USD", own=[listed]).SerializeToString())
    found = Prices(book).price_of(
        "api.calls", provider="openai", model=model, at_micros=10, input_tokens=0
    )
    return found is not None


def test_a_contract_and_its_policys_quotas_make_terms() -> None:
    policy = policy_pb2.Policy(
        quotas=[
            policy_pb2.Quota(
                quota_id="calls",
                meter="api.calls",
                features=["chat"],
                limit_units=7,
                window=policy_pb2.WINDOW_DAY,
            )
        ]
    )
    floors = contract_pb2.Thresholds(warn_below_bp=1, block_below_bp=-2, source="plan:pro")
    terms = terms_of("acme", contract(thresholds=floors), policy.SerializeToString())

    assert (terms.subscription_id, terms.committed_fee_nanos) == ("sub-1", 10**10)
    assert terms.cadence is Cadence.MONTH
    assert terms.thresholds == Thresholds(
        warn_below_bp=1,
        throttle_below_bp=0,
        block_below_bp=-2,
        hysteresis_bp=0,
        source="plan:pro",
    )
    assert terms.quotas == (
        Quota(
            quota_id="calls",
            meter="api.calls",
            window=WindowKind.DAY,
            features=frozenset({"chat"}),
            limit_units=7,
        ),
    )


def test_without_thresholds_the_defaults_hold() -> None:
    assert terms_of("acme", contract(), None).thresholds == Thresholds()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (b"\xff", "no message of its kind"),
        (contract(cadence=contract_pb2.CADENCE_UNSPECIFIED), "unknown cadence 0"),
        (contract(cadence=9), "unknown cadence 9"),
        (contract(anchor_micros=2**62), "not of this era"),
        (contract(committed_fee_nanos=-1), "negative"),
    ],
)
def test_a_broken_contract_is_not_taken_for_none(value: bytes, complaint: str) -> None:
    with pytest.raises(UnreadableError, match=complaint):
        terms_of("acme", value, None)


def test_a_quota_of_an_unknown_window_does_not_hide_the_contract() -> None:
    policy = policy_pb2.Policy(quotas=[policy_pb2.Quota(quota_id="q", window=99)])  # type: ignore[arg-type]

    assert terms_of("acme", contract(), policy.SerializeToString()).quotas == ()


def test_a_broken_price_book_is_refused() -> None:
    with pytest.raises(UnreadableError, match="price book"):
        book_of(b"\xff")


@pytest.mark.parametrize(
    "entry", [price(per_units=0), price(price_nanos=-1), price(price_id="")], ids=str
)
def test_a_price_that_makes_no_sense_is_left_out(entry: PriceEntry) -> None:
    assert not priced(None, "it", entry=entry)


@pytest.mark.parametrize(
    ("match", "model", "expected"),
    [
        (None, "iT", True),
        (None, "other", False),
        (ModelMatch(equals="GPT"), "gpt", True),
        (ModelMatch(starts_with="GPT-"), "gpt-5", True),
        (ModelMatch(regex="^gpt-[0-9]$"), "GPT-5", True),
        (ModelMatch(regex="("), "gpt-5", False),
        (ModelMatch(), "it", False),
        (ModelMatch(any_of=ModelMatch.List(matches=[ModelMatch(contains="X")])), "axb", True),
    ],
    ids=str,
)
def test_models_are_matched_in_any_case(
    match: ModelMatch | None, model: str, *, expected: bool
) -> None:
    assert priced(match, model) is expected
