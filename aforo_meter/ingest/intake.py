"""Events of one request: read, known or refused one by one, told apart from repeats, made durable.

It knows no HTTP. One event that is refused never fails the others.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from prometheus_client import Counter

from aforo_meter.domain.cloudevents import from_cloudevent
from aforo_meter.domain.ingest import DAY_MICROS, Reading, Rules
from aforo_meter.domain.ingest_faults import read_or_tell_all
from aforo_meter.domain.ingest_fields import HEARTBEAT_CUSTOMER
from aforo_meter.domain.ingest_values import Rejection, shown
from aforo_meter.domain.periods import datetime_of
from aforo_meter.ingest import codec
from aforo_meter.ingest.ages import Ages
from aforo_meter.ingest.durable import Durable, Record
from aforo_meter.ingest.events import record_of
from aforo_meter.ingest.keys import Key
from aforo_meter.ingest.ledger_look import LedgerLook, Pair
from aforo_meter.ingest.memory import Accepted, Sessions
from aforo_meter.ingest.tenants import MetricNames, Tenants

UNKNOWN_CUSTOMER: Final = "unknown_customer"
FORBIDDEN_CUSTOMER: Final = "forbidden_customer"
FORBIDDEN_CORRECTION: Final = "forbidden_correction"

# Others get their turn while a large batch is read: 10,000 events take a third of a second.
EVENTS_AT_ONCE: Final = 250
# Requests whose events are parsed: more at the same time cost memory and gain nothing.
READ_AT_ONCE: Final = 4

EVENTS = Counter("aforo_ingest_events_total", "Events, by what became of them.", ["as"])
REJECTED = Counter("aforo_ingest_rejected_total", "Rejected events, by field.", ["field"])
LATE = Counter("aforo_ingest_late_total", "Accepted events that were older than a day.")


@dataclass(slots=True)
class Outcome:
    """What became of a request's events."""

    accepted: int = 0
    duplicates: int = 0
    heartbeats: int = 0
    rejections: list[tuple[int, Rejection]] = field(default_factory=list)
    killed: Sequence[str] = ()


class Read(NamedTuple):
    """One event that could be read, and where it stood."""

    place: int  # In the request, from 0 on.
    event_id: str
    reading: Reading


class Known(NamedTuple):
    """One event whose tenant is known."""

    read: Read
    tenant_id: str  # "": a heartbeat of nobody yet.
    subscription_id: str

    @property
    def is_usage(self) -> bool:
        return self.read.reading.boundary is None


