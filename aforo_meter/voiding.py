"""`aforo-meter void`: usage taken back, as adjustments: all that rows have left, or one event's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from aforo_meter import events
from aforo_meter.command_arguments import CommandError
from aforo_meter.contracts import Contracts
from aforo_meter.correction_effects import Effect, effects, read_before
from aforo_meter.corrections import ChangedMeanwhileError, Corrections, Scope, Take
from aforo_meter.domain.corrections import (
    NOTHING,
    Adjustment,
    Known,
    Row,
    changed,
    taken_of_event,
)
from aforo_meter.domain.event_search import Search
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rating import ChargeKey, Usage, key_of
from aforo_meter.ledger import TooLargeError
from aforo_meter.ledger_adjusting import Order
from aforo_meter.progress import Progress
from aforo_meter.rerating import BATCH_ROWS_MAX, known_terms
from aforo_meter.wire import UnreadableEventError, usage_of
from aforo_proto.usage_pb2 import UsageEvent

KEYED: Final = "ik:"  # Before an idempotency key: the id of usage that came with one.
CALL: Final = "call:"  # Before a decision id: a whole call was taken back, not one event of it.


@dataclass(slots=True, kw_only=True)
class Voided:
    """What was taken back, or would be."""

    effects: Sequence[Effect] = ()
    adjustments: Sequence[Adjustment] = ()
    was_done_before: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be taken back of a tenant."""

    tenant_id: str
    takes: Sequence[Take]
    rows: Mapping[ChargeKey, Row] = field(repr=False)  # As they are; at least those of `takes`.
    voided: str = ""  # The event or call that it is all of; "": neither.
    decision_id: str = ""


class Voiding:
    """One run.

    Args:
        corrections: The ledger.
        contracts: Contracts and prices, as sync wrote them.
        order: Who wants it, and why; None: nothing is written, this is a preview.
    """

    def __init__(self, corrections: Corrections, contracts: Contracts, order: Order | None) -> None:
        self._corrections = corrections
        self._contracts = contracts
        self._order = order

    async def rows(self, scope: Scope) -> Voided:
        """Take back all that a tenant's rows in scope have.

        Raises:
            CommandError: It can't be done.
        """
        assert scope.tenant_id is not None
        rows = await self._corrections.rows(scope)
        takes = [Take(key, None) for key, row in sorted(rows.items()) if row.quantity_micros]
        return await self._carry_out(Plan(tenant_id=scope.tenant_id, takes=takes, rows=rows))

    async def event(self, usage: Usage) -> Voided:
        """Take back one event; of a call that several events tell of, the whole call.

        Raises:
            CommandError: The ledger has not counted it, or has not so much; or it can't be asked.
        """
        tenant_id = usage.tenant_id
        decision_id = usage.call.decision_id if usage.call is not None else ""
        voided = CALL + decision_id if decision_id else usage.event_id
        if await self._corrections.is_voided(tenant_id, voided):
            return Voided(was_done_before=True)
        if not await self._corrections.was_seen(key_of(usage)):
            raise CommandError(
                f"the ledger does not know event {usage.event_id!r} of {tenant_id!r}: it was not"
                " counted (yet), or so long ago that its id is forgotten; to take back whole hours,"
                " name --from and --to"
            )
        if decision_id:
            takes = await self._corrections.parts(tenant_id, decision_id)
        else:
            takes = await self._takes_of(usage)
        if not takes:
            raise CommandError(f"nothing is counted of event {usage.event_id!r}")
        hours = [take.key.hour_start_micros for take in takes]
        span = PeriodMicros(min(hours), max(hours) + HOUR_MICROS)
        rows = await self._corrections.rows(Scope(tenant_id=tenant_id, hours=span))
        return await self._carry_out(
            Plan(
                tenant_id=tenant_id, takes=takes, rows=rows, voided=voided, decision_id=decision_id
            )
        )

    async def _takes_of(self, usage: Usage) -> Sequence[Take]:
        await known_terms(self._contracts, usage.tenant_id)
        hour = PeriodMicros(usage.hour_start_micros, usage.hour_start_micros + HOUR_MICROS)
        rows = await self._corrections.rows(Scope(tenant_id=usage.tenant_id, hours=hour))
        known = await self._corrections.prices()
        prices = self._contracts.prices(usage.tenant_id)
        takes = []
        for meter, taken in taken_of_event(usage, rows, known, prices).items():
            if not taken:
                raise CommandError(
                    f"the ledger has less {meter} of {usage.tenant_id!r} in that hour than the"
                    " event says; was it taken back with its hour?"
                )
            takes += [Take(one.key, (one.quantity_micros, one.extra_micros)) for one in taken]
        return takes

    async def _carry_out(self, plan: Plan) -> Voided:
        terms = await known_terms(self._contracts, plan.tenant_id)
        before = await read_before(self._corrections, plan.tenant_id, terms)
        if self._order is None:
            adjustments = _planned(plan, await self._corrections.prices())
        else:
            adjustments = await self._written(plan, replace(self._order, voided=plan.voided))
        return Voided(effects=effects(before, adjustments), adjustments=adjustments)

    async def _written(self, plan: Plan, order: Order) -> list[Adjustment]:
        written: list[Adjustment] = []
        takes = plan.takes
        progress = Progress("taking back", len(takes))
        # An event is taken back as a whole, or not at all.
        at_once = max(1, len(takes)) if plan.voided else BATCH_ROWS_MAX
        try:
            for start in range(0, len(takes), at_once):
                some = takes[start : start + at_once]
                written += await self._corrections.void(some, order, decision_id=plan.decision_id)
                progress.at(start + len(some))
        except ChangedMeanwhileError as error:
            raise CommandError(str(error)) from error
        except TooLargeError as error:
            raise CommandError(f"{error}; its rows can't be taken back") from error
        finally:
            progress.end()
        return written


async def find_event(
    event_id: str, tenant_id: str, period: PeriodMicros, *, bootstrap: str, topic: str
) -> Usage:
    """Find an event in Kafka: the ledger keeps sums alone.

    Args:
        event_id: Its id; or an idempotency key, if no event has that for its id.
        tenant_id: Whose it is.
        period: When it occurred.
        bootstrap: Kafka.
        topic: Of usage.

    Raises:
        CommandError: It is not there (any more), or can't be read.
    """
    names = (event_id, KEYED + event_id)
    search = Search(period=period, tenant_id=tenant_id, event_ids=frozenset(names))
    keyed = None
    async for _, event in events.matching(search, bootstrap=bootstrap, topic=topic):
        if event.event_id == event_id:
            return _read(event)
        keyed = event
    if keyed is not None:
        return _read(keyed)
    raise CommandError(
        f"kafka has no event {event_id!r} of {tenant_id!r} (any more) that occurred in this time,"
        f" nor {KEYED + event_id!r}, the id of usage with that idempotency key;"
        " --from reaches further back; to take back whole hours, name --from and --to without"
        " --event"
    )


def _planned(plan: Plan, prices: Mapping[str, Known]) -> list[Adjustment]:
    """Return what will be written, as far as nothing changes until then."""
    made = []
    for key, amounts in plan.takes:
        row = plan.rows.get(key, NOTHING)
        quantity_micros, extra_micros = amounts or row[:2]
        price = prices.get(key.price_id)
        made.append(Adjustment(key, changed(row, -quantity_micros, -extra_micros, price=price)))
    return made


def _read(event: UsageEvent) -> Usage:
    try:
        return usage_of(event.SerializeToString())
    except UnreadableEventError as error:
        raise CommandError(f"event {event.event_id!r} was never counted: {error}") from error
