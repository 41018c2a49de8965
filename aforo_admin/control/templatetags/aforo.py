"""Figures as the pages show them: to be read at a glance, and never rounded to what is not so."""

from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final

from django import template
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString

from aforo_admin.control import codes, navigation
from aforo_admin.domain.catalog import CostPrice
from aforo_admin.written_values import hours_of_day
from aforo_meter.domain.margin import Assessment, Level
from aforo_meter.domain.periods import datetime_of
from aforo_meter.domain.quotas import COGS

register = template.Library()

NANOS: Final = 1_000_000_000
CENT: Final = Decimal("0.01")
NONE: Final = "–"
# Class and words: the colour only helps.
LEVELS: Final = {
    Level.NONE: ("allow", "none"),
    Level.WARN: ("warn", "warn L1"),
    Level.THROTTLE: ("throttle", "throttle L2"),
    Level.BLOCK: ("block", "block L3"),
}
OUTCOMES: Final = {"allow": "allow", "throttle": "throttle", "block": "block"}


@register.filter
def money(nanos: int | None) -> str:
    """Return an amount: `1,234.50`; of less than a cent three digits: `0.000123`."""
    if nanos is None:
        return NONE
    amount = Decimal(nanos) / NANOS
    if amount and abs(amount) < CENT:
        amount = Context(prec=3, rounding=ROUND_HALF_EVEN).plus(amount)
        return f"{amount.normalize():f}"
    return f"{amount.quantize(CENT, rounding=ROUND_HALF_EVEN):,}"


@register.filter
def limit(quota: Any) -> str:
    """Return the limit of a quota, of the catalog or the ledger: an amount, or whole units."""
    said: str = money(quota.limit_units) if quota.meter == COGS else count(quota.limit_units)
    return said


@register.filter
def signed_money(nanos: int) -> str:
    """Return an amount with its sign: `+12.50`."""
    return f"{'+' if nanos > 0 else ''}{money(nanos)}"


@register.filter
def exact_money(nanos: int | None) -> str:
    """Return an amount as it is, to the last digit: prices are not rounded."""
    if nanos is None:
        return NONE
    text = f"{Decimal(nanos) / NANOS:,f}"
    whole, _, part = text.partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"


@register.filter
def hours(price: CostPrice) -> str:
    """Return the part of the day that a price is for: `22:00 to 06:30`."""
    return hours_of_day(price.day_from_s, price.day_to_s)


@register.filter
def count(number: int | None) -> str:
    """Return a whole number: `1,200`."""
    return NONE if number is None else f"{number:,}"


@register.filter
def units(quantity_micros: int) -> str:
    """Return a quantity of millionths exactly: `1,200.5`."""
    text = f"{Decimal(quantity_micros) / 1_000_000:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@register.filter
def percent_bp(basis_points: int | None) -> str:
    """Return basis points: `12.34 %`, `20 %`."""
    if basis_points is None:
        return NONE
    return f"{f'{Decimal(basis_points) / 100:.2f}'.removesuffix('.00')} %"


@register.filter
def signed_percent_bp(basis_points: int | None) -> str:
    """Return basis points with their sign: `+120 %`."""
    if basis_points is None:
        return "new"
    return f"{'+' if basis_points > 0 else ''}{percent_bp(basis_points)}"


@register.filter
def ratio(share: Decimal | None) -> str:
    """Return a margin; one that is undefined is never 0 %."""
    if share is None:
        return "undefined"
    return f"{(share * 100).quantize(Decimal('0.01'), rounding=ROUND_FLOOR)} %"


@register.filter
def margin(assessment: Assessment) -> str:
    """Return the margin of an assessment."""
    return str(ratio(assessment.gross_margin_ratio))


@register.filter
def minute(micros: int | None) -> str:
    """Return an instant to the minute, UTC."""
    return NONE if micros is None else f"{datetime_of(micros):%Y-%m-%d %H:%M}"


@register.filter
def second(micros: int | None) -> str:
    """Return an instant to the second, UTC."""
    return NONE if micros is None else f"{datetime_of(micros):%Y-%m-%d %H:%M:%S}"


@register.filter
def iso(micros: int) -> str:
    """Return an instant for programs."""
    return datetime_of(micros).isoformat().replace("+00:00", "Z")


@register.filter
def age(at_micros: int | None, now_micros: int) -> str:
    """Return how long ago an instant was: `3 s ago`, `2 h 5 min ago`."""
    if not at_micros:
        return "never"
    told = lasting(now_micros - at_micros)
    return "just now" if told == "0 s" or now_micros < at_micros else f"{told} ago"


@register.filter
def until(at_micros: int | None, now_micros: int) -> str:
    """Return how long it is until an instant: `in 2 d 5 h`."""
    if at_micros is None:
        return NONE
    return f"in {lasting(at_micros - now_micros)}" if at_micros > now_micros else "now"


def lasting(span_micros: int) -> str:
    """Return a span of time in its two largest units."""
    seconds = max(0, span_micros // 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    told = [f"{number} {unit}" for number, unit in parts if number][:2]
    return " ".join(told) or "0 s"


@register.filter
def level(value: Level | None) -> SafeString:
    """Return a level as a tag."""
    name, word = LEVELS[value or Level.NONE]
    return format_html('<span class="tag level-{}">{}</span>', name, word)


@register.filter
def outcome(value: str) -> SafeString:
    """Return an outcome as a tag."""
    return format_html('<span class="tag level-{}">{}</span>', OUTCOMES.get(value, "warn"), value)


@register.filter
def reason(code: str) -> SafeString:
    """Return why a call was decided so in words, with the code beside them."""
    words = codes.reason(code)
    if words == code:
        return conditional_escape(code)
    return format_html('{} <code class="code">{}</code>', words, code)


@register.filter
def reason_words(code: str) -> str:
    """Return the words alone, where there is no room for both."""
    return codes.reason(code)


@register.filter
def source(code: str) -> str:
    """Return by which way a change came, in words."""
    return codes.source(code)


@register.filter
def alert(code: str) -> str:
    """Return what an alert of a kind says, in words."""
    return codes.alert(code)


@register.filter
def sidebar_title(link: object) -> str:
    """Return what the sidebar calls the list at an address; empty: none is there."""
    return navigation.title_at(str(link)) if link else ""


@register.simple_tag
def moved(before: str, after: str) -> SafeString:
    """Return two figures as written, `1 → 2`; what stays the same, once.

    Where it is narrow the line breaks behind the arrow, and in no figure.
    """
    if before == after:
        return conditional_escape(after)
    return format_html(
        '<span class="figure">{} →</span> <span class="figure">{}</span>', before, after
    )
