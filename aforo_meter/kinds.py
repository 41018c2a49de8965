"""Usage added up before it is rated: events that differ in nothing but their quantities.

Rating many events of a kind at once comes to the same as rating each, as long as their price can't
depend on more than their kind. Which kinds that holds for is decided here; all other events are
read, and rated, one by one.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError

from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import PriceEntry, Prices
from aforo_meter.domain.rating import (
    INPUT_METERS,
    MICROS_PER_UNIT,
    UNPRICED,
    ChargeKey,
    Rated,
    Usage,
    depends_on_size,
    intervention_of,
)
from aforo_meter.domain.seen import event_key
from aforo_meter.domain.usage import UNITS_MAX, Outcome
from aforo_meter.wire import GATEWAY, REPORTED_LENGTH
from aforo_proto import usage_pb2

KINDS_MAX: Final = 50_000  # Some 100 MB. One of a tenant, model and hour is the usual.

Name = tuple[Any, ...]


class Kind:
    """What events of a kind have in common, and what of them is added up at the moment."""

    __slots__ = (
        *("_prices", "_refused", "cells", "event_keys", "keys", "oldest_micros", "period"),
        *("priced", "subscription_id", "tokens_below", "usage"),
    )

    def __init__(
        self,
        usage: Usage,
        prices: Prices,
        refused_price_ids: Collection[str],
        *,
        subscription_id: str,
        period: PeriodMicros,
    ) -> None:
        self.usage = usage
        self.subscription_id = subscription_id
        self.period = period
        self._prices = prices
        self._refused = refused_price_ids
        self.keys: dict[str, ChargeKey] = {}
        self.priced: dict[str, PriceEntry] = {}
        # From so many input tokens on another price may hold; 0: never.
        self.tokens_below = 0
        self.cells: dict[str, list[int]] = {}  # By meter: the sum in 10^-6 units.
        self.event_keys: list[bytes] = []
        self.oldest_micros = usage.occurred_at_micros

    def learn(self, meter: str) -> bool:
        """Find a meter's price; return False if it is not one for all events of the kind."""
        usage = self.usage
        if not meter or usage.outcome is Outcome.BLOCK:
            return False  # It can't be read, or says that it was refused and yet used something.
        found = self._prices.price_throughout(
            meter,
            provider=usage.provider,
            model=usage.model,
            hour_start_micros=usage.hour_start_micros,
        )
        if found is None:
            return False
        entry, tokens_below = found
        if entry is not None and entry.price_id in self._refused:
            entry = None
        if entry is None and depends_on_size(meter):
            return False
        if tokens_below:
            self.tokens_below = min(tokens_below, self.tokens_below or tokens_below)
        if entry is not None:
            self.priced[meter] = entry
        self.keys[meter] = ChargeKey(
            tenant_id=usage.tenant_id,
            subscription_id=self.subscription_id,
            period_start_micros=self.period.start_micros,
            hour_start_micros=usage.hour_start_micros,
            feature=",".join(usage.features),
            meter=meter,
            provider=usage.provider,
            model=usage.model,
            price_id=UNPRICED if entry is None else entry.price_id,
            input_tokens=0,
            tool=usage.tool,
            execution_status=usage.execution_status,
        )
        self.cells[meter] = [0]
        return True

    def take(self) -> Rated:
        """Return what was added up, and begin anew."""
        charges = []
        for meter, cell in self.cells.items():
            if cell[0]:
                charges.append((self.keys[meter], cell[0]))
                cell[0] = 0
        event_keys, self.event_keys = self.event_keys, []
        return Rated(
            tenant_id=self.usage.tenant_id,
            event_keys=event_keys,
            subscription_id=self.subscription_id,
            period=self.period,
            charges=tuple(charges),
            prices=tuple(self.priced.values()),
            intervention=intervention_of(self.usage),
            usage=self.usage,
        )


@dataclass(slots=True)
class Tally:
    """What came of some records so far."""

    rated: list[Rated] = field(default_factory=list)
    rest: list[tuple[Any, Any]] = field(default_factory=list)  # Records and events: one by one.
    unreadable: list[Any] = field(default_factory=list)  # Records that are no events.
    counted: set[bytes] = field(default_factory=set)  # Events that are not to count again.
    repeated: int = 0
    late: int = 0
    oldest_micros: dict[str, int] = field(default_factory=dict)  # By tenant.

    def note_time(self, tenant_id: str, at_micros: int) -> None:
        known = self.oldest_micros.get(tenant_id)
        if known is None or at_micros < known:
            self.oldest_micros[tenant_id] = at_micros


