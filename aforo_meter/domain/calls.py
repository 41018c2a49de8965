"""A call of which more than one event tells: what each of them changes in the ledger. Pure.

Totals so far, the end, an estimate and the true figure may come in any order and from several
senders. Whatever the order, what is counted in the end is the same (docs/decisions/0015).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from aforo_meter.domain.rating import LLM_METERS, ChargeKey
from aforo_meter.domain.usage import API_CALLS


class Certainty(IntEnum):
    """How good a figure is. A better one replaces it."""

    INTERIM = 0  # A total so far.
    ESTIMATED = 1  # Of the whole call, reckoned.
    CORRECTED = 2  # A true figure from elsewhere, in the place of an estimate.
    TOLD = 3  # Of the whole call, reported at the gateway.


class Part(NamedTuple):
    """What is counted of a call in one row."""

    quantity_micros: int
    extra_micros: int  # What the call's weight adds to it on quotas.
    certainty: Certainty


class Figure(NamedTuple):
    """What a true figure says of its row. The rest is the place of the estimate."""

    meter: str
    provider: str
    model: str
    price_id: str
    input_tokens: int


class Change(NamedTuple):
    """What a row gains; negative: loses."""

    quantity_micros: int
    extra_micros: int
    estimated_micros: int = 0  # Of the quantity: what an estimate stands for.


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one event says of a call: totals since its beginning, by row."""

    charges: Iterable[tuple[ChargeKey, int]]  # Zeros too: they replace what was counted.
    interim: bool
    estimated: bool
    weight_units: int = 1
    is_whole: bool = False  # The gateway's end: what it does not name, the call has not used.
    is_correction: bool = False  # True figures from elsewhere, for tokens that were estimated.


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the ledger knows of a call."""

    ended: bool = False  # Something that is not interim was told: totals so far add nothing now.
    parts: Mapping[ChargeKey, Part] = field(default_factory=dict)  # What is counted.
    waiting: Mapping[Figure, int] = field(default_factory=dict)  # 10^-6 units; not counted.

    @property
    def is_corrected(self) -> bool:
        return any(part.certainty is Certainty.CORRECTED for part in self.parts.values())


NEW: Final = Call()


def tell(call: Call, told: Told) -> tuple[Call, dict[ChargeKey, Change]]:
    """Return the call after an event, and what rows gain or lose by it.

    - A total so far raises what is counted of its meter, never lowers it, and adds nothing once the
      end is known. It never counts a call.
    - What is told of the whole call takes the place of totals so far, meter by meter; the larger
      figure holds. Totals so far of meters that the gateway's end does not name go: by the rules
      the call was no usage of theirs, as if they had come after it.
    - Of a family of meters the most certain figures hold: what the gateway reports of one `llm.`
      meter replaces all that was estimated or corrected of `llm.`; bytes, which it may not know,
      stay. An estimate that comes after changes nothing.
    - A correction takes the place of estimated tokens, and does nothing else: what is not
      estimated stays as the gateway counted it. It waits as long as no tokens of the call are
      known, and is dropped once they are reported.
    """
    if told.interim and call.ended:
        return call, {}
    parts, waiting = dict(call.parts), dict(call.waiting)
    if told.is_correction:
        _wait(waiting, told.charges)
    else:
        _count(parts, told)
    _correct(parts, waiting)
    ended = call.ended or not (told.interim or told.is_correction)
    return Call(ended=ended, parts=parts, waiting=waiting), _changes(call.parts, parts)


def _wait(waiting: dict[Figure, int], charges: Iterable[tuple[ChargeKey, int]]) -> None:
    """Keep true figures of tokens; of two that differ the larger holds."""
    for key, told_micros in charges:
        if key.meter.startswith(LLM_METERS):
            figure = Figure(key.meter, key.provider, key.model, key.price_id, key.input_tokens)
            waiting[figure] = max(told_micros, waiting.get(figure, 0))


def _correct(parts: dict[ChargeKey, Part], waiting: dict[Figure, int]) -> None:
    """Let true figures take the place of estimated tokens, if it is known by now."""
    tokens = {key: part for key, part in parts.items() if key.meter.startswith(LLM_METERS)}
    certainty = max((part.certainty for part in tokens.values()), default=Certainty.INTERIM)
    if not waiting or certainty is Certainty.INTERIM:
        return
    if certainty is not Certainty.TOLD:
        place = min(key for key, part in tokens.items() if part.certainty is certainty)
        if certainty is Certainty.ESTIMATED:
            for key in tokens:
                del parts[key]
        for figure, quantity_micros in sorted(waiting.items()):
            key = place._replace(**figure._asdict())
            _raise(parts, key, quantity_micros, certainty=Certainty.CORRECTED, weight=1)
    waiting.clear()


def _count(parts: dict[ChargeKey, Part], told: Told) -> None:
    """Count what the gateway tells."""
    certainty = _certainty_of(told)
    for family, charges in _by_family(told).items():
        known = [key for key in parts if _family(key.meter) == family]
        before = max((parts[key].certainty for key in known), default=Certainty.INTERIM)
        if before > certainty:
            continue
        if Certainty.INTERIM < before < certainty:
            for key in known:
                del parts[key]
        for key, quantity_micros in charges.items():
            _raise(parts, key, quantity_micros, certainty=certainty, weight=told.weight_units)
    if told.is_whole:
        for key in [key for key, part in parts.items() if part.certainty is Certainty.INTERIM]:
            del parts[key]


def _certainty_of(told: Told) -> Certainty:
    if told.interim:
        return Certainty.INTERIM
    return Certainty.ESTIMATED if told.estimated else Certainty.TOLD


def _family(meter: str) -> str:
    return meter.partition(".")[0]


def _by_family(told: Told) -> dict[str, dict[ChargeKey, int]]:
    found: dict[str, dict[ChargeKey, int]] = {}
    for key, quantity_micros in told.charges:
        if told.interim and key.meter == API_CALLS:
            continue
        charges = found.setdefault(_family(key.meter), {})
        charges[key] = charges.get(key, 0) + quantity_micros
    return found


def _raise(
    parts: dict[ChargeKey, Part],
    key: ChargeKey,
    told_micros: int,
    *,
    certainty: Certainty,
    weight: int,
) -> None:
    """Bring what is counted of a meter up to what is told."""
    extra = weight - 1 if key.meter == API_CALLS else 0
    of_meter = {other: part for other, part in parts.items() if other.meter == key.meter}
    counted_micros = sum(part.quantity_micros for part in of_meter.values())
    better = all(part.certainty < certainty for part in of_meter.values())
    if better:
        # The end knows the model, the tool and the status; what came before may not have.
        for other in of_meter:
            del parts[other]
        total_micros = max(told_micros, counted_micros)
        parts[key] = Part(total_micros, total_micros * extra, certainty)
    elif told_micros > counted_micros:
        own = parts.get(key, Part(0, 0, certainty))
        more_micros = told_micros - counted_micros
        parts[key] = Part(
            own.quantity_micros + more_micros, own.extra_micros + more_micros * extra, certainty
        )


def _changes(
    before: Mapping[ChargeKey, Part], after: Mapping[ChargeKey, Part]
) -> dict[ChargeKey, Change]:
    none = Part(0, 0, Certainty.INTERIM)
    changes = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key, none), after.get(key, none)
        change = Change(
            new.quantity_micros - old.quantity_micros,
            new.extra_micros - old.extra_micros,
            _estimated_micros(new) - _estimated_micros(old),
        )
        if any(change):
            changes[key] = change
    return changes


def _estimated_micros(part: Part) -> int:
    return part.quantity_micros if part.certainty is Certainty.ESTIMATED else 0
