"""What people ask ledger and read model: explain, statement, forecast. Nothing is written."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aforo_meter.command_arguments import CommandError
from aforo_meter.domain.forecast import Instant, RevenueAt, Standpoint, forecast
from aforo_meter.domain.inquiry import PeriodState, Record
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import datetime_of
from aforo_meter.domain.revenue import MissingRateError, exchange_rate
from aforo_meter.domain.statement import Statement, revenue_of, statement_of, terms_for
from aforo_meter.domain.terms import RevenueBasis, Terms
from aforo_meter.explanation import Explanation, guards_of
from aforo_meter.forecast_text import Forecast, Prospect
from aforo_meter.inquiries import Choice, Inquiries
from aforo_meter.inquiries_sql import SqlInquiries
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.tenant_reading import Known, Synced, TenantReader, tenant_reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where answers come from."""

    inquiries: Inquiries
    tenants: TenantReader


@asynccontextmanager
async def sources(ledger_url: str, redis_url: str) -> AsyncIterator[Sources]:
    """Open ledger and Redis.

    Raises:
        LedgerError, LedgerUnavailableError: The ledger can't be used.
    """
    async with SqlLedger(ledger_url) as ledger, tenant_reader(redis_url) as tenants:
        yield Sources(inquiries=SqlInquiries(ledger), tenants=tenants)


async def explanation(of: Sources, choice: Choice, *, now_micros: int) -> Explanation:
    """Return what a tenant's level follows from.

    Raises:
        CommandError: Nobody knows the tenant, or its period, or Redis does not answer.
    """
    asked = await _ask(of, choice, now_micros=now_micros)
    return Explanation(
        record=asked.record,
        statement=statement_of(
            asked.record, asked.known.terms, as_of_micros=now_micros, accrued_to_micros=now_micros
        ),
        known=asked.known,
        synced=asked.synced,
        now_micros=now_micros,
    )


async def statement(of: Sources, choice: Choice, *, now_micros: int) -> tuple[Statement, Record]:
    """Return what a period bills, and what the ledger has of it.

    Raises:
        CommandError: Nobody knows the tenant, or its period, or Redis does not answer.
    """
    asked = await _ask(of, choice, now_micros=now_micros)
    told = statement_of(asked.record, asked.known.terms, as_of_micros=now_micros)
    return told, asked.record


async def tenant_forecast(of: Sources, tenant_id: str, *, now_micros: int) -> Forecast:
    """Return what is to be expected of a tenant's running period.

    Raises:
        CommandError: It has none, or no contract; or Redis does not answer.
    """
    choice = Choice(tenant_id=tenant_id, at_micros=now_micros)
    asked = await _ask(of, choice, now_micros=now_micros)
    if asked.known.terms is None:
        raise CommandError(
            f"tenant {tenant_id} has no contract, so no floors; see: aforo-admin show {tenant_id}"
        )
    return _forecast(asked.record, asked.known, asked.known.terms, now_micros=now_micros)