class Intake:
    """Lives in one event loop."""

    def __init__(
        self,
        *,
        topic: str,
        ages: Ages,
        names: MetricNames,
        tenants: Tenants,
        ledger: LedgerLook,
        accepted: Accepted,
        sessions: Sessions,
        durable: Durable,
    ) -> None:
        self._topic = topic
        self._ages = ages
        self._names = names
        self._tenants = tenants
        self._ledger = ledger
        self._accepted = accepted
        self._sessions = sessions
        self._durable = durable
        self._turns = asyncio.Semaphore(READ_AT_ONCE)

    async def take(
        self, key: Key, parse: Callable[[], Sequence[Any]], *, are_cloud: bool = False
    ) -> Outcome:
        """Take what can be taken of some events.

        Args:
            key: Who reports them.
            parse: Returns them. Called when it is this request's turn, since parsed events take
                ten times the memory of their text. What it raises is raised.
            are_cloud: They are CloudEvents.

        Raises:
            FullError: It can't be made durable now. The client is to send all of it again.
            RedisAwayError: A tenant is not known, and can't be asked for.
        """
        outcome = Outcome()
        async with self._turns:
            received_micros = time.time_ns() // 1000
            read = await self._read(parse(), outcome, received_micros, are_cloud=are_cloud)
            found = await self._known(key, read, outcome)
            new = await self._new(found, outcome)
            records = await self._records(new, received_micros)
        await self._durable.accept(records)
        # Only now: before, a retry of the client must not be taken for a repeat.
        self._accepted.add((one.tenant_id, one.read.event_id) for one in new)
        for one in found:
            if one.read.reading.session:
                self._sessions.mention(key.key_id, one.tenant_id, one.read.reading.session)
        self._count(new, outcome)
        outcome.killed = self._sessions.killed(key.key_id)
        return outcome

    async def _read(
        self, events: Sequence[Any], outcome: Outcome, received_micros: int, *, are_cloud: bool
    ) -> list[Read]:
        rules = Rules(
            metrics=self._names.metrics,
            now_micros=received_micros,
            age_micros_max=self._ages.days_max * DAY_MICROS,
            encode=codec.encode,
        )
        read = _cloud_reader(received_micros, rules) if are_cloud else _reader(rules)
        found: list[Read] = []
        for index, event in enumerate(events):
            if index % EVENTS_AT_ONCE == EVENTS_AT_ONCE - 1:
                await asyncio.sleep(0)
            try:
                event_id, reading = read(event)
            except Rejection as rejection:
                outcome.rejections.append((index, rejection))
            else:
                found.append(Read(index, event_id, reading))
        return found

    async def _known(self, key: Key, found: Sequence[Read], outcome: Outcome) -> list[Known]:
        """Return the events of tenants that exist and that the key may report for."""
        subscriptions = await self._tenants.subscriptions(
            {one.reading.customer_id for one in found}
        )
        known: list[Known] = []
        for one in found:
            tenant_id = one.reading.customer_id
            subscription = subscriptions[tenant_id]
            if subscription is None and _is_nobodys_heartbeat(one.reading):
                known.append(self._adopted(key, one))
                continue
            if subscription is None:
                problem = (
                    f"no tenant {shown(tenant_id)}; add it to the catalog, or correct the"
                    " customerId"
                )
                rejection = Rejection("customerId", problem, kind=UNKNOWN_CUSTOMER)
            elif not key.may_report(tenant_id):
                problem = f"this key may not report the usage of {shown(tenant_id)}"
                rejection = Rejection("customerId", problem, kind=FORBIDDEN_CUSTOMER)
            elif one.reading.decision_id and not key.may_correct:
                problem = "this key lacks the scope usage:correct"
                rejection = Rejection("aforoDecisionId", problem, kind=FORBIDDEN_CORRECTION)
            else:
                known.append(Known(one, tenant_id, subscription))
                continue
            outcome.rejections.append((one.place, rejection))
        outcome.rejections.sort(key=lambda pair: pair[0])
        return known

    def _adopted(self, key: Key, one: Read) -> Known:
        """Return a heartbeat of nobody as one of whoever uses its session, if that is known."""
        tenant_id = self._sessions.tenant_of(key.key_id, one.reading.session)
        reading = one.reading if tenant_id else one.reading._replace(measures=())
        return Known(one._replace(reading=reading), tenant_id, "")

    async def _new(self, found: Sequence[Known], outcome: Outcome) -> list[Known]:
        """Return the events that nobody has seen: not here, not in this request, not the ledger."""
        unseen: dict[Pair, Known] = {}
        for one in found:
            pair = (one.tenant_id, one.read.event_id)
            if pair not in unseen and pair not in self._accepted:
                unseen[pair] = one
        for pair in await self._ledger.seen(unseen):
            unseen.pop(pair, None)
        new = list(unseen.values())
        outcome.accepted = sum(one.is_usage for one in new)
        outcome.heartbeats = len(new) - outcome.accepted
        outcome.duplicates = sum(one.is_usage for one in found) - outcome.accepted
        return new

    async def _records(self, new: Sequence[Known], received_micros: int) -> list[Record]:
        records: list[Record] = []
        for index, one in enumerate(new):
            if index % EVENTS_AT_ONCE == EVENTS_AT_ONCE - 1:
                await asyncio.sleep(0)
            records.append(
                record_of(
                    one.read.reading,
                    topic=self._topic,
                    event_id=one.read.event_id,
                    tenant_id=one.tenant_id,
                    subscription_id=one.subscription_id,
                    received_micros=received_micros,
                )
            )
        return records

    def _count(self, new: Sequence[Known], outcome: Outcome) -> None:
        EVENTS.labels("accepted").inc(outcome.accepted)
        EVENTS.labels("duplicate").inc(outcome.duplicates)
        EVENTS.labels("heartbeat").inc(outcome.heartbeats)
        EVENTS.labels("rejected").inc(len(outcome.rejections))
        for _, rejection in outcome.rejections:
            REJECTED.labels(rejection.field).inc()
        LATE.inc(sum(one.read.reading.late for one in new))


def _is_nobodys_heartbeat(reading: Reading) -> bool:
    return reading.boundary is not None and reading.customer_id == HEARTBEAT_CUSTOMER


def _reader(rules: Rules) -> Callable[[Any], tuple[str, Reading]]:
    def read(event: Any) -> tuple[str, Reading]:  # noqa: ANN401 - of JSON.
        reading = read_or_tell_all(event, rules)
        return f"ik:{reading.idempotency_key}", reading

    return read


def _cloud_reader(received_micros: int, rules: Rules) -> Callable[[Any], tuple[str, Reading]]:
    received = datetime_of(received_micros).isoformat()

    def read(event: Any) -> tuple[str, Reading]:  # noqa: ANN401 - of JSON.
        event_id, ours = from_cloudevent(event, received=received)
        return event_id, read_or_tell_all(ours, rules)

    return read
