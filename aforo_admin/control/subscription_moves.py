"""Tenants that come to another subscription by a change: the one before bills on, or is lost."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from aforo_admin.control.models_tenants import FormerSubscription, Subscription
from aforo_admin.control.recording import Change, Note
from aforo_admin.domain import catalog
from aforo_admin.domain.phasing import anchor_of
from aforo_admin.domain.problems import Problem, day
from aforo_meter.domain.periods import period_containing

SUBSCRIPTION: Final = str(Subscription._meta.verbose_name)
ID: Final = "subscription_id"
START: Final = "started_at"
Measure = tuple[str, datetime, datetime]  # Of which subscription, from when and until when.


def is_edit(note: Note, *columns: str) -> bool:
    """Say whether a note is of a subscription that changes in one of some columns."""
    is_change = note.kind == SUBSCRIPTION and note.before is not None and note.after is not None
    return is_change and any(each in (note.after or {}) for each in columns)


def lost(made: Change) -> Iterator[Problem]:
    """Find subscriptions that have begun and that nobody keeps: what they bill would be gone."""
    for note in made.notes:
        if not is_edit(note, ID):
            continue
        before = note.before or {}
        started_at = _start_before(note)
        known = FormerSubscription.objects.filter(
            tenant_id=note.tenant_id, subscription_id=before[ID]
        )
        if started_at <= made.at and not known.exists():
            yield Problem(
                path=("tenants", note.tenant_id, "subscription", "id"),
                message=f'"{before[ID]}" would be gone, and with it what it bills: keep its id, or'
                " end it (ended_at) and write it into former_subscriptions in the same change, by"
                " REST at the tenant or in the YAML",
            )


def _start_before(note: Note) -> datetime:
    said = (note.before or {}).get(START)
    if said is not None:
        return datetime.fromisoformat(said)
    held: datetime = Subscription.objects.values_list(START, flat=True).get(pk=note.tenant_id)
    return held


def measured_anew(
    held: catalog.Catalog,
    before: catalog.Subscription,
    after: catalog.Subscription,
    *,
    now: datetime,
) -> str:
    """Return what becomes of a margin that is measured otherwise from now on; empty: nothing.

    It is that of the billing period in force: no cost of before counts in another one. One that
    has not begun, or is over, has none.
    """
    is_over = before.ended_at is not None and before.ended_at <= now
    if before.started_at > now or is_over:
        return ""
    measured = _measure(held, after, now)
    if measured is None or measured == _measure(held, before, now):
        return ""
    return f"the margin is measured anew, from {day(measured[1])} on"


def _measure(
    held: catalog.Catalog, subscription: catalog.Subscription, now: datetime
) -> Measure | None:
    plan = held.plans.get(subscription.plan_at(now))
    if plan is None:
        return None  # The catalog's rules refuse it.
    period = period_containing(anchor_of(subscription, plan), plan.cadence, now)
    start = max(period.start, subscription.started_at)
    return subscription.subscription_id, start, period.end
