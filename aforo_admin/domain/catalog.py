"""The catalog as data: what is sold, to whom, and what it costs us. Its rules are in `checking.py`.

Amounts are integers in nanos (10^-9 of the catalog's currency, or of the plan's or deal's own),
shares are basis points, instants are aware UTC. Where a field is None, the next wider rule holds.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from aforo_authz.domain.access import CredentialKind, Level, SubscriptionState
from aforo_authz.domain.quotas import WindowKind
from aforo_meter.domain.margin import AllowanceThresholds
from aforo_meter.domain.metering import Quantity
from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.rate_card import RateCard
from aforo_meter.domain.terms import ExchangeRate, RevenueBasis
from aforo_meter.domain.usage import MICROS_PER_UNIT

API_CALLS: Final = "api.calls"
INPUT_TOKENS: Final = "llm.input_tokens"
CACHED_INPUT_TOKENS: Final = "llm.cached_input_tokens"
CACHE_CREATION_TOKENS: Final = "llm.cache_creation_tokens"
TOOL_TOKENS: Final = "llm.tool_tokens"
OUTPUT_TOKENS: Final = "llm.output_tokens"
REASONING_TOKENS: Final = "llm.reasoning_tokens"

# What usage has cost us, as a quota's meter: in nanos of the catalog's currency. Nothing is priced
# by it, and no caller is told a figure of it.
COGS: Final = "money.cogs"

# Counted by what is understood of a call, whatever the metering rules say.
OWN_COUNTING_METERS: Final = (
    INPUT_TOKENS,
    CACHED_INPUT_TOKENS,
    CACHE_CREATION_TOKENS,
    TOOL_TOKENS,
    OUTPUT_TOKENS,
    REASONING_TOKENS,
    "mcp.tool_calls",
    "mcp.sessions",
)
METERS: Final = (
    API_CALLS,
    "bytes.request",
    "bytes.response",
    *OWN_COUNTING_METERS,
    "agent.capability_calls",
    "agent.steps",
    "agent.sessions",
    "graphql.operations",
    "grpc.calls",
    "mqtt.connects",
    "mqtt.deliveries",
    "mqtt.disconnects",
    "mqtt.messages",
    "mqtt.subscribes",
    "mqtt.unsubscribes",
    "websocket.connections",
    "websocket.connections_closed",
    "websocket.messages",
)

# Whose price holds for a kind of token that a model has no own price for.
PRICE_FALLBACKS: Final[Mapping[str, str]] = {
    CACHED_INPUT_TOKENS: INPUT_TOKENS,
    CACHE_CREATION_TOKENS: INPUT_TOKENS,
    TOOL_TOKENS: INPUT_TOKENS,
    REASONING_TOKENS: OUTPUT_TOKENS,
}

BUILT_IN_CURRENCY: Final = "USD"  # Providers publish their prices in it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Margin floors in basis points of revenue, compared strictly: on the floor is not below it."""

    warn_below_bp: int = 2000
    throttle_below_bp: int = 1000
    block_below_bp: int = 0
    hysteresis_bp: int = 100  # How far above a floor the margin must rise before its level ends.
    # With less revenue, or fewer metered calls in the period, the level is at most a warning.
    act_from_revenue_nanos: int = 0
    act_from_calls: int = 0
    allowance: AllowanceThresholds | None = None  # None: what the floors leave of it.

    def changed_by(self, changes: "ThresholdChanges") -> "Thresholds":
        if changes == NO_CHANGES:
            return self
        said = {name: value for name, value in changes.as_dict().items() if value is not None}
        return replace(self, **said)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdChanges:
    """What a narrower rule says of the thresholds."""

    warn_below_bp: int | None = None
    throttle_below_bp: int | None = None
    block_below_bp: int | None = None
    hysteresis_bp: int | None = None
    act_from_revenue_nanos: int | None = None
    act_from_calls: int | None = None
    allowance: AllowanceThresholds | None = None  # All three levels.

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def empty(self) -> bool:
        return self == NO_CHANGES


