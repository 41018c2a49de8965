"""One batch of usage into the ledger, and what it means for margins: all in one transaction."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from aforo_meter.domain.margin import Assessment, Level, MarginState, assess
from aforo_meter.domain.periods import PeriodMicros, datetime_of
from aforo_meter.domain.prices import Prices
from aforo_meter.domain.quotas import window_of
from aforo_meter.domain.rating import HOUR_MICROS, MICROS_PER_UNIT, Rated, Usage, rate, sums
from aforo_meter.domain.revenue import revenue_nanos
from aforo_meter.domain.terms import NO_SUBSCRIPTION, Terms
from aforo_meter.ledger import (
    Ledger,
    Message,
    Partition,
    PeriodKey,
    Standing,
    Transaction,
    UnpricedRow,
)

log = structlog.get_logger()

ALERT_KIND: Final = "margin.level_changed"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What posting needs to know of tenants: look-ups that never wait."""

    terms: Callable[[str], Terms | None]
    prices: Callable[[str], Prices]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records of one partition, in order, as far as they could be read."""

    partition: Partition
    first_offset: int
    next_offset: int  # Behind the last record; offsets may have gaps.
    usages: tuple[Usage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the next decision should know of one tenant."""

    terms: Terms
    period: PeriodMicros
    assessment: Assessment
    unpriced_rows: int
    quota_usages: tuple[tuple[str, int, int], ...]  # (quota id, window start, used units)
    as_of_micros: int


def post(ledger: Ledger, batch: Batch, knowledge: Knowledge, *, now_micros: int) -> list[Verdict]:
    """Commit a batch: charges, position, levels, alerts. Return the margins to publish.

    Raises:
        PartitionLostError: Another consumer has gone on from here; nothing was written.
        LedgerError: The ledger refused the batch; nothing was written.
    """
    with ledger.transaction() as transaction:
        transaction.advance(
            batch.partition, first_offset=batch.first_offset, next_offset=batch.next_offset
        )
        fresh = transaction.keep_new(
            (usage.tenant_id, usage.event_id, usage.hour_start_micros) for usage in batch.usages
        )
        usages = _once_each(batch.usages, fresh)
        rated = [_rate(usage, knowledge) for usage in usages]
        transaction.learn_prices(entry for one in rated for entry in one.prices)
        transaction.add(sums(rated))
        transaction.count(Counter(one.intervention for one in rated if one.intervention))
        touched = sorted({usage.tenant_id for usage in usages})
        return judge(transaction, touched, knowledge, now_micros=now_micros)


def reassess(
    ledger: Ledger, tenant_ids: Sequence[str], knowledge: Knowledge, *, now_micros: int
) -> list[Verdict]:
    """Look at tenants anew: their contract, the prices or the period may have changed."""
    with ledger.transaction() as transaction:
        for row in transaction.unpriced(tenant_ids):
            _reprice(transaction, row, knowledge)
        return judge(transaction, tenant_ids, knowledge, now_micros=now_micros)


def judge(
    transaction: Transaction,
    tenant_ids: Iterable[str],
    knowledge: Knowledge,
    *,
    now_micros: int,
) -> list[Verdict]:
    """Assess the current period of each tenant that has a contract; record what changed."""
    verdicts = []
    for tenant_id in tenant_ids:
        terms = knowledge.terms(tenant_id)
        if terms is not None:
            verdicts.append(_judge(transaction, terms, now_micros))
    return verdicts


def _once_each(usages: Iterable[Usage], fresh: set[tuple[str, str]]) -> list[Usage]:
    """Return the usages that were not seen before; one that comes twice in the batch, once."""
    left = set(fresh)
    kept = []
    for usage in usages:
        pair = (usage.tenant_id, usage.event_id)
        if pair in left:
            left.discard(pair)
            kept.append(usage)
    return kept


def _rate(usage: Usage, knowledge: Knowledge) -> Rated:
    terms = knowledge.terms(usage.tenant_id) or without_contract(usage.tenant_id)
    return rate(
        usage,
        knowledge.prices(usage.tenant_id),
        subscription_id=terms.subscription_id,
        period_start_micros=terms.period_at(usage.occurred_at_micros).start_micros,
    )


