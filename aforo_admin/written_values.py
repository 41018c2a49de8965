"""Exact values → as they are written in the catalog. The inverse of `yaml_scalars`."""

from datetime import UTC, datetime, timedelta
from typing import Final

from aforo_admin.domain.problems import NANOS_PER_UNIT, day
from aforo_meter.domain.usage import MICROS_PER_UNIT

# Of the written form: JSON's values without floating-point numbers.
Written = str | int | bool | list["Written"] | dict[str, "Written"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Plain(str):
    """A number or a date, which needs no quotes in YAML."""

    __slots__ = ()


def amount(nanos: int) -> Plain:
    """Write nanos as units of a currency: 2000, 0.000000001, -5.25."""
    return Plain(_decimal(nanos, NANOS_PER_UNIT))


def factor(micros: int) -> Plain:
    return Plain(_decimal(micros, MICROS_PER_UNIT))


def instant(at: datetime) -> Plain:
    return Plain(day(at))


def instant_of_micros(micros: int) -> Plain:
    return instant(EPOCH + timedelta(microseconds=micros))


def time_of_day(seconds: int) -> str:
    minutes, rest_s = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}" + (f":{rest_s:02}" if rest_s else "")


def hours_of_day(from_s: int, to_s: int) -> str:
    """Write a part of the day for people: 22:00 to 06:30."""
    if from_s == to_s:
        return "all day"
    return f"{time_of_day(from_s)} to {time_of_day(to_s)}"


def _decimal(value: int, one: int) -> str:
    whole, rest = divmod(abs(value), one)
    digits = len(str(one)) - 1
    decimals = f".{rest:0{digits}}".rstrip("0") if rest else ""
    return f"{'-' if value < 0 else ''}{whole}{decimals}"
