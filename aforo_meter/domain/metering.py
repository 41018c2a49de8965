"""What of a call is usage, and on which meters: by the owner's rules. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from aforo_meter.domain import paths
from aforo_meter.domain.ingest_metrics import BUILT_IN
from aforo_meter.domain.usage import (
    API_CALLS,
    BYTES_REQUEST,
    BYTES_RESPONSE,
    MCP_SESSIONS,
    MCP_TOOL_CALLS,
    MICROS_PER_UNIT,
)

# What we alone count: an upstream that sends back what it was sent must not change it.
OUR_COUNTS: Final = frozenset(
    {API_CALLS, BYTES_REQUEST, BYTES_RESPONSE, MCP_TOOL_CALLS, MCP_SESSIONS}
)
OUR_COUNTS_PREFIX: Final = "llm."


class Unmetered(StrEnum):
    """Why a call is no usage. Listed in the order they are looked for."""

    REFUSED_AT_GATE = "refused_at_gate"
    NO_ROUTE = "no_route"
    CONTINUED = "continued"  # An internal redirect: the same call has a second entry.
    PREFLIGHT = "preflight"
    PATH = "path"
    STATUS = "status"
    RULE = "rule"  # Of the catalog.


_STATUSES = re.compile(r"([1-5])xx|([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")

# Envoy's word for where an answer came from, where that says that a call is no usage.
UNMETERED_DETAILS: Final = {
    "route_not_found": Unmetered.NO_ROUTE,
    "internal_redirect": Unmetered.CONTINUED,
    "cors_response": Unmetered.PREFLIGHT,
}


def why_no_usage(
    *, refused_at_gate: bool, details: str, method: str, looks_like_preflight: bool
) -> Unmetered | None:
    """Return why a call is no usage by its nature, whatever the rules say; None: it may be.

    Args:
        refused_at_gate: The answer came from external authorization.
        details: Envoy's word for where the answer came from.
        method: Upper case.
        looks_like_preflight: A header that browsers put on preflights was logged. Where Envoy's own
            CORS filter does not answer it, the method and a header have to do.
    """
    if refused_at_gate:
        return Unmetered.REFUSED_AT_GATE
    if details in UNMETERED_DETAILS:
        return UNMETERED_DETAILS[details]
    if method == "OPTIONS" and looks_like_preflight:
        return Unmetered.PREFLIGHT
    return None


class Quantity(StrEnum):
    """Where the quantity of a rule comes from."""

    ONE = "one"
    REQUEST_BYTES = "request_bytes"
    RESPONSE_BYTES = "response_bytes"
    DURATION_MS = "duration_ms"
    REPORTED = "reported"  # What the upstream says in X-Aforo-Quantity.


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line. Where a set is empty, anything matches."""

    rule_id: str
    methods: frozenset[str] = frozenset()  # Upper case.
    path_template: str = ""
    paths: frozenset[str] = frozenset()  # Exact, without query; of the settings, not the catalog.
    routes: frozenset[str] = frozenset()  # Envoy's names.
    features: frozenset[str] = frozenset()  # Calls that need one of these.
    statuses: tuple[range, ...] = ()
    execution_statuses: frozenset[str] = frozenset()
    exclude: bool = False
    why: Unmetered = Unmetered.RULE
    meter: str = ""
    quantity: Quantity = Quantity.ONE
    quantity_micros: int = MICROS_PER_UNIT  # With ONE.


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A meter that a call counts on, and by what."""

    meter: str
    quantity: Quantity
    micros: int = 0  # With ONE.


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the rules look at, apart from the path."""

    method: str
    route: str
    features: frozenset[str]
    status: int
    execution_status: str  # "" where there is none.


