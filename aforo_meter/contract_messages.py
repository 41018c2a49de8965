"""Contracts, quotas and prices: messages of the read model → domain. It knows no keys, no Redis."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from aforo_meter.domain.guards import Guard
from aforo_meter.domain.margin import AllowanceThresholds, Thresholds
from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.prices import MatchKind, ModelMatch, PriceBook, PriceEntry, PriceList
from aforo_meter.domain.quotas import Quota, WindowKind
from aforo_meter.domain.terms import Terms
from aforo_meter.phase_messages import basis_of, phases_of, rates_of
from aforo_proto import contract_pb2, policy_pb2

log = structlog.get_logger()

_CADENCES: Final = {
    contract_pb2.CADENCE_MONTH: Cadence.MONTH,
    contract_pb2.CADENCE_YEAR: Cadence.YEAR,
}
_WINDOWS: Final = {getattr(policy_pb2, f"WINDOW_{kind.name}"): kind for kind in WindowKind}
# Between them lies every anchor that can be meant, with room for periods around it: 1900 and 2200.
ANCHOR_MICROS_MIN: Final = -2_208_988_800_000_000
ANCHOR_MICROS_MAX: Final = 7_258_118_400_000_000

NOTHING: Final = ModelMatch(kind=MatchKind.ANY_OF)  # Recognises no model.


class UnreadableError(Exception):
    """A value of the read model that this version can't understand: never read as "nothing"."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(
            f"cannot read the {what}: {why}; aforo-admin sync repairs what is broken, or it is "
            "newer than this process: update it"
        )


def terms_of(tenant_id: str, contract: bytes, policy: bytes | None) -> Terms:
    """Turn a Contract, and the quotas of the Policy beside it, into terms.

    Raises:
        UnreadableError: One of them can't be understood.
    """
    try:
        said = contract_pb2.Contract.FromString(contract)
        quotas = policy_pb2.Policy.FromString(policy or b"").quotas
    except DecodeError as error:
        what = f"contract of {tenant_id}"
        raise UnreadableError(what, "it is no message of its kind") from error
    return replace(_terms_of(tenant_id, said), quotas=tuple(_quotas_of(tenant_id, quotas)))


def _terms_of(tenant_id: str, said: contract_pb2.Contract) -> Terms:
    what = f"contract of {tenant_id}"
    if said.cadence not in _CADENCES:
        raise UnreadableError(what, f"unknown cadence {said.cadence}")
    if not ANCHOR_MICROS_MIN <= said.anchor_micros <= ANCHOR_MICROS_MAX:
        raise UnreadableError(what, f"its anchor {said.anchor_micros} is not of this era")
    if said.committed_fee_nanos < 0 or said.allowance_nanos < 0:
        raise UnreadableError(what, "its fee or allowance is negative")
    try:
        phases, basis = phases_of(said.phases), basis_of(said.basis)
        exchange_rates = rates_of(said.exchange_rates)
    except ValueError as error:
        raise UnreadableError(what, str(error)) from error
    return Terms(
        tenant_id=tenant_id,
        subscription_id=said.subscription_id,
        plan_id=said.plan_id,
        currency=said.currency,
        committed_fee_nanos=said.committed_fee_nanos,
        allowance_nanos=said.allowance_nanos,
        cadence=_CADENCES[said.cadence],
        anchor_micros=said.anchor_micros,
        thresholds=_thresholds_of(said.thresholds) if said.HasField("thresholds") else Thresholds(),
        guards=tuple(_guard_of(each) for each in said.guards),
        negotiated=_lists_of(said.negotiated),
        catalog_version=said.catalog_version,
        phases=phases,
        basis=basis,
        exchange_rates=exchange_rates,
        ended_at_micros=said.ended_at_micros or None,
        former=tuple(_terms_of(tenant_id, each) for each in said.former),
    )


