"""An alert as a plain sentence, for Slack's incoming webhooks and what takes their form."""

import contextlib
import json
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from aforo_meter import alerts

CENT: Final = Decimal("0.01")
SIGNS: Final = {"USD": "$", "EUR": "€", "GBP": "£"}

Data = Mapping[str, Any]


def text_body(payload: bytes) -> bytes:
    """Return the body of a post: {"text": …}."""
    return json.dumps({"text": sentence(payload)}, ensure_ascii=False).encode()


def sentence(payload: bytes) -> str:
    """Say what a payload says, in a sentence; of one from another version, what it is called."""
    message = json.loads(payload)
    data = message["data"]
    text = f"{data.get('tenant') or 'aforo'}: {message['type']}"
    with contextlib.suppress(KeyError, TypeError):  # Of another version's message: see its payload.
        text = SENTENCES[message["type"]](data)
    # Slack reads these as markup; names come from outside.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def money(nanos: int, currency: str) -> str:
    """Return an amount as people read it, to the cent; half a cent goes to the even one."""
    return _signed(_units(nanos).quantize(CENT, rounding=ROUND_HALF_EVEN), currency)


def price(nanos: int, currency: str) -> str:
    """Return a price with all its digits, and at least cents."""
    units = _units(nanos)
    cents = units.quantize(CENT, rounding=ROUND_HALF_EVEN)
    return _signed(cents if cents == units else units.normalize(), currency)


def _units(nanos: int) -> Decimal:
    return Decimal(nanos).scaleb(-9)


def _signed(amount: Decimal, currency: str) -> str:
    minus = "−" if amount < 0 else ""
    if currency in SIGNS:
        return f"{minus}{SIGNS[currency]}{abs(amount):,f}"
    return f"{minus}{abs(amount):,f} {currency}"


def _level_changed(data: Data) -> str:
    guard = data["guard"]
    what = "margin level" if guard is None else f"level of the margin {guard['id']}"
    return (
        f"{data['tenant']}: {what} {data['from']} → {data['to']},"
        f" {_spent(data, data)} ({_days(data)})"
    )


def _spent(figures: Data, data: Data) -> str:
    cogs = money(figures["cogs_nanos"], data["currency"])
    if figures["gross_margin_ratio"] is not None:
        of = money(figures["revenue_nanos"], data["currency"])
        return f"{cogs} of {of} spent, margin {_percent(figures['gross_margin_ratio'])}"
    if figures["allowance_nanos"]:
        of = money(figures["allowance_nanos"], data["currency"])
        return f"{cogs} of an allowance of {of} spent, no revenue"
    return f"{cogs} spent, no revenue and no allowance"


def _completeness_low(data: Data) -> str:
    return (
        f"{data['tenant']}: {data['missing']:,} of {data['decided']:,} calls that were decided in"
        f" the hour from {_minute(data['hour_start'])} were not logged;"
        f" {_bp(data['score_bp'])} were, {_bp(data['threshold_bp'])} are expected"
    )


def _quota_reached(data: Data) -> str:
    if data["currency"] is None:
        used, limit = f"{data['used_units']:,}", f"{data['limit_units']:,} {data['meter']}"
    else:
        used = money(data["used_units"], data["currency"])
        limit = f"{money(data['limit_units'], data['currency'])} of COGS"
    return (
        f"{data['tenant']}: {used} of {limit} used, {_bp(data['threshold_bp'])} of quota"
        f" {data['quota']} reached (until {_minute(data['window_end'])})"
    )


def _usage_unpriced(data: Data) -> str:
    return (
        f"{data['tenant']}: no price for {data['meter']}{_of(data)}: {data['quantity']} used since"
        f" {_minute(data['since'])}; it is kept, and charged once there is a price"
    )


def _price_changed(data: Data) -> str:
    changes = "; ".join(_change(one, data["currency"]) for one in data["changes"])
    when = "from" if data["state"] == "announced" else "since"
    return (
        f"{data['tenant']}: new price{_of(data)} {when} {_minute(data['effective_from'])}:"
        f" {changes}. In the {_days(data)}: {_spent(data['before'], data)};"
        f" the same usage at the new price: {_spent(data['after'], data)}"
    )


def _change(change: Data, currency: str) -> str:
    def each(prices: list[Data]) -> str:
        return ", ".join(
            f"{price(one['price_nanos'], currency)} per {one['per_units']:,}" for one in prices
        )

    return f"{change['meter']} {each(change['before'])} → {each(change['after'])}"


def _sync_stale(data: Data) -> str:
    if data["completed_at"] is None:
        return (
            f"aforo: no complete sync has been in Redis for {data['age_s']:,} s: changes of the"
            " catalog do not arrive"
        )
    return (
        f"aforo: the last complete sync is {data['age_s']:,} s old"
        f" ({_minute(data['completed_at'])}): changes of the catalog do not arrive"
    )


def _test(data: Data) -> str:
    return f"aforo: a test of endpoint {data['endpoint']}; nothing has happened"


def _of(data: Data) -> str:
    names = " ".join(name for name in (data["provider"], data["model"]) if name)
    return f" of {names}" if names else ""


def _days(data: Data) -> str:
    return f"period {data['period_start'][:10]} to {data['period_end'][:10]}"


def _minute(instant: str) -> str:
    return f"{instant[:10]} {instant[11:16]} UTC"


def _percent(ratio: str) -> str:
    return f"{Decimal(ratio) * 100:.2f} %".replace("-", "−")


def _bp(bp: int) -> str:
    return f"{Decimal(bp).scaleb(-2).normalize():f} %"


SENTENCES: Final[Mapping[str, Callable[[Data], str]]] = {
    alerts.LEVEL_CHANGED: _level_changed,
    alerts.COMPLETENESS_LOW: _completeness_low,
    alerts.QUOTA_REACHED: _quota_reached,
    alerts.USAGE_UNPRICED: _usage_unpriced,
    alerts.PRICE_CHANGED: _price_changed,
    alerts.SYNC_STALE: _sync_stale,
    alerts.TEST: _test,
}
