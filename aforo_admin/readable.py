"""Messages of the read model → lines for people. Units come from the fields' names."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any, Final

from google.protobuf.message import Message

from aforo_admin.domain.catalog import COGS
from aforo_admin.domain.problems import percent
from aforo_admin.readable_guards import guard_text
from aforo_admin.readable_rates import phase_lines
from aforo_admin.readable_values import EPOCH, instant_text, money
from aforo_meter.domain.usage import MICROS_PER_UNIT
from aforo_proto.contract_pb2 import (
    Contract,
    ExchangeRate,
    Guard,
    ModelMatch,
    Phase,
    PriceEntry,
    PriceList,
)
from aforo_proto.margin_pb2 import GuardLevel, Margin, QuotaUsage
from aforo_proto.metering_pb2 import Meter, MeteringRule, QuantitySource
from aforo_proto.policy_pb2 import Quota, RouteRule

DAY_S: Final = 86_400

# Of fields that say something when they are zero.
_ZERO_MEANS: Final = {
    "expires_at_micros": "never",
    "effective_from_micros": "always",
    "allowance_nanos": "none",
    "ended_at_micros": "never",
    "act_from_revenue_nanos": "none",
    "act_from_calls": "none",
}


_IN_CONTRACT_CURRENCY: Final = frozenset({"contract_revenue_nanos", "prepaid_left_nanos"})


def fields_of(message: Message, *, currency: str = "") -> dict[str, str]:
    """Return a message's fields by their names without units, in order, nested ones with dots.

    Members of a list are named by their id, so that two lists can be compared.
    """
    return dict(_flat(message, "", currency or getattr(message, "currency", "")))


def _flat(message: Message, prefix: str, currency: str) -> Iterator[tuple[str, str]]:
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(message, field.name)
        name = prefix + _plain_name(field.name)
        if field.message_type is None:
            many = field.is_repeated
            unit = _currency_of(message, field.name, currency)
            parts = [_text(field, each, unit) for each in (value if many else [value])]
            yield name, ", ".join(parts) or "none"
        elif field.is_repeated:
            yield from _members(value, name, _currency_of(message, field.name, currency))
        elif message.HasField(field.name):
            yield from _flat(value, f"{name}.", _currency_of(message, field.name, currency))


def _currency_of(message: Message, field_name: str, currency: str) -> str:
    """Return what an amount is in: costs and allowances are not in a contract's own currency."""
    if isinstance(message, Margin) and field_name in _IN_CONTRACT_CURRENCY:
        return message.contract_currency
    if isinstance(message, Contract) and field_name != "committed_fee_nanos":
        return next((rate.to_currency for rate in message.exchange_rates), currency)
    return currency


def _members(members: Iterable[Message], name: str, currency: str) -> Iterator[tuple[str, str]]:
    """Yield one line a member; of lists of prices, one line a price."""
    order: list[str] = []
    for member in members:
        if isinstance(member, PriceList):
            who = f"{name}[{member.provider or '*'}/{member.model or '*'}]"
            if member.HasField("match"):
                yield f"{who}.match", _match_text(member.match)
            for entry in member.entries:
                yield f"{name}[{entry.price_id}]", _price_text(entry, currency)
        elif isinstance(member, RouteRule | MeteringRule):
            label, text = _rule_text(member)
            order.append(label)
            yield f"{name}[{label}]", text
        else:
            yield from _lines_of(member, name, currency)
    if order:
        yield f"{name}.order", ", ".join(order)


def _lines_of(member: Message, name: str, currency: str) -> Iterator[tuple[str, str]]:
    if isinstance(member, Meter):
        yield f"{name}[{member.meter}]", ", also ".join([member.title, *member.aliases])
    elif isinstance(member, Quota):
        yield f"{name}[{member.quota_id}]", _quota_text(member, currency)
    elif isinstance(member, QuotaUsage):
        since = instant_text(member.window_start_micros)
        yield f"{name}[{member.quota_id}]", f"{member.used_units:,} since {since}"
    elif isinstance(member, Guard):
        yield f"{name}[{member.guard_id}]", guard_text(member, currency)
    elif isinstance(member, GuardLevel):
        level = _enum_text(member.DESCRIPTOR.fields_by_name["level"].enum_type, member.level)
        calls = ", ".join(member.features) or "all calls"
        yield f"{name}[{member.guard_id}]", f"{level}, for {calls}"
    elif isinstance(member, Contract):
        here = f"{name}[{member.subscription_id}]"
        yield here, f"plan {member.plan_id}, until {instant_text(member.ended_at_micros)}"
        for phase in member.phases:
            yield from phase_lines(phase, f"{here}.phases")
    elif isinstance(member, Phase):
        yield from phase_lines(member, name)
    elif isinstance(member, ExchangeRate):
        since = instant_text(member.effective_from_micros)
        rate = money(member.rate_nanos, member.to_currency)
        yield f"{name}[{member.currency}, {since}]", f"1 {member.currency} = {rate}"


