"""Usage added up before it is rated: events that differ in nothing but their quantities.

Rating many events of a kind at once comes to the same as rating each, as long as their price can't
depend on more than their kind. Which kinds that holds for is decided here; all other events are
read, and rated, one by one.
"""

import itertools
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    Measured,
    Rated,
    Usage,
    depends_on_size,
    intervention_of,
)
from aforo_meter.domain.seen import tenant_digest, time_of
from aforo_meter.domain.usage import Outcome
from aforo_meter.usage_shapes import Glance, Measures, Shape, glance
from aforo_meter.wire import COMPLETENESS, GATEWAY, REPORTED_LENGTH
from aforo_proto import usage_pb2

WEIGHT_BITS: Final = 40
KINDS_MAX: Final = 50_000  # Some 100 MB. One of a tenant, model and hour is the usual.
MET_MAX: Final = 100_000
SHAPES_MAX: Final = 100_000  # Some 100 MB. Paths and statuses make several of a kind.

Name = tuple[Any, ...]
Looked = tuple[Any, Glance]  # A record, and what is seen of it.


class Sum:
    """What was added up of a kind."""

    __slots__ = ("cells", "cost_nanos", "event_keys", "is_fresh", "oldest_micros")

    def __init__(self, meters: Iterable[str], at_micros: int) -> None:
        self.cells = dict.fromkeys(meters, 0)  # By meter: in 10^-6 units.
        self.event_keys: list[bytes] = []
        self.oldest_micros = at_micros
        self.is_fresh = False  # It is among the tally's `fresh`.
        self.cost_nanos = 0  # What it cost when it was last looked at, about.