class Kinds:
    """Kinds that were met, as long as contracts and prices stay as they are."""

    def __init__(self) -> None:
        self._kinds: dict[Name, Kind] = {}

    def __contains__(self, name: Name) -> bool:
        return name in self._kinds

    def clear(self) -> None:
        self._kinds.clear()

    def add_up(self, records: Iterable[Any], tally: Tally, *, latest_micros: int) -> None:
        """Add up records of known kinds, and put all others on `tally.rest`, in their order.

        Args:
            records: Of one partition.
            tally: What comes of them.
            latest_micros: Until when an event may have occurred.
        """
        parse, kinds, rest, counted = _parse, self._kinds, tally.rest, tally.counted
        touched: list[Kind] = []
        for record in records:
            value = record.value
            try:
                event = parse(value or b"")
            except DecodeError:
                tally.unreadable.append(record)
                continue
            name = name_of(event)
            kind = None if name is None else kinds.get(name)
            if kind is None or event.occurred_at_micros > latest_micros or b"\0" in value:
                rest.append((record, event))
                continue
            parts = _parts_of(event, kind)
            if parts is None:
                rest.append((record, event))
                continue
            key = event_key(event.tenant_id, event.event_id)
            if key in counted:
                tally.repeated += 1
                continue
            counted.add(key)
            if not kind.event_keys:
                touched.append(kind)
                kind.oldest_micros = event.occurred_at_micros
            elif event.occurred_at_micros < kind.oldest_micros:
                kind.oldest_micros = event.occurred_at_micros
            kind.event_keys.append(key)
            for cell, units, micros in parts:
                cell[0] += units * MICROS_PER_UNIT + micros  # type: ignore[index]
        _take(touched, tally)

    def add(self, name: Name, kind: Kind) -> None:
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        self._kinds[name] = kind


_parse = usage_pb2.UsageEvent.FromString


def _take(touched: Sequence[Kind], tally: Tally) -> None:
    for kind in touched:
        tally.note_time(kind.usage.tenant_id, kind.oldest_micros)
        if kind.usage.late:
            tally.late += len(kind.event_keys)
        tally.rated.append(kind.take())


def name_of(event: usage_pb2.UsageEvent) -> Name | None:
    """Return all that an event says but for its ids and quantities; None: it is one by itself."""
    told = event.dimensions
    if (
        event.interim
        or event.continued
        or event.estimated
        or event.session_boundary
        or told.session
        or not event.event_id
    ):
        return None
    from_gateway = event.source.startswith(GATEWAY)
    return (
        event.tenant_id,
        event.subscription_id,
        event.occurred_at_micros // HOUR_MICROS,
        told.provider,
        told.model,
        told.tool,
        told.execution_status,
        tuple(event.features),
        event.outcome,
        event.reason,
        event.shadow_reason,
        event.decided_hour_s,
        event.weight_units,
        event.late,
        event.decision_id != "",
        # Of other sources, how the id begins says which one it is.
        from_gateway or event.event_id[:REPORTED_LENGTH],
    )


def _parts_of(
    event: usage_pb2.UsageEvent, kind: Kind
) -> Sequence[tuple[list[int] | None, int, int]] | None:
    """Return where each measure adds units and micros; None: it is not one to be added up."""
    find = kind.cells.get
    parts = [(find(one.meter), one.units, one.micros) for one in event.measures]
    for cell, units, micros in parts:
        if cell is None:
            learnt = all(one.meter in kind.cells or kind.learn(one.meter) for one in event.measures)
            return _parts_of(event, kind) if learnt else None
        if not 0 <= units <= UNITS_MAX or (micros and not 0 <= micros < MICROS_PER_UNIT):
            return None
    if kind.tokens_below and _tokens_of(event) >= kind.tokens_below:
        return None
    return parts


def _tokens_of(event: usage_pb2.UsageEvent) -> int:
    """Return the input tokens of a call: at least as many as tiers go by."""
    return sum(one.units + (one.micros > 0) for one in event.measures if one.meter in INPUT_METERS)