NO_CHANGES: Final = ThresholdChanges()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A margin of a part of the usage. Of the two revenues one is said."""

    guard_id: str
    features: tuple[str, ...] = ()  # Usage of calls that need one of these; empty: of all calls.
    meters: tuple[str, ...] = ()  # A `*` at the end stands for anything; empty: all meters.
    revenue_nanos: int | None = None  # Per period.
    revenue_share_bp: int | None = None  # Of the contract's.
    thresholds: ThresholdChanges = NO_CHANGES  # Of the contract's.


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    feature_id: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One line of the ordered rules that say which features a call needs."""

    methods: tuple[str, ...]  # Upper case; empty: any.
    path_template: str
    features: tuple[str, ...]  # All of them are needed; empty: open to every known tenant.
    weight_units: int = 1  # What one call counts on api.calls quotas.


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    quota_id: str
    meter: str
    limit_units: int  # Of money.cogs: nanos.
    window: WindowKind
    features: tuple[str, ...] = ()  # Counts calls that need one of these; empty: all calls.
    soft: bool = False  # Over the limit the call passes, with a header.


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaChange:
    """What a deal says of one quota: of the plan's with this id, or a further one."""

    quota_id: str
    meter: str | None = None
    limit_units: int | None = None
    unlimited: bool = False  # The plan's quota does not hold.
    window: WindowKind | None = None
    features: tuple[str, ...] | None = None
    soft: bool | None = None


