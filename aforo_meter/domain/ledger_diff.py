"""Two ledgers' rows of the same hours, compared. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros


class DiffKey(NamedTuple):
    """What a row is about: enough to find it."""

    tenant_id: str
    hour_start_micros: int
    meter: str
    price_id: str  # "": unpriced.
    subscription_id: str
    feature: str
    provider: str
    model: str
    tool: str
    execution_status: str


class Sum(NamedTuple):
    quantity_micros: int
    amount_nanos: int

    def plus(self, other: "Sum") -> "Sum":
        return Sum(
            self.quantity_micros + other.quantity_micros, self.amount_nanos + other.amount_nanos
        )


NOTHING = Sum(0, 0)


class Kind(StrEnum):
    EQUAL = "equal"
    MISSING_HERE = "missing_here"  # The live ledger has it, the replay has not.
    MISSING_THERE = "missing_there"  # The replay has it, the live ledger has not.
    DIFFERING = "differing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    kind: Kind
    key: DiffKey
    here: Sum  # Replayed.
    there: Sum  # Live.

    @property
    def quantity_micros(self) -> int:
        """By how much the live ledger is above the replay."""
        return self.there.quantity_micros - self.here.quantity_micros

    @property
    def amount_nanos(self) -> int:
        return self.there.amount_nanos - self.here.amount_nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    counts: Mapping[Kind, int]
    differences: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        return not self.differences


def compare(here: Mapping[DiffKey, Sum], there: Mapping[DiffKey, Sum]) -> Comparison:
    """Compare what was replayed with what the live ledger has."""
    counts: Counter[Kind] = Counter(dict.fromkeys(Kind, 0))
    differences: list[Difference] = []
    for key in sorted(here.keys() | there.keys()):
        kind = _kind(here.get(key), there.get(key))
        counts[kind] += 1
        if kind is not Kind.EQUAL:
            differences.append(
                Difference(
                    kind=kind,
                    key=key,
                    here=here.get(key, NOTHING),
                    there=there.get(key, NOTHING),
                )
            )
    return Comparison(counts=counts, differences=tuple(differences))


def _kind(here: Sum | None, there: Sum | None) -> Kind:
    if here is None:
        return Kind.MISSING_HERE
    if there is None:
        return Kind.MISSING_THERE
    return Kind.EQUAL if here == there else Kind.DIFFERING


def whole_hours(asked: PeriodMicros, known_from_micros: int | None = None) -> PeriodMicros:
    """Return the hours that lie wholly in a period; empty (start = end) if there are none.

    Args:
        asked: Half-open.
        known_from_micros: Before it, events may be gone.
    """
    start = max(asked.start_micros, known_from_micros or asked.start_micros)
    first = start + -start % HOUR_MICROS
    last = asked.end_micros - asked.end_micros % HOUR_MICROS
    return PeriodMicros(first, max(first, last))


def left_out(asked: PeriodMicros, compared: PeriodMicros) -> tuple[PeriodMicros, ...]:
    """Return the parts of a period that are not compared."""
    if compared.start_micros == compared.end_micros:
        return (asked,) if asked.start_micros < asked.end_micros else ()
    parts = (
        PeriodMicros(asked.start_micros, compared.start_micros),
        PeriodMicros(compared.end_micros, asked.end_micros),
    )
    return tuple(part for part in parts if part.start_micros < part.end_micros)