class Kind:
    """What events of a kind have in common."""

    __slots__ = (
        *("_digest", "_entries", "_intervention", "_prices", "_refused", "_timed", "_weights"),
        *("keys", "period", "place", "subscription_id", "tokens_below", "usage"),
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
        self.place = subscription_id, period.start_micros
        self._prices = prices
        self._refused = refused_price_ids
        self.keys: dict[str, ChargeKey] = {}
        self._entries: tuple[PriceEntry, ...] = ()
        self._weights: list[int] = []  # Of `keys`, in their order: see `cost_nanos`.
        self._intervention = intervention_of(usage)
        # From so many input tokens on another price may hold; 0: never.
        self.tokens_below = 0
        self._digest = tenant_digest(usage.tenant_id, timed=usage.from_gateway)
        self._timed = usage.from_gateway

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
            self._entries += (entry,)
        self._weights.append(0 if entry is None else _weight(entry))
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
        return True

    def add(self, measures: Sequence[Measured], cells: dict[str, int]) -> bool:
        """Add what an event measured; return False, and add nothing, if it is one by itself."""
        if self.tokens_below and _tokens_of(measures) >= self.tokens_below:
            return False
        added = 0
        try:
            for meter, quantity_micros in measures:
                cells[meter] += quantity_micros
                added += 1
        except KeyError:
            for meter, quantity_micros in measures[:added]:
                cells[meter] -= quantity_micros
            for meter, _ in measures:
                if meter not in self.keys and not self.learn(meter):
                    return False
            for meter in self.keys:  # In their order.
                cells.setdefault(meter, 0)
            return self.add(measures, cells)
        return True

    def cost_nanos(self, cells: Mapping[str, int]) -> int:
        """Return what quantities cost at most, but for the rounding of their rows."""
        whole: int = sum(map(operator.mul, cells.values(), self._weights))
        return whole >> WEIGHT_BITS

    def event_key(self, event_id: bytes, at_micros: int) -> bytes:
        """Return what `seen.event_key` does, of an event of this kind."""
        digest = self._digest.copy()
        digest.update(event_id)
        return time_of(at_micros) + digest.digest() if self._timed else digest.digest()

    def rated(self, added: Sum) -> Rated:
        """Return what was added up, rated."""
        keys = self.keys
        return Rated(
            tenant_id=self.usage.tenant_id,
            event_keys=added.event_keys,
            subscription_id=self.subscription_id,
            period=self.period,
            charges=tuple(
                [(keys[meter], quantity) for meter, quantity in added.cells.items() if quantity]
            ),
            prices=self._entries,
            intervention=self._intervention,
            usage=self.usage,
        )


def _weight(entry: PriceEntry) -> int:
    """Return what 10^-6 of a unit costs, in 2^-WEIGHT_BITS nanos, rounded up."""
    return -(-(entry.price_nanos << WEIGHT_BITS) // (entry.per_units * MICROS_PER_UNIT))


@dataclass(slots=True)
class Tally:
    """What came of some records so far."""

    rated: list[Rated] = field(default_factory=list)
    sums: dict[Kind, Sum] = field(default_factory=dict)
    # Those of `sums` that events were added to since somebody last looked, and emptied this.
    fresh: list[tuple[Kind, Sum]] = field(default_factory=list)
    unknown: list[Looked] = field(default_factory=list)  # Of no known kind.
    single: list[Any] = field(default_factory=list)  # Records of a kind, but by themselves.
    unreadable: list[Any] = field(default_factory=list)  # Records that are no events.
    refused: list[Any] = field(default_factory=list)  # Records that can't count, and why.
    counted: set[bytes] = field(default_factory=set)  # Events that are not to count again.
    repeated: int = 0
    late: int = 0
    oldest_micros: dict[str, int] = field(default_factory=dict)  # By tenant.

    def note_time(self, tenant_id: str, at_micros: int) -> None:
        known = self.oldest_micros.get(tenant_id)
        if known is None or at_micros < known:
            self.oldest_micros[tenant_id] = at_micros

    def split(self, tenant_ids: Collection[str]) -> "Tally":
        """Take out what was added up of these tenants, and all that was rated one by one."""
        return self._split([kind for kind in self.sums if kind.usage.tenant_id in tenant_ids])

    def split_first(self, kinds_max: int) -> "Tally":
        """Take out the first kinds, and all that was rated one by one."""
        return self._split(list(itertools.islice(self.sums, kinds_max)))

    def _split(self, kinds: Iterable[Kind]) -> "Tally":
        taken = Tally(rated=self.rated, late=self.late, oldest_micros=self.oldest_micros)
        self.rated, self.late, self.oldest_micros = [], 0, {}
        taken.sums = {kind: self.sums.pop(kind) for kind in kinds}
        return taken

    def close(self) -> None:
        """Rate what was added up. Nothing is added up any more."""
        for kind, added in self.sums.items():
            if added.event_keys:
                self.note_time(kind.usage.tenant_id, added.oldest_micros)
                self.late += kind.usage.late * len(added.event_keys)
                self.rated.append(kind.rated(added))
        self.sums, self.fresh = {}, []


class Kinds:
    """Kinds that were met, as long as contracts and prices stay as they are."""

    def __init__(self) -> None:
        self._kinds: dict[Name, Kind] = {}
        self._shapes: dict[Shape, Kind] = {}
        self._measures = Measures()
        self._met: set[int] = set()  # Hashes of shapes.

    def clear(self) -> None:
        self._kinds.clear()
        self._shapes.clear()

    def get(self, name: Name) -> Kind | None:
        return self._kinds.get(name)

    def add(self, name: Name, kind: Kind) -> None:
        if len(self._kinds) >= KINDS_MAX:
            self.clear()
        self._kinds[name] = kind

    def was_met(self, shape: Shape) -> bool:
        """Return whether a shape has come before, as far as is remembered."""
        if len(self._met) >= MET_MAX:
            self._met.clear()
        count = len(self._met)
        self._met.add(hash(shape))
        return len(self._met) == count

    def recognise(self, shape: Shape, kind: Kind) -> None:
        """Take all events of a shape to be of a kind, from now on."""
        if len(self._shapes) >= SHAPES_MAX:
            self._shapes.clear()
        self._shapes[shape] = kind

    def add_up(self, looked: Iterable[Looked], tally: Tally, *, latest_micros: int) -> None:
        """Add up records of known kinds, and put all others on `tally`.

        There those of one shape stay in their order.

        Args:
            looked: Records of one partition: see `look`.
            tally: What comes of them.
            latest_micros: Until when an event may have occurred.
        """
        shapes, counted, single = self._shapes, tally.counted, tally.single
        sums, fresh = tally.sums, tally.fresh
        measures_of = self._measures.of
        for one in looked:
            record, (shape, event_id, at_micros, encoded, is_plain) = one
            kind = shapes.get(shape)
            if kind is None:
                tally.unknown.append(one)
                continue
            measures = measures_of(encoded)
            if measures is None or not is_plain or at_micros > latest_micros:
                single.append(record)
                continue
            key = kind.event_key(event_id, at_micros)
            if key in counted:
                tally.repeated += 1
                continue
            added = sums.get(kind)
            if added is None:
                added = sums[kind] = Sum(kind.keys, at_micros)
            if not kind.add(measures, added.cells):
                single.append(record)
                continue
            counted.add(key)
            if at_micros < added.oldest_micros:  # noqa: PLR1730 - half the time of a call.
                added.oldest_micros = at_micros
            if not added.is_fresh:
                added.is_fresh = True
                fresh.append((kind, added))
            added.event_keys.append(key)


def look(records: Iterable[Any], tally: Tally) -> Iterator[Looked]:
    """Return records with what is seen of them at a glance; what are no events, put on `tally`."""
    for record in records:
        try:
            seen = glance(record.value or b"")
        except DecodeError:
            tally.unreadable.append(record)
            continue
        yield record, seen


def name_of(event: usage_pb2.UsageEvent) -> Name | None:
    """Return all that an event says but for its ids and quantities; None: it is one by itself."""
    told = event.dimensions
    if (
        event.interim
        or event.continued
        or event.estimated
        or event.session_boundary
        or told.session
        or event.source == COMPLETENESS  # How many calls it stands for is in its metadata.
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


def _tokens_of(measures: Iterable[Measured]) -> int:
    """Return the input tokens of a call: at least as many as tiers go by."""
    return sum(
        -(-quantity_micros // MICROS_PER_UNIT)
        for meter, quantity_micros in measures
        if meter in INPUT_METERS
    )