def _reprice(transaction: Transaction, row: UnpricedRow, knowledge: Knowledge) -> None:
    """Give an unpriced row the price of its hour, if there is one now.

    The row has forgotten its requests: a price that starts within the hour holds for all of it,
    and a tier that depends on a request's size is the lowest.
    """
    key = row.key
    for at_micros in (key.hour_start_micros, key.hour_start_micros + HOUR_MICROS - 1):
        entry = knowledge.prices(key.tenant_id).price_of(
            key.meter,
            provider=key.provider,
            model=key.model,
            at_micros=at_micros,
            input_tokens=0,
        )
        if entry is not None:
            transaction.learn_prices([entry])
            transaction.reprice(row, entry.price_id)
            log.info(
                "unpriced usage rated",
                tenant=key.tenant_id,
                meter=key.meter,
                model=key.model,
                price=entry.price_id,
            )
            return


def _judge(transaction: Transaction, terms: Terms, now_micros: int) -> Verdict:
    period = terms.period_at(now_micros)
    key = PeriodKey(terms.tenant_id, terms.subscription_id, period.start_micros)
    standing = transaction.standing(key)
    assessment = assess(
        revenue_nanos=revenue_nanos(terms),
        cogs_nanos=transaction.cogs_nanos(key),
        allowance_nanos=terms.allowance_nanos,
        thresholds=terms.thresholds,
        previous=standing.level,
    )
    verdict = Verdict(
        terms=terms,
        period=period,
        assessment=assessment,
        unpriced_rows=transaction.unpriced_rows(key),
        quota_usages=_quota_usages(transaction, terms, period, now_micros),
        as_of_micros=now_micros,
    )
    if assessment.level is not standing.level:
        number = standing.transitions + 1
        transaction.record(
            key, Standing(level=assessment.level, transitions=number), now_micros=now_micros
        )
        transaction.enqueue(alert(verdict, key, before=standing.level, number=number))
        log.info(
            "margin level changed",
            tenant=terms.tenant_id,
            before=standing.level.name.lower(),
            after=assessment.level.name.lower(),
            cogs_nanos=assessment.cogs_nanos,
            revenue_nanos=assessment.revenue_nanos,
        )
    return verdict


def _quota_usages(
    transaction: Transaction, terms: Terms, period: PeriodMicros, now_micros: int
) -> tuple[tuple[str, int, int], ...]:
    usages = []
    for quota in terms.quotas:
        window = window_of(quota, period=period, now_micros=now_micros)
        if window is None:
            continue
        rows = transaction.used_micros(
            terms.tenant_id, quota.meter, from_micros=window.start_micros
        )
        used_micros = sum(micros for features, micros in rows if quota.counts(features.split(",")))
        usages.append((quota.quota_id, window.start_micros, used_micros // MICROS_PER_UNIT))
    return tuple(usages)


def without_contract(tenant_id: str) -> Terms:
    """Return the terms of usage that no contract covers: by calendar month, never a margin."""
    return Terms(tenant_id=tenant_id, subscription_id=NO_SUBSCRIPTION)


def alert(verdict: Verdict, key: PeriodKey, *, before: Level, number: int) -> Message:
    """Return the message that tells of a change of level.

    Its id follows from tenant, period and the number of the change, so that a batch that is
    worked through again makes the same message.
    """
    terms, assessment = verdict.terms, verdict.assessment
    ratio = assessment.gross_margin_ratio
    floors = terms.thresholds
    after = assessment.level
    now = datetime_of(verdict.as_of_micros).isoformat()
    payload = {
        "type": ALERT_KIND,
        "timestamp": now,
        "data": {
            "tenant": terms.tenant_id,
            "subscription": terms.subscription_id,
            "plan": terms.plan_id,
            "period_start": datetime_of(verdict.period.start_micros).isoformat(),
            "period_end": datetime_of(verdict.period.end_micros).isoformat(),
            "from": before.name.lower(),
            "to": after.name.lower(),
            "direction": "worse" if after > before else "better",
            "margin_state": assessment.state.value,
            "gross_margin_ratio": None if ratio is None else str(ratio),
            "revenue_nanos": assessment.revenue_nanos,
            "cogs_nanos": assessment.cogs_nanos,
            "allowance_nanos": assessment.allowance_nanos
            if assessment.state is MarginState.UNDEFINED
            else None,
            "currency": terms.currency,
            "thresholds": {
                "warn_below_bp": floors.warn_below_bp,
                "throttle_below_bp": floors.throttle_below_bp,
                "block_below_bp": floors.block_below_bp,
                "hysteresis_bp": floors.hysteresis_bp,
                "source": floors.source,
            },
            "unpriced_rows": verdict.unpriced_rows,
            "as_of": now,
        },
    }
    identity = "|".join(map(str, (*key, number)))
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return Message(
        message_id=f"msg_{digest[:32]}",
        tenant_id=terms.tenant_id,
        kind=ALERT_KIND,
        payload=json.dumps(payload, separators=(",", ":")),
        created_at_micros=verdict.as_of_micros,
    )