def built_in_rules(
    *, unmetered_paths: frozenset[str], unmetered_statuses: frozenset[int]
) -> tuple[Rule, ...]:
    """Return what holds where the catalog has no rules: calls and their bytes."""
    statuses = tuple(range(status, status + 1) for status in sorted(unmetered_statuses))
    rules = []
    if unmetered_paths:
        rules.append(
            Rule(
                rule_id="built-in:unmetered-paths",
                paths=unmetered_paths,
                exclude=True,
                why=Unmetered.PATH,
            )
        )
    if statuses:
        rules.append(
            Rule(
                rule_id="built-in:unmetered-statuses",
                statuses=statuses,
                exclude=True,
                why=Unmetered.STATUS,
            )
        )
    return (
        *rules,
        Rule(rule_id="built-in:calls", meter=API_CALLS),
        Rule(
            rule_id="built-in:request-bytes",
            meter=BYTES_REQUEST,
            quantity=Quantity.REQUEST_BYTES,
        ),
        Rule(
            rule_id="built-in:response-bytes",
            meter=BYTES_RESPONSE,
            quantity=Quantity.RESPONSE_BYTES,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PathView:
    """What is known of a path: its template, and which of the rules it fits."""

    template: str
    fits: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """The owner's rules, ready to be applied. Immutable."""

    rules: tuple[Rule, ...]
    meters: frozenset[str] = frozenset()  # The catalog's, beyond the built-in ones.
    aliases: Mapping[str, str] = field(default_factory=dict)  # Other names of a meter.
    routes: tuple[paths.RouteTemplate, ...] = ()  # The catalog's, which name paths.
    version: str = "built-in"


class Applied:
    """Rules with their patterns compiled."""

    def __init__(self, metering: Metering) -> None:
        self.metering = metering
        self._rules = metering.rules
        self._patterns = [
            paths.pattern_of(rule.path_template) if rule.path_template else None
            for rule in metering.rules
        ]
        named = [
            paths.RouteTemplate(methods=rule.methods, path_template=rule.path_template)
            for rule in metering.rules
            if rule.path_template and not rule.exclude
        ]
        self._templates = paths.Templates([*metering.routes, *named])
        # Whether the rules see no difference between a path and its template, so that what is known
        # of one user's path is known of all users': not so where a rule names an id.
        literals = [
            *(rule.path_template for rule in metering.rules),
            *(route.path_template for route in metering.routes),
            *(path for rule in metering.rules for path in rule.paths),
        ]
        self.by_template = all(paths.names_no_id(literal) for literal in literals)

    def view(self, *, method: str, path: str) -> PathView:
        """Return what the rules see of a path, which arrives raw, with its query."""
        plain = paths.plain_path(path)
        exact = path.partition("?")[0]
        return PathView(
            template=self._templates.of(method=method, plain=plain),
            fits=tuple(
                (pattern is None or pattern.fullmatch(plain) is not None)
                and (not rule.paths or exact in rule.paths)
                for rule, pattern in zip(self._rules, self._patterns, strict=True)
            ),
        )

    def apply(
        self, traits: Traits, fits: Sequence[bool]
    ) -> tuple[Unmetered | None, tuple[Counted, ...]]:
        """Return why a call is no usage, or None and what it counts on.

        Of several rules for one meter the first that matches holds.
        """
        found: dict[str, Counted] = {}
        for rule, fit in zip(self._rules, fits, strict=True):
            if not fit or not _matches(rule, traits):
                continue
            if rule.exclude:
                return rule.why, ()
            micros = rule.quantity_micros if rule.quantity is Quantity.ONE else 0
            found.setdefault(
                rule.meter, Counted(meter=rule.meter, quantity=rule.quantity, micros=micros)
            )
        return None, tuple(found.values())

    def meter_named(self, name: str) -> str:
        """Return the meter that an upstream means by a name."""
        name = name.strip()
        return self.metering.aliases.get(name) or self.metering.aliases.get(
            name.lower(), name.lower()
        )

    def may_report(self, meter: str) -> bool:
        """Return whether an upstream may report a quantity of a meter that no rule asks for."""
        ours = meter in OUR_COUNTS or meter.startswith(OUR_COUNTS_PREFIX)
        return not ours and (meter in BUILT_IN or meter in self.metering.meters)


def _matches(rule: Rule, traits: Traits) -> bool:
    return (
        (not rule.methods or traits.method in rule.methods)
        and (not rule.routes or traits.route in rule.routes)
        and (not rule.features or not rule.features.isdisjoint(traits.features))
        and (not rule.statuses or any(traits.status in each for each in rule.statuses))
        and (not rule.execution_statuses or traits.execution_status in rule.execution_statuses)
    )


def statuses_of(text: str) -> range:
    """Read "404", "5xx" or "200-299".

    Raises:
        ValueError: It is none of these.
    """
    match = _STATUSES.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text[:16]}" is no status: write 404, 5xx or 200-299')
    hundred, first, last = match.groups()
    if hundred:
        return range(int(hundred) * 100, int(hundred) * 100 + 100)
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise ValueError(f'"{text}" holds no status: its end comes before its beginning')
    return found
