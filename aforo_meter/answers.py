"""What people ask ledger and read model: explain, statement, forecast. Nothing is written."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aforo_meter.command_arguments import CommandError
from aforo_meter.domain.forecast import Course, Standpoint, forecast
from aforo_meter.domain.inquiry import PeriodState, Record
from aforo_meter.domain.margin import Level
from aforo_meter.domain.periods import datetime_of
from aforo_meter.domain.statement import Statement, statement_of
from aforo_meter.domain.terms import Terms
from aforo_meter.explanation import Explanation
from aforo_meter.forecast_text import Forecast
from aforo_meter.inquiries import Choice, Inquiries
from aforo_meter.inquiries_sql import SqlInquiries
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.tenant_reading import Known, TenantReader, tenant_reader

UNKNOWN: Final = Known(terms=None, override=None, shadow=False, published=None)


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
    synced = await of.tenants.synced()
    record, known = await _asked(of, choice, now_micros=now_micros)
    return Explanation(
        record=record,
        statement=statement_of(record, known.terms, as_of_micros=now_micros),
        known=known,
        synced=synced,
        now_micros=now_micros,
    )


async def statement(of: Sources, choice: Choice, *, now_micros: int) -> tuple[Statement, Record]:
    """Return what a period bills, and what the ledger has of it.

    Raises:
        CommandError: Nobody knows the tenant, or its period, or Redis does not answer.
    """
    record, known = await _asked(of, choice, now_micros=now_micros)
    return statement_of(record, known.terms, as_of_micros=now_micros), record


async def tenant_forecast(of: Sources, tenant_id: str, *, now_micros: int) -> Forecast:
    """Return what is to be expected of a tenant's running period.

    Raises:
        CommandError: It has none, or no contract; or Redis does not answer.
    """
    choice = Choice(tenant_id=tenant_id, at_micros=now_micros)
    record, known = await _asked(of, choice, now_micros=now_micros)
    if known.terms is None:
        raise CommandError(
            f"tenant {tenant_id} has no contract, so no floors; see: aforo-admin show {tenant_id}"
        )
    return _forecast(record, known, known.terms, now_micros=now_micros)


async def forecasts(of: Sources, *, now_micros: int) -> list[Forecast]:
    """Return what is to be expected of every tenant with a level and a contract.

    Raises:
        CommandError: Redis does not answer, or holds what can't be understood.
    """
    tenant_ids = await of.inquiries.tenants()
    known = await of.tenants.known(tenant_ids)
    found = []
    for tenant_id in tenant_ids:
        terms = known[tenant_id].terms
        if terms is None:
            continue
        choice = Choice(tenant_id=tenant_id, at_micros=now_micros)
        record = await of.inquiries.record(choice) or _nothing_used(terms, now_micros)
        found.append(_forecast(record, known[tenant_id], terms, now_micros=now_micros))
    return found


async def _asked(of: Sources, choice: Choice, *, now_micros: int) -> tuple[Record, Known]:
    tenant_id = choice.tenant_id
    at_micros = now_micros if choice.at_micros is None else choice.at_micros
    if at_micros > now_micros:
        raise CommandError(f"{_day(at_micros)} is to come: nothing is known of it yet")
    known = (await of.tenants.known([tenant_id])).get(tenant_id, UNKNOWN)
    record = await of.inquiries.record(choice)
    if record is not None:
        return record, known
    if known.terms is None or choice.subscription_id not in (None, known.terms.subscription_id):
        whose = f"subscription {choice.subscription_id} of " if choice.subscription_id else ""
        raise CommandError(
            f"the ledger has nothing of {whose}tenant {tenant_id} at {_day(at_micros)}, and Redis"
            f" no contract; see: aforo-admin show {tenant_id}"
        )
    return _nothing_used(known.terms, at_micros), known


def _nothing_used(terms: Terms, at_micros: int) -> Record:
    """Return the record of a period in which nothing has happened yet."""
    return Record(
        state=PeriodState(
            tenant_id=terms.tenant_id,
            subscription_id=terms.subscription_id,
            period=terms.period_at(at_micros),
            in_force=False,
            level=Level.NONE,
            level_since_micros=None,
            revenue_nanos=None,
            allowance_nanos=None,
            cogs_nanos=0,
            unpriced_rows=0,
            currency=None,
            catalog_version=None,
            price_book_version=None,
            assessed_at_micros=None,
        )
    )


def _forecast(record: Record, known: Known, terms: Terms, *, now_micros: int) -> Forecast:
    state = record.state
    revenue_nanos = state.revenue_nanos
    if revenue_nanos is None:
        revenue_nanos = terms.committed_fee_nanos
    allowance_nanos = state.allowance_nanos
    if allowance_nanos is None:
        allowance_nanos = terms.allowance_nanos
    confirmed_micros = known.published.confirmed_micros if known.published else 0
    as_of_micros = min(now_micros, confirmed_micros or now_micros)
    at = Standpoint(
        period=state.period,
        as_of_micros=max(as_of_micros, state.period.start_micros),
        revenue=Course(now_nanos=revenue_nanos),
        allowance_nanos=allowance_nanos,
        cogs_nanos=state.cogs_nanos,
        cogs_by_hour=record.cogs_by_hour,
        thresholds=terms.thresholds,
        level=state.level,
    )
    return Forecast(
        tenant_id=state.tenant_id,
        subscription_id=state.subscription_id,
        currency=state.currency or terms.currency,
        at=at,
        outlooks=forecast(at),
    )


def _day(at_micros: int) -> str:
    return f"{datetime_of(at_micros):%Y-%m-%d}"