class Billing(StrEnum):
    """Where billing periods begin."""

    ANNIVERSARY = "anniversary"  # Of the subscription's start.
    CALENDAR = "calendar"  # On the first of the month, or of the year.


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    plan_id: str
    title: str
    committed_fee_nanos: int  # Per period.
    allowance_nanos: int | None = None  # COGS per period that a plan without a fee may cause.
    currency: str = ""  # Of fee, rate card and prepaid balance. Empty: the catalog's.
    cadence: Cadence = Cadence.MONTH
    billing: Billing = Billing.ANNIVERSARY
    basis: RevenueBasis = RevenueBasis.PERIOD
    rate_cards: tuple[RateCard, ...] = ()  # Dated. None: usage brings no revenue.
    prepaid_nanos: int = 0  # What usage charges draw on first.
    features: tuple[str, ...] = ()
    quotas: tuple[Quota, ...] = ()
    thresholds: ThresholdChanges = NO_CHANGES
    guards: tuple[Guard, ...] = ()
    shadow: bool = False
    stale_margin_blocks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """What was agreed with one tenant beyond its plan, for [effective_from, effective_until)."""

    deal_id: str
    effective_from: datetime
    effective_until: datetime | None = None  # None: for good.
    committed_fee_nanos: int | None = None
    allowance_nanos: int | None = None
    currency: str = ""  # Of the deal's amounts. Empty: the plan's.
    basis: RevenueBasis | None = None
    rate_cards: tuple[RateCard, ...] | None = None  # Instead of all of the plan's.
    prepaid_nanos: int | None = None
    add_features: tuple[str, ...] = ()
    quotas: tuple[QuotaChange, ...] = ()
    thresholds: ThresholdChanges = NO_CHANGES
    guards: tuple[Guard, ...] = ()  # One with the id of a plan's stands instead of it.

    def holds_at(self, now: datetime) -> bool:
        return self.effective_from <= now and (
            self.effective_until is None or now < self.effective_until
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    plan_id: str
    effective_from: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    subscription_id: str
    plan_id: str  # As it starts.
    started_at: datetime  # Billing periods are its anniversaries, unless the plan says otherwise.
    state: SubscriptionState = SubscriptionState.ACTIVE
    changes: tuple[PlanChange, ...] = ()  # To other plans, by date.
    ended_at: datetime | None = None  # Exclusive. None: it has no end yet.

    def plan_at(self, at: datetime) -> str:
        """Return the id of the plan in force at an instant."""
        begun = [change.plan_id for change in self.changes if change.effective_from <= at]
        return begun[-1] if begun else self.plan_id

    @property
    def plan_ids(self) -> tuple[str, ...]:
        """All plans that it has or will have, each once."""
        return tuple(dict.fromkeys([self.plan_id, *(c.plan_id for c in self.changes)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What identifies a tenant. Of an API key only the hash is known."""

    credential_id: str
    kind: CredentialKind
    identity: str  # The key's SHA-256 in lower-case hex; the JWT's subject; the certificate's URI.
    revoked: bool = False
    expires_at: datetime | None = None  # Refused from this instant on.

    @property
    def sha256_hex(self) -> str:
        """Return what the decision looks it up by; a NUL keeps the kinds apart."""
        if self.kind is CredentialKind.API_KEY:
            return self.identity
        prefix = "jwt" if self.kind is CredentialKind.JWT_SUBJECT else "certificate"
        return sha256_hex(f"{prefix}\0{self.identity}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginOverride:
    """Finance lets a tenant through although the margin says otherwise."""

    level_max: Level  # The level is never taken as worse than this …
    until: datetime  # … before this instant.
    reason: str
    author: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPrice:
    """What a meter costs us from a date on, until a later entry's. Zero says that it is free.

    Of those of one date, the one for a part of the day goes before the one for all day, then the
    one for the most input tokens that the request has.
    """

    meter: str
    price_nanos: int  # For `per_units`.
    per_units: int
    effective_from: datetime
    provider: str = ""  # Empty: any.
    model: str = ""  # Empty: any. A `*` at its start or end stands for anything.
    input_tokens_from: int = 0  # For requests of so many input tokens or more, as a whole.
    day_from_s: int = 0  # Seconds after midnight UTC, half-open; both 0: all day.
    day_to_s: int = 0  # Below `day_from_s`: past midnight.


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A meter beyond the built-in ones."""

    meter: str
    title: str
    unit: str = ""  # For people: "page", "minute".
    aliases: tuple[str, ...] = ()  # Names that clients and upstreams give it.


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringRule:
    """One line of the rules that say which calls count, and on what. Empty lists: anything."""

    rule_id: str
    methods: tuple[str, ...] = ()
    path_template: str = ""
    routes: tuple[str, ...] = ()  # Envoy's names.
    features: tuple[str, ...] = ()  # Calls that need one of these.
    statuses: tuple[str, ...] = ()
    execution_statuses: tuple[str, ...] = ()
    exclude: bool = False
    meter: str = ""
    quantity: Quantity = Quantity.ONE
    quantity_micros: int = MICROS_PER_UNIT  # With ONE, for each call.

    @property
    def takes_all(self) -> bool:
        """Whether no call escapes it."""
        return not (
            self.methods
            or self.path_template
            or self.routes
            or self.features
            or self.statuses
            or self.execution_statuses
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestKey:
    """A key of the owner's own programs, which report usage over HTTP. Only its hash is known."""

    key_id: str
    sha256: str  # In lower-case hex.
    scopes: tuple[str, ...]
    installation: str = ""  # What X-Tenant-Id may confirm.
    tenants: tuple[str, ...] = ()  # Whose usage it may report; empty: everybody's.
    revoked: bool = False
    expires_at: datetime | None = None  # Refused from this instant on.


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    tenant_id: str
    name: str
    subscription: Subscription
    former: tuple[Subscription, ...] = ()  # Those that it had before, in turn; all have an end.
    credentials: tuple[Credential, ...] = ()
    deals: tuple[Deal, ...] = ()
    thresholds: ThresholdChanges = NO_CHANGES
    shadow: bool | None = None
    margin_override: MarginOverride | None = None
    negotiated_costs: tuple[CostPrice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything. Rules hold across its parts: see `checking.find_problems`."""

    currency: str
    thresholds: Thresholds = Thresholds()
    features: tuple[Feature, ...] = ()
    routes: tuple[Route, ...] = ()
    default_allows: bool = False  # A path that no route names is open to every known tenant.
    plans: Mapping[str, Plan] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    costs: tuple[CostPrice, ...] = ()
    built_in_costs: bool = True  # Use the published prices of language models too.
    prices_file: str = ""  # Where these were imported to; empty: those of the installed package.
    meters: tuple[Meter, ...] = ()
    metering: tuple[MeteringRule, ...] = ()  # Empty: the built-in rules.
    ingest_keys: tuple[IngestKey, ...] = ()
    exchange_rates: tuple[ExchangeRate, ...] = ()  # To the catalog's currency.

    @property
    def known_meters(self) -> frozenset[str]:
        return frozenset(METERS) | {meter.meter for meter in self.meters}


def sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