def _price_text(entry: PriceEntry, currency: str) -> str:
    start = _ZERO_MEANS["effective_from_micros"]
    if entry.effective_from_micros:
        start = f"from {instant_text(entry.effective_from_micros)}"
    text = f"{money(entry.price_nanos, currency)} per {entry.per_units:,} {entry.meter}, {start}"
    if entry.tier_input_tokens_from:
        text += f", for requests of {entry.tier_input_tokens_from:,} input tokens or more"
    if entry.day_from_s != entry.day_to_s:
        text += f", from second {entry.day_from_s} to {entry.day_to_s} of the day (UTC)"
    return f"{text} ({entry.source})"


def _rule_text(rule: RouteRule | MeteringRule) -> tuple[str, str]:
    """Return what a rule is called, and what it says."""
    if isinstance(rule, MeteringRule):
        return rule.rule_id, _metering_text(rule)
    return f"{'|'.join(rule.methods) or 'any'} {rule.path_template}", _route_text(rule)


def _metering_text(rule: MeteringRule) -> str:
    wanted = [
        *rule.methods,
        *([rule.path_template] if rule.path_template else []),
        *(f"route {route}" for route in rule.routes),
        *(f"feature {feature}" for feature in rule.features),
        *(f"status {status}" for status in rule.status_ranges),
        *rule.execution_statuses,
    ]
    calls = ", ".join(wanted) or "every call"
    if rule.exclude:
        return f"{calls}: no usage"
    if rule.quantity_micros:
        quantity = f"{rule.quantity_micros / MICROS_PER_UNIT:g}"
    else:
        quantity = QuantitySource.Name(rule.quantity).removeprefix("QUANTITY_SOURCE_").lower()
    return f"{calls}: {quantity} {rule.meter}"


def _route_text(rule: RouteRule) -> str:
    weight = f", counts as {rule.weight_units} calls" if rule.weight_units > 1 else ""
    return f"needs {', '.join(rule.features) or 'no feature'}{weight}"


def _quota_text(quota: Quota, currency: str) -> str:
    window = _enum_text(Quota.DESCRIPTOR.fields_by_name["window"].enum_type, quota.window)
    of_features = f" of {', '.join(quota.features)}" if quota.features else ""
    kind = "soft" if quota.soft else "hard"
    limit = f"{quota.limit_units:,}"
    if quota.meter == COGS:
        limit = money(quota.limit_units, currency)
    return f"{limit} {quota.meter}{of_features} a {window}, {kind}"


def _plain_name(name: str) -> str:
    for unit in ("_micros", "_nanos", "_bp"):
        name = name.removesuffix(unit)
    return name


def _text(field: Any, value: Any, currency: str) -> str:  # noqa: ANN401 - any scalar field.
    if not value and field.name in _ZERO_MEANS:
        return _ZERO_MEANS[field.name]
    if field.enum_type is not None:
        return _enum_text(field.enum_type, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    unit = field.name.rpartition("_")[2]
    if unit == "nanos":
        return money(value, currency)
    return {"micros": instant_text, "bp": percent}.get(unit, str)(value)


def _enum_text(kind: Any, value: int) -> str:  # noqa: ANN401 - two classes of descriptors.
    """Return an enum's value without the prefix that all its names share, in lower case."""
    if value not in kind.values_by_number:
        return f"unknown ({value})"
    # SubscriptionState → SUBSCRIPTION_STATE_
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in kind.name).lstrip("_")
    return str(kind.values_by_number[value].name.removeprefix(f"{prefix}_").lower())


def _match_text(match: ModelMatch) -> str:
    rule = match.WhichOneof("rule")
    if rule in {"any_of", "all_of"}:
        members = getattr(match, rule).matches
        return f"{rule}({', '.join(_match_text(member) for member in members)})"
    return f'{rule} "{getattr(match, rule)}"' if rule else "any"


def age_text(at_micros: int, now: datetime) -> str:
    """Say how long ago an instant was: 3 s ago, 2 h 5 min ago."""
    seconds = int((now - EPOCH - timedelta(microseconds=at_micros)).total_seconds())
    if seconds < 0:
        return f"{-seconds} s ahead of this clock"
    days, rest_s = divmod(seconds, DAY_S)
    hours, rest_s = divmod(rest_s, 3600)
    minutes, rest_s = divmod(rest_s, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest_s, "s")]
    told = [f"{count} {unit}" for count, unit in parts if count][:2]
    return f"{' '.join(told) or '0 s'} ago"


def margin_ratio_text(*, revenue_nanos: int, cogs_nanos: int) -> str:
    """Return (revenue - COGS) / revenue, rounded down; undefined without revenue, never 0."""
    if revenue_nanos == 0:
        return "undefined (no revenue)"
    ratio = Fraction(revenue_nanos - cogs_nanos, revenue_nanos)
    exact = Decimal(ratio.numerator) / Decimal(ratio.denominator)
    return str(exact.quantize(Decimal("0.0001"), rounding=ROUND_FLOOR))


def margin_percent_text(*, revenue_nanos: int, cogs_nanos: int) -> str:
    """Return the same in percent: 29.90 %."""
    text = margin_ratio_text(revenue_nanos=revenue_nanos, cogs_nanos=cogs_nanos)
    return text if revenue_nanos == 0 else f"{Decimal(text) * 100:.2f} %"
