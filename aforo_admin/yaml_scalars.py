"""One written value → a number, an instant, a name. Exact: no value passes through a float.

Each function raises ValueError with what is wrong and how to write it.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import Enum
from typing import Final, TypeVar

from aforo_admin.domain.problems import NANOS_PER_UNIT, YEARS, YEARS_TOLD
from aforo_meter.domain.usage import MICROS_PER_UNIT

E = TypeVar("E", bound=Enum)

CHARS_MAX: Final = 64  # Of a number or an instant: a longer one is a mistake.

_DIGITS = r"\d{1,3}(?:_\d{3})+|\d+"
_AMOUNT = re.compile(rf"(-?)({_DIGITS})(?:\.(\d+))?(?:\s*([A-Z]{{3}}))?", re.ASCII)
_PERCENT = re.compile(r"(-?)(\d+)(?:\.(\d+))?\s*%", re.ASCII)
_UNITS = re.compile(rf"({_DIGITS})([kMG]?)", re.ASCII)
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_TIME = re.compile(r"(?:([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?|24:00)", re.ASCII)
_FACTOR = re.compile(r"(\d{1,9})(?:\.(\d{1,6}))?", re.ASCII)
_MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_NANO_DIGITS = 9
_MICRO_DIGITS = 6


class UnknownNameError(ValueError):
    """A value that must be one of a few names, and isn't."""

    def __init__(self, given: str, *, kind: str, choices: Iterable[str]) -> None:
        super().__init__(f'no {kind} "{given}"')
        self.given = given
        self.kind = kind
        self.choices = tuple(choices)


def text(given: str) -> str:
    return given


def flag(given: str) -> bool:
    if given not in {"true", "false"}:
        raise ValueError(f"{_shown(given)} is neither true nor false")
    return given == "true"


def units(given: str) -> int:
    """Read a whole number: 5000, 5_000, 5k, 2M, 1G."""
    match = _UNITS.fullmatch(_bounded(given))
    if match is None:
        raise ValueError(
            f"{_shown(given)} is no whole number of at least 0: write 5000, 5_000, 5k or 2M"
        )
    return int(match[1].replace("_", "")) * _MULTIPLES[match[2]]


def amount_nanos(currency: str) -> Callable[[str], int]:
    """Return a reader of amounts: 2000, 2_000.50, "2000 USD" → nanos of the currency."""

    def read(given: str) -> int:
        match = _AMOUNT.fullmatch(_bounded(given))
        if match is None:
            raise ValueError(
                f"{_shown(given)} is no amount: write digits and a point, like 2000, 2_000.50 "
                f"or 2000 {currency or 'USD'}"
            )
        sign, whole, decimals, named = match.groups(default="")
        if named and currency and named != currency:
            raise ValueError(f"is in {named}, but the currency here is {currency}")
        decimals = decimals.rstrip("0")
        if len(decimals) > _NANO_DIGITS:
            raise ValueError(
                f"{_shown(given)} has more than {_NANO_DIGITS} decimals: quote it for more units, "
                "like per: 1M"
            )
        nanos = int(whole.replace("_", "")) * NANOS_PER_UNIT + int(
            decimals.ljust(_NANO_DIGITS, "0")
        )
        return -nanos if sign else nanos

    return read


def factor_micros(given: str) -> int:
    """Read a factor, 2, 1.5 or 0, as 10^-6."""
    match = _FACTOR.fullmatch(_bounded(given))
    if match is None:
        raise ValueError(
            f"{_shown(given)} is no factor: write 0, 0.5 or 2, with at most 6 decimals, and no sign"
        )
    whole, decimals = match.groups(default="")
    return int(whole) * MICROS_PER_UNIT + int(decimals.ljust(_MICRO_DIGITS, "0"))


def percent_bp(given: str) -> int:
    """Read a share, 20% or 20.5 %, as basis points."""
    match = _PERCENT.fullmatch(_bounded(given))
    if match is None:
        raise ValueError(f"{_shown(given)} is no share: write it with its sign, like 20% or 0.5%")
    sign, whole, decimals = match.groups(default="")
    decimals = decimals.rstrip("0")
    if len(decimals) > 2:  # noqa: PLR2004 - a basis point is a hundredth of a percent.
        raise ValueError(f"{_shown(given)} is finer than a hundredth of a percent: round it")
    bp = int(whole) * 100 + int(decimals.ljust(2, "0"))
    return -bp if sign else bp


def instant(given: str) -> datetime:
    """Read a date (midnight) or a date and time; UTC unless it names an offset."""
    if not _INSTANT.fullmatch(_bounded(given)):
        raise ValueError(
            f"{_shown(given)} is no date: write 2026-01-31, or 2026-01-31T09:30Z (UTC unless it "
            "names an offset, like +02:00)"
        )
    try:
        at = datetime.fromisoformat(given)
    except ValueError as error:
        raise ValueError(f"{_shown(given)} is no date of the calendar: {error}") from None
    if at.year not in YEARS:
        raise ValueError(f"{_shown(given)} is out of range: {YEARS_TOLD}")
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def time_of_day_s(given: str) -> int:
    """Read a time of the day, 09:30 or 24:00, as seconds after midnight UTC; 24:00 is 0."""
    match = _TIME.fullmatch(_bounded(given))
    if match is None:
        raise ValueError(f"{_shown(given)} is no time of the day: write 09:30 or 24:00, in UTC")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (hours * 60 + minutes) * 60 + seconds


def choice(kind: str, members: Iterable[E]) -> Callable[[str], E]:
    """Return a reader of one member of an enum, by its name in lower case."""
    by_name = {member.name.lower(): member for member in members}

    def read(given: str) -> E:
        if given not in by_name:
            raise UnknownNameError(given, kind=kind, choices=by_name)
        return by_name[given]

    return read


def _bounded(given: str) -> str:
    if len(given) > CHARS_MAX:
        raise ValueError(f"is {len(given)} characters long, at most {CHARS_MAX} make sense here")
    return given


def _shown(given: str) -> str:
    return f'"{given[:CHARS_MAX]}"'
