"""Why a tenant has its level, as people read it."""

from collections.abc import Iterator
from typing import Final

from aforo_meter.command_tables import columns, many, minute, money, units
from aforo_meter.domain.floors import Standing, standings
from aforo_meter.domain.inquiry import CostLine, KeptPrice
from aforo_meter.domain.margin import Assessment, Thresholds
from aforo_meter.domain.prices import Precedence
from aforo_meter.domain.statement import Line
from aforo_meter.explanation import Explanation, GuardTold
from aforo_meter.line_text import line_text
from aforo_meter.shown_events import plain
from aforo_meter.shown_values import LEVELS, age, margin, percent_bp, share, span

MARKS: Final = {True: "NO", False: "ok"}
ORDER: Final = ", then ".join(Precedence)


def as_text(told: Explanation) -> str:
    """Return lines for a terminal."""
    parts = [
        _head(told),
        _floors(told.record.state.assessment, told.thresholds, told.currency),
        *(_guard(one, told) for one in told.guards),
        _revenue(told),
        _costs(told),
        _shares(told),
        *([_adjusted(told)] if told.record.adjusted else []),
        _interventions(told),
        _ages(told),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _head(told: Explanation) -> list[str]:
    state, known = told.record.state, told.known
    since = f" since {minute(state.level_since_micros)} UTC" if state.level_since_micros else ""
    plan = f", plan {told.statement.plan_id}" if told.statement.plan_id else ""
    subscription = f"subscription {state.subscription_id}" if state.subscription_id else "none"
    lines = [
        f"level      {LEVELS[state.level]}{since}{_when(told)}",
        f"tenant     {state.tenant_id}, {subscription}{plan}",
        f"period     {span(state.period)}",
        f"margin     {_margin(state.assessment, told.currency)}",
    ]
    if told.override is not None:
        until = f"until {minute(told.override.until_micros)} UTC"
        allowed = f"never worse than {LEVELS[told.override.level_max]} {until}"
        lines.append(f"override   {allowed}: decisions take {LEVELS[told.decided_level]}")
        why = ": ".join(filter(None, (told.override.author, told.override.reason)))
        lines += [f"           {plain(why)}"] if why else []
    if known.shadow:
        lines.append("shadow     its level is counted and logged, and refuses nothing")
    return lines + [
        f"also       subscription {other} has usage in this time: --subscription"
        for other in told.record.other_subscriptions
    ]


def _when(told: Explanation) -> str:
    """Say of when a level is, if it is none that decisions go by."""
    if told.record.state.assessed_at_micros is None:
        return ", never assessed" if told.record.costs else ", no usage yet"
    return "" if told.record.state.in_force else ", as this period was last assessed"


def _margin(assessment: Assessment, currency: str) -> str:
    cogs = money(assessment.cogs_nanos)
    if assessment.revenue_nanos:
        revenue = money(assessment.revenue_nanos)
        left = money(assessment.revenue_nanos - assessment.cogs_nanos)
        granted = money(assessment.allowance_nanos) if assessment.allowance_nanos else ""
        return (
            f"{margin(assessment)} = ({revenue} revenue − {cogs} COGS) / {revenue} revenue,"
            f" {left} {currency} left" + (f"; allowance {granted} {currency}" if granted else "")
        )
    if assessment.allowance_nanos:
        allowance = money(assessment.allowance_nanos)
        return f"undefined, without revenue; {cogs} COGS of an allowance of {allowance} {currency}"
    return f"undefined, without revenue or allowance: no floor applies; {cogs} {currency} COGS"


def _floors(assessment: Assessment, thresholds: Thresholds, currency: str) -> list[str]:
    found = standings(assessment, thresholds)
    if not found:
        return ["floors", "  none apply"]
    rows = [
        (
            f"  {MARKS[one.holds]}",
            LEVELS[one.level],
            f"below {percent_bp(one.floor_bp)}",
            f"COGS above {money(one.cogs_max_nanos)} {currency}",
            _standing(one, assessment.cogs_nanos),
        )
        for one in found
    ]
    lines = [f"floors     set by {_sources(thresholds.source)}", *columns(rows, right=())]
    if any(one.holds and one.level > assessment.level for one in found):
        lines.append("  too little revenue, or too few calls, to act on: warn (L1) at most")
    return lines


def _sources(source: str) -> str:
    names = source.split(", ")
    return ", ".join("the catalog's thresholds" if name == "catalog" else name for name in names)


def _standing(one: Standing, cogs_nanos: int) -> str:
    if one.is_undercut:
        return f"undercut; ends at a margin of {percent_bp(one.ends_at_bp)}"
    if one.is_held:
        return f"held by hysteresis until the margin is {percent_bp(one.ends_at_bp)}"
    return f"{money(one.cogs_max_nanos - cogs_nanos)} away"


def _guard(one: GuardTold, told: Explanation) -> list[str]:
    guard, state = one.guard, one.state
    since = f" since {minute(state.level_since_micros)} UTC" if state.level_since_micros else ""
    decided = told.decided(state.level)
    softened = f": decisions take {LEVELS[decided]}" if decided is not state.level else ""
    lines = [f"guard      {plain(state.guard_id)}: {LEVELS[state.level]}{since}{softened}"]
    if guard is None:
        lines.append("measures   the contract has no such guard now: its floors are not known")
    else:
        features = ", ".join(sorted(guard.features)) or "any feature"
        lines.append(plain(f"measures   {features}; {', '.join(guard.meters) or 'all meters'}"))
    if guard is not None and not state.level_since_micros:
        lines.append("assessed   not yet: its level comes with the next usage, or sync")
    lines.append(f"margin     {_margin(state.assessment, told.currency)}")
    if guard is not None:
        lines += _floors(state.assessment, guard.thresholds, told.currency)
    return lines


def _revenue(told: Explanation) -> list[str]:
    state, currency = told.record.state, told.statement.currency
    lines = told.revenue_lines
    rows = [(f"  {line_text(line)}", _charged(line), money(line.amount_nanos)) for line in lines]
    rows.append(("  revenue", "", money(sum(line.amount_nanos for line in lines))))
    if state.currency not in (None, currency):
        rows.append((f"  in {state.currency}", "", money(state.assessment.revenue_nanos)))
    return [f"revenue    {currency}", *columns(rows, right={2})]


def _charged(line: Line) -> str:
    if not line.meter:
        return ""
    return f"{units(line.used_micros)} used, {units(line.charged_micros)} charged"


def _costs(told: Explanation) -> list[str]:
    head = ("  meter", "model", "quantity", "price", "amount", "whose price")
    rows = [
        (
            f"  {line.meter}",
            model_of(line),
            units(line.quantity_micros),
            price_text(line.price) if line.price else "-",
            money(line.cogs_nanos) if line.price else "unpriced",
            origin_text(line.price) if line.price else "no price covers it yet",
        )
        for line in told.record.costs
    ]
    total = ("  COGS", "", "", "", money(told.record.state.cogs_nanos), "")
    currency = next((line.price.currency for line in told.record.costs if line.price), "")
    return [
        f"COGS       {currency}".rstrip(),
        *columns([head, *rows, total], right={2, 4}),
        f"  the first that covers a usage holds: {ORDER}",
    ]


def model_of(line: CostLine) -> str:
    return plain("/".join(filter(None, (line.provider, line.model)))) or "-"


def price_text(price: KeptPrice) -> str:
    per = f" per {price.per_units:,}" if price.per_units != 1 else " each"
    return f"{money(price.price_nanos)}{per}"


def origin_text(price: KeptPrice) -> str:
    """Say whose price it is, where it comes from, and when it holds."""
    parts = [price.precedence.value]
    if price.precedence is Precedence.BUILT_IN:
        parts.append(price.source)
    since = price.effective_from_micros
    parts.append(f"from {minute(since)} UTC" if since else "from the beginning")
    if price.tier_input_tokens_from:
        parts.append(f"requests of {price.tier_input_tokens_from:,} tokens or more")
    return ", ".join(parts)


def _shares(told: Explanation) -> list[str]:
    rows = [
        (
            f"  {meter}",
            _units(used.quantity_micros),
            f"unpriced {share(used.unpriced_micros, used.quantity_micros)}",
            f"estimated {share(used.estimated_micros, used.quantity_micros)}",
        )
        for meter, used in told.record.units_by_meter().items()
        if used.unpriced_micros or used.estimated_micros
    ]
    if not rows:
        return ["shares     nothing is unpriced, nothing estimated"]
    estimated = money(told.record.state.estimated_cogs_nanos)
    head = f"shares     of COGS, {estimated} rest on estimates; not in COGS: what is unpriced"
    return [head, *columns(rows, right={1})]


def _units(quantity_micros: int) -> str:
    shown = units(quantity_micros)
    return f"{shown} unit" if shown == "1" else f"{shown} units"


def _adjusted(told: Explanation) -> list[str]:
    rows = [
        (
            f"  {minute(one.at_micros)} UTC",
            one.kind,
            plain(f"{one.author}: {one.reason}"),
            many(one.rows, "row"),
            money(one.cogs_nanos),
        )
        for one in told.record.adjusted
    ]
    return ["adjustments, which are in COGS", *columns(rows, right={3, 4})]


def _interventions(told: Explanation) -> list[str]:
    if not told.record.interventions:
        return ["interventions", "  none"]
    rows = [
        (f"  {one.outcome}", plain(one.reason), f"{one.calls:,}")
        for one in told.record.interventions
    ]
    return ["interventions, in the hours of the period", *columns(rows, right={2})]


def _ages(told: Explanation) -> list[str]:
    return ["ages", *columns([(f"  {name}", text) for name, text in _aged(told)], right=())]


def _aged(told: Explanation) -> Iterator[tuple[str, str]]:
    now, state, synced = told.now_micros, told.record.state, told.synced
    published = told.known.published
    if published is None:
        yield "margin in Redis", "not there: decisions know no level"
    else:
        differs = "" if published.level is state.level else f", level {LEVELS[published.level]}"
        yield "margin in Redis", f"{age(published.as_of_micros, now)}{differs}"
    confirmed = published.confirmed_micros if published else 0
    yield "usage complete as of", age(confirmed, now) if confirmed else "unknown"
    if state.assessed_at_micros:
        versions = f"terms {state.catalog_version}, price book {state.price_book_version}"
        yield "assessed", f"{age(state.assessed_at_micros, now)}, with {versions}"
    else:
        yield "assessed", "never: no contract was known"
    versions = f"catalog {synced.catalog_version}, price book {synced.price_book_version}"
    yield "last sync", f"{age(synced.completed_at_micros, now)}, {versions}"