def _thresholds_of(said: contract_pb2.Thresholds) -> Thresholds:
    return Thresholds(
        warn_below_bp=said.warn_below_bp,
        throttle_below_bp=said.throttle_below_bp,
        block_below_bp=said.block_below_bp,
        hysteresis_bp=said.hysteresis_bp,
        act_from_revenue_nanos=said.act_from_revenue_nanos,
        act_from_calls=said.act_from_calls,
        allowance=_allowance_of(said.allowance) if said.HasField("allowance") else None,
        source=said.source,
    )


def _allowance_of(said: contract_pb2.AllowanceThresholds) -> AllowanceThresholds:
    return AllowanceThresholds(
        warn_at_bp=said.warn_at_bp,
        throttle_at_bp=said.throttle_at_bp,
        block_at_bp=said.block_at_bp,
    )


def _guard_of(said: contract_pb2.Guard) -> Guard:
    """Read a guard; without a revenue, or with one of a kind from the future, it has no level."""
    own = said.WhichOneof("revenue") == "revenue_nanos"
    return Guard(
        guard_id=said.guard_id,
        features=frozenset(said.features),
        meters=tuple(said.meters),
        revenue_nanos=max(0, said.revenue_nanos) if own else None,
        revenue_share_bp=said.revenue_share_bp,
        thresholds=_thresholds_of(said.thresholds),
    )


def _quotas_of(tenant_id: str, quotas: Iterable[policy_pb2.Quota]) -> Iterable[Quota]:
    for quota in quotas:
        window = _WINDOWS.get(quota.window)
        if window is None:
            # Its usage is not told to the decision; charges and margin stay right.
            log.error("unknown window of a quota", tenant=tenant_id, quota=quota.quota_id)
            continue
        yield Quota(
            quota_id=quota.quota_id,
            meter=quota.meter,
            window=window,
            features=frozenset(quota.features),
            limit_units=quota.limit_units,
            soft=quota.soft,
        )


def book_of(value: bytes) -> PriceBook:
    """Turn a PriceBook into prices.

    Raises:
        UnreadableError: It is none.
    """
    try:
        said = contract_pb2.PriceBook.FromString(value)
    except DecodeError as error:
        raise UnreadableError("price book", "it is no message of its kind") from error
    return PriceBook(
        version=said.version,
        currency=said.currency,
        own=_lists_of(said.own),
        built_in=_lists_of(said.built_in),
    )


def _lists_of(messages: Iterable[contract_pb2.PriceList]) -> tuple[PriceList, ...]:
    return tuple(
        PriceList(
            provider=message.provider.lower(),
            model=message.model,
            match=_match_of(message.match) if message.HasField("match") else None,
            entries=tuple(_entries_of(message.entries)),
        )
        for message in messages
    )


def _entries_of(entries: Iterable[contract_pb2.PriceEntry]) -> Iterable[PriceEntry]:
    for entry in entries:
        if not entry.price_id or entry.price_nanos < 0 or entry.per_units <= 0:
            # Its usage is kept as unpriced, which is seen.
            log.error("a price makes no sense and is left out", price_id=entry.price_id)
            continue
        yield PriceEntry(
            price_id=entry.price_id,
            meter=entry.meter,
            price_nanos=entry.price_nanos,
            per_units=entry.per_units,
            effective_from_micros=entry.effective_from_micros,
            tier_input_tokens_from=entry.tier_input_tokens_from,
            source=entry.source,
            day_from_s=entry.day_from_s,
            day_to_s=entry.day_to_s,
        )


def _match_of(message: contract_pb2.ModelMatch) -> ModelMatch:
    rule = message.WhichOneof("rule")
    if rule is None:
        return NOTHING  # Of a kind from the future: the usage stays unpriced.
    kind = MatchKind(rule)
    if kind in {MatchKind.ANY_OF, MatchKind.ALL_OF}:
        parts = tuple(_match_of(part) for part in getattr(message, rule).matches)
        return ModelMatch(kind=kind, parts=parts)
    text: str = getattr(message, rule)
    if kind is not MatchKind.REGEX:
        return ModelMatch(kind=kind, text=text.lower())
    try:
        re.compile(text)
    except re.error as error:
        log.error("a model's expression can't be read", regex=text, error=str(error))
        return NOTHING
    return ModelMatch(kind=kind, text=text)
