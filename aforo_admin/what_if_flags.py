"""Changes, one a line, as options and forms have them → the written form of a scenario."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

ANYTHING: Final = "*"
# How a change looks; whether it is finer or larger than it may be, its reader says.
_PERCENT: Final = re.compile(r"[+-]?[\d.]+\s*%", re.ASCII)
_AMOUNT: Final = re.compile(r"-?\d[\d_.]*(\s*[A-Z]{3})?", re.ASCII)
FLOORS: Final = {
    "warn": "warn_below",
    "throttle": "throttle_below",
    "block": "block_below",
    "hysteresis": "hysteresis",
}


class LineError(ValueError):
    """A line is not of its form.

    Args:
        name: Which list it is of.
        given: The line.
        remedy: How to write it.
    """

    def __init__(self, name: str, given: str, remedy: str) -> None:
        super().__init__(f"{given}: {remedy}")
        self.name = name
        self.given = given
        self.remedy = remedy


class LinesError(ValueError):
    """Lines are not of their forms: all of them.

    Args:
        errors: At least one.
        rest: The scenario that the other lines say.
    """

    def __init__(self, errors: Sequence[LineError], rest: Mapping[str, Any]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = tuple(errors)
        self.rest = rest


def written(lines: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the scenario that lines say, by the names in `LISTS`.

    It is read, and complained of, as any other.

    Raises:
        LinesError: Some are not of their form.
    """
    found: dict[str, Any] = {}
    errors = []
    for name, given in lines.items():
        key, read = LISTS[name]
        for each in given:
            try:
                part = read(each)
            except LineError as error:
                errors.append(LineError(name, each, error.remedy))
            else:
                found.setdefault(key, []).append(part)
    if errors:
        raise LinesError(errors, found)
    return found


def _cost(given: str) -> dict[str, str]:
    form = "openai=+20%, or openai/gpt-4o:METER=2.50/1M"
    what, change = _sides(given, form)
    named, _, meter = what.partition(":")
    provider, _, model = named.partition("/")
    said = _percent_or_price(given, change, form)
    if "price" in said and not meter:
        remedy = (
            f"write {what}={_as_percent(said['price'])}, or a price with its meter, like"
            f" {what}:llm.output_tokens={change}"
        )
        raise LineError("", given, remedy)
    return {**_said(provider=provider, model=model, meter=meter), **said}


def _price(given: str) -> dict[str, str]:
    form = "pro=+5%, or pro/COMPONENT=0.02/1k"
    what, change = _sides(given, form)
    plan, _, component = what.partition("/")
    said = _percent_or_price(given, change, form)
    if "price" in said and not component:
        remedy = (
            f"write {what}={_as_percent(said['price'])}, or a price with its component, like"
            f" {what}/COMPONENT={change}"
        )
        raise LineError("", given, remedy)
    return {**_said(plan=plan, component=component), **said}


def _fee(given: str) -> dict[str, str]:
    form = "pro=+10%, or pro=550"
    plan, change = _sides(given, form)
    if not _PERCENT.fullmatch(change) and not _AMOUNT.fullmatch(change):
        raise LineError("", given, f"write it like {form}")
    return {"plan": plan, "percent" if change.endswith("%") else "fee": change}


def _floor(given: str) -> dict[str, Any]:
    form = "block=5%, plan:pro/warn=30%, or tenant:acme/block=-10%"
    what, change = _sides(given, form)
    whose, _, name = what.rpartition("/")
    kind, _, owner = whose.partition(":")
    if name not in FLOORS or (whose and kind not in {"plan", "tenant"}):
        remedy = f"no such threshold; write {form}; there are {', '.join(FLOORS)}"
        raise LineError("", given, remedy)
    if not _PERCENT.fullmatch(change):
        raise LineError("", given, f"write it like {form}")
    return {**({kind: owner} if whose else {}), "thresholds": {FLOORS[name]: change}}


def _model(given: str) -> dict[str, str]:
    form = "gpt-4o=gpt-4o-mini, or openai/gpt-4o=anthropic/claude-3-5-haiku"
    before, after = _sides(given, form)
    provider, model = _named(before)
    to_provider, to_model = _named(after)
    return _said(**{"from": model, "to": to_model}, provider=provider, to_provider=to_provider)


def _named(given: str) -> tuple[str, str]:
    provider, slash, model = given.partition("/")
    return (provider, model) if slash else ("", provider)


def _growth(given: str) -> dict[str, str]:
    form = "+30%, tenant:acme=+30%, or feature:chat=-10%"
    what, equals, change = given.rpartition("=")
    kind, _, name = what.partition(":")
    if not _PERCENT.fullmatch(change):
        raise LineError("", given, f"write it like {form}")
    if equals and kind not in {"tenant", "feature"}:
        raise LineError("", given, f"whose? write {form}")
    return {**({kind: name} if equals else {}), "percent": change}


def _draft(given: str) -> dict[str, str]:
    plan, number = _sides(given, "pro=3")
    if not number.isdecimal():
        raise LineError("", given, "write it like pro=3, with the number of a version")
    return {"plan": plan, "version": number}


def _percent_or_price(given: str, change: str, form: str) -> dict[str, str]:
    if _PERCENT.fullmatch(change):
        return {"percent": change}
    price, _, per = change.partition("/")
    if not _AMOUNT.fullmatch(price):
        raise LineError("", given, f"write it like {form}")
    return _said(price=price, per=per)


def _as_percent(price: str) -> str:
    """Write a number without its sign of a percentage as one: 20 USD is +20%."""
    number = price.split(maxsplit=1)[0]
    return f"{'' if number.startswith('-') else '+'}{number}%"


def _said(**given: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if value and value != ANYTHING}


def _sides(given: str, form: str) -> tuple[str, str]:
    what, equals, change = given.partition("=")
    if not equals or not what or not change:
        raise LineError("", given, f"write it like {form}")
    return what, change


# By their names in forms and options: the field of the written form, and how a line is read.
LISTS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "provider_cost": ("costs", _cost),
    "price": ("prices", _price),
    "fee": ("fees", _fee),
    "threshold": ("floors", _floor),
    "model": ("models", _model),
    "growth": ("growth", _growth),
    "draft": ("drafts", _draft),
}
