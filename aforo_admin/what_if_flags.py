"""Changes, one a line, as options and forms have them → the written form of a scenario."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

ANYTHING: Final = "*"
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


def written(lines: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the scenario that lines say, by the names in `LISTS`.

    It is read, and complained of, as any other.

    Raises:
        LineError: A line is not of its form.
    """
    found: dict[str, Any] = {}
    for name, given in lines.items():
        key, read = LISTS[name]
        try:
            parts = [read(each) for each in given]
        except LineError as error:
            raise LineError(name, error.given, str(error).partition(": ")[2]) from None
        if parts:
            found[key] = parts
    return found


def _cost(given: str) -> dict[str, str]:
    what, change = _sides(given, "openai=+20%, or openai/gpt-4o:METER=2.50/1M")
    named, _, meter = what.partition(":")
    provider, _, model = named.partition("/")
    return {
        **_said(provider=provider, model=model, meter=meter),
        **_percent_or_price(change),
    }


def _price(given: str) -> dict[str, str]:
    what, change = _sides(given, "pro=+5%, or pro/COMPONENT=0.02/1k")
    plan, _, component = what.partition("/")
    return {**_said(plan=plan, component=component), **_percent_or_price(change)}


def _fee(given: str) -> dict[str, str]:
    plan, change = _sides(given, "pro=+10%, or pro=550")
    return {"plan": plan, "percent" if change.endswith("%") else "fee": change}


def _floor(given: str) -> dict[str, Any]:
    form = "block=5%, plan:pro/warn=30%, or tenant:acme/block=-10%"
    what, change = _sides(given, form)
    whose, _, name = what.rpartition("/")
    kind, _, owner = whose.partition(":")
    if name not in FLOORS or (whose and kind not in {"plan", "tenant"}):
        remedy = f"no such threshold; write {form}; there are {', '.join(FLOORS)}"
        raise LineError("", given, remedy)
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
    what, equals, change = given.rpartition("=")
    kind, _, name = what.partition(":")
    if equals and kind not in {"tenant", "feature"}:
        form = "+30%, tenant:acme=+30%, or feature:chat=-10%"
        raise LineError("", given, f"whose? write {form}")
    return {**({kind: name} if equals else {}), "percent": change}


def _draft(given: str) -> dict[str, str]:
    plan, number = _sides(given, "pro=3")
    return {"plan": plan, "version": number}


def _percent_or_price(change: str) -> dict[str, str]:
    if change.endswith("%"):
        return {"percent": change}
    price, _, per = change.partition("/")
    return _said(price=price, per=per)


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