async def forecasts(of: Sources, *, now_micros: int) -> tuple[list[Forecast], int]:
    """Return what is to be expected of every tenant with a level and a contract.

    And how many with a level are left out, because they have no contract.

    Raises:
        CommandError: Redis does not answer, or holds what can't be understood.
    """
    tenant_ids = await of.inquiries.tenants()
    known = await of.tenants.known(tenant_ids)
    currency = (await of.tenants.synced()).currency
    found = []
    for tenant_id in tenant_ids:
        terms = known[tenant_id].terms
        if terms is None:
            continue
        choice = Choice(tenant_id=tenant_id, at_micros=now_micros)
        record = await of.inquiries.record(choice)
        if record is None:
            record = _nothing_used(terms, now_micros, book_currency=currency)
        found.append(_forecast(record, known[tenant_id], terms, now_micros=now_micros))
    return found, len(tenant_ids) - len(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    record: Record
    known: Known
    synced: Synced


async def _ask(of: Sources, choice: Choice, *, now_micros: int) -> _Asked:
    tenant_id = choice.tenant_id
    at_micros = now_micros if choice.at_micros is None else choice.at_micros
    if at_micros > now_micros:
        raise CommandError(f"{_day(at_micros)} is to come: nothing is known of it yet")
    synced = await of.tenants.synced()
    known = (await of.tenants.known([tenant_id]))[tenant_id]
    record = await of.inquiries.record(choice)
    if record is None:
        terms = known.terms
        if terms is None or choice.subscription_id not in (None, terms.subscription_id):
            whose = f"subscription {choice.subscription_id} of " if choice.subscription_id else ""
            raise CommandError(
                f"the ledger has nothing of {whose}tenant {tenant_id} at {_day(at_micros)}, and"
                f" Redis no contract; see: aforo-admin show {tenant_id}"
            )
        begins_micros = terms.begin_of(terms.period_at(at_micros))
        if begins_micros >= terms.period_at(at_micros).end_micros:
            raise CommandError(
                f"subscription {terms.subscription_id} of tenant {tenant_id} begins"
                f" {_day(begins_micros)}: of {_day(at_micros)} there is nothing"
            )
        record = _nothing_used(terms, at_micros, book_currency=synced.currency)
    return _Asked(record=record, known=known, synced=synced)


def _nothing_used(terms: Terms, at_micros: int, *, book_currency: str) -> Record:
    """Return the record of a period in which nothing has happened yet."""
    period = terms.period_at(at_micros)
    state = PeriodState(
        tenant_id=terms.tenant_id,
        subscription_id=terms.subscription_id,
        period=period,
        in_force=False,
        level=Level.NONE,
        level_since_micros=None,
        revenue_nanos=None,
        allowance_nanos=round(terms.allowance_nanos * terms.covered(period)),
        cogs_nanos=0,
        estimated_cogs_nanos=0,
        unpriced_rows=0,
        currency=book_currency,
        contract_currency=None,
        contract_revenue_nanos=None,
        catalog_version=None,
        price_book_version=None,
        assessed_at_micros=None,
    )
    try:
        told = revenue_of(
            Record(state=state), terms, now_micros=at_micros, book_currency=book_currency
        )
    except MissingRateError:
        return Record(state=state)  # No margin can be measured, by consume neither.
    return Record(state=replace(state, revenue_nanos=told.book_nanos))


def _forecast(record: Record, known: Known, terms: Terms, *, now_micros: int) -> Forecast:
    state = record.state
    confirmed_micros = known.published.confirmed_micros if known.published else 0
    at = Standpoint(
        period=state.period,
        as_of_micros=max(
            min(now_micros, confirmed_micros or now_micros), state.period.start_micros
        ),
        account_by_hour=record.account_by_hour,
        revenue_at=_revenue_at(record, terms),
        allowance_nanos=state.allowance_nanos or 0,
        thresholds=terms.thresholds,
        level=state.level,
    )
    guards = [
        replace(
            at,
            allowance_nanos=0,
            thresholds=one.guard.thresholds,
            level=one.state.level,
            guard=one.guard,
        )
        for one in guards_of(record, terms)
        if one.guard is not None
    ]
    return Forecast(
        tenant_id=state.tenant_id,
        subscription_id=state.subscription_id,
        currency=state.currency or terms.currency,
        margins=tuple(Prospect(at=one, outlooks=forecast(one)) for one in (at, *guards)),
    )


def _revenue_at(record: Record, terms: Terms) -> RevenueAt:
    """Return how revenue goes on: with usage by the rate card, with time where fees accrue."""
    state = record.state
    fixed_nanos = state.revenue_nanos or 0
    known, currency = terms_for(record, terms), state.currency
    if known is None or currency is None:
        return lambda _: fixed_nanos
    accrues = known.basis is RevenueBasis.ACCRUED
    if not accrues and known.card_of(state.period) is None:
        return lambda _: fixed_nanos
    if exchange_rate(known, state.period, book_currency=currency) is None:
        return lambda _: fixed_nanos

    def revenue_at(then: Instant) -> int:
        return revenue_of(
            record,
            known,
            now_micros=then.at_micros,
            book_currency=currency,
            account=then.account,
        ).book_nanos

    return revenue_at


def _day(at_micros: int) -> str:
    return f"{datetime_of(at_micros):%Y-%m-%d}"
