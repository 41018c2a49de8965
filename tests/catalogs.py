"""Catalogs of every kind that the rules allow, for Hypothesis."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypothesis import assume
from hypothesis import strategies as st

from aforo_admin.domain import catalog as parts
from aforo_admin.domain.checking import find_problems
from aforo_authz.domain.access import CredentialKind, Level, SubscriptionState
from aforo_authz.domain.quotas import WindowKind
from aforo_meter.domain import rate_card as cards
from aforo_meter.domain.margin import AllowanceThresholds
from aforo_meter.domain.metering import Quantity
from aforo_meter.domain.outcomes import ExecutionStatus
from aforo_meter.domain.periods import Cadence
from aforo_meter.domain.terms import ExchangeRate, RevenueBasis

FEATURES: Final = ("chat", "embeddings", "reports")
METERS: Final = ("api.calls", "llm.input_tokens", "own.pages")
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
DAY_MICROS: Final = 86_400 * 10**6

texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9)
nanos = st.integers(0, 10**15)
instants = st.integers(0, 10**15).map(lambda micros: START + timedelta(microseconds=micros))
micros = st.integers(0, 2 * 10**15)
features = st.lists(st.sampled_from(FEATURES), unique=True).map(tuple)
hashes = st.integers(0, 16**64 - 1).map(lambda number: f"{number:064x}")


def maybe(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | of


def several(of: st.SearchStrategy[Any], by: Any, most: int = 3) -> st.SearchStrategy[Any]:  # noqa: ANN401
    return st.lists(of, unique_by=by, max_size=most).map(tuple)


floors = st.builds(
    parts.ThresholdChanges,
    warn_below_bp=maybe(st.integers(2000, 10_000)),
    throttle_below_bp=maybe(st.integers(1000, 2000)),
    block_below_bp=maybe(st.integers(-10_000, 1000)),
    hysteresis_bp=maybe(st.integers(0, 500)),
    act_from_revenue_nanos=maybe(nanos),
    act_from_calls=maybe(st.integers(0, 10**9)),
    allowance=maybe(
        st.builds(
            AllowanceThresholds,
            warn_at_bp=st.integers(0, 5000),
            throttle_at_bp=st.integers(5000, 9000),
            block_at_bp=st.integers(9000, 20_000),
        )
    ),
)
per_unit = st.builds(cards.PerUnit, price_nanos=nanos, per_units=st.integers(1, 10**6))
tiers = per_unit.flatmap(
    lambda price: st.sets(st.integers(1, 10**6), max_size=3).map(
        lambda ends: tuple(
            cards.Tier(up_to_units=end, price=price) for end in [*sorted(ends), None]
        )
    )
)
pricings = st.one_of(
    per_unit,
    st.builds(cards.Package, price_nanos=nanos, package_units=st.integers(1, 1000)),
    st.builds(cards.Graduated, tiers=tiers),
    st.builds(cards.Volume, tiers=tiers),
    st.builds(cards.Percent, rate_bp=st.integers(1, 10_000)),
)
discounts = st.builds(
    cards.Discount,
    percent_bp=st.integers(1, 10_000),
    effective_from_micros=micros,
    effective_until_micros=st.none(),
) | st.builds(cards.Discount, amount_nanos=st.integers(1, 10**12))
multipliers = st.builds(
    cards.Multiplier,
    dimension=st.sampled_from([cards.Dimension.MODEL, cards.Dimension.PROVIDER]),
    value=st.sampled_from(["*mini*", "openai", "gpt-4o"]),
    factor_micros=st.integers(0, 10**8),
)
weights = st.lists(st.sampled_from(list(ExecutionStatus)), unique=True, max_size=3).map(
    lambda found: tuple((each.value, 500_000) for each in ExecutionStatus if each in found)
)
components = st.builds(
    cards.Component,
    component_id=st.sampled_from(["calls", "tokens", "pages"]),
    meter=st.sampled_from(METERS),
    selection=st.builds(cards.Selection, features=features),
    pricing=pricings,
    flat_nanos=nanos,
    included_units=st.integers(0, 10**6),
    minimum_nanos=nanos,
    discounts=st.lists(discounts, max_size=2).map(tuple),
    multipliers=st.lists(multipliers, max_size=2).map(tuple),
    outcome_weights=weights,
) | st.builds(cards.Component, component_id=st.just("flat"), flat_nanos=nanos)
rate_cards = several(
    st.builds(
        cards.RateCard,
        effective_from_micros=micros,
        components=several(components, lambda each: each.component_id).filter(bool),
        discounts=st.lists(discounts, max_size=2).map(tuple),
        minimum_nanos=st.sampled_from([0, 10**16]),  # None, or more than those of the lines.
    ),
    lambda each: each.effective_from_micros,
    most=2,
)
quotas = several(
    st.builds(
        parts.Quota,
        quota_id=st.sampled_from(["daily", "monthly", "cost"]),
        meter=st.sampled_from([*METERS, parts.COGS]),
        limit_units=st.integers(0, 10**15),
        window=st.sampled_from([WindowKind.DAY, WindowKind.BILLING_PERIOD]),
        features=features,
        soft=st.booleans(),
    ),
    lambda each: each.quota_id,
)
guards = several(
    st.builds(
        parts.Guard,
        guard_id=st.sampled_from(["chat", "tokens"]),
        features=features,
        meters=st.sampled_from([(), ("llm.*",), ("api.calls",)]),
        revenue_nanos=st.integers(1, 10**12),
        thresholds=st.just(parts.NO_CHANGES),
    ),
    lambda each: each.guard_id,
)
costs = several(
    st.builds(
        parts.CostPrice,
        meter=st.sampled_from(METERS),
        price_nanos=nanos,
        per_units=st.integers(1, 10**9),
        effective_from=instants,
        provider=st.sampled_from(["", "openai"]),
        model=st.sampled_from(["", "gpt-4o*"]),
        input_tokens_from=st.sampled_from([0, 200_000]),
        day_from_s=st.sampled_from([3600, 79_201]),
        day_to_s=st.sampled_from([0, 23_400]),
    ),
    lambda each: (each.meter, each.provider, each.model, each.effective_from),
)
exchange_rates = several(
    st.builds(
        ExchangeRate,
        currency=st.sampled_from(["EUR", "CHF"]),
        to_currency=st.just("USD"),
        rate_nanos=st.integers(1, 10**10),
        effective_from_micros=micros,
    ),
    lambda each: (each.currency, each.effective_from_micros),
)


def plan(name: str) -> st.SearchStrategy[parts.Plan]:
    return st.builds(
        parts.Plan,
        plan_id=st.just(name),
        title=texts,
        committed_fee_nanos=st.integers(1, 10**15),
        cadence=st.sampled_from(Cadence),
        billing=st.sampled_from(parts.Billing),
        basis=st.sampled_from(RevenueBasis),
        rate_cards=rate_cards,
        prepaid_nanos=nanos,
        features=features,
        quotas=quotas,
        thresholds=floors,
        guards=guards,
        shadow=st.booleans(),
        stale_margin_blocks=st.booleans(),
    ).map(lambda made: made if made.rate_cards else replace(made, prepaid_nanos=0))


deal = st.builds(
    parts.Deal,
    deal_id=st.sampled_from(["renewal", "launch"]),
    effective_from=instants,
    committed_fee_nanos=maybe(st.integers(1, 10**15)),
    basis=maybe(st.sampled_from(RevenueBasis)),
    rate_cards=maybe(rate_cards),
    prepaid_nanos=maybe(nanos),
    add_features=features,
    quotas=several(
        st.builds(
            parts.QuotaChange,
            quota_id=st.sampled_from(["more", "most"]),
            meter=st.sampled_from(METERS),
            limit_units=st.integers(0, 10**12),
            window=st.sampled_from(WindowKind),
            features=maybe(features),
            soft=maybe(st.booleans()),
        ),
        lambda each: each.quota_id,
    ),
    thresholds=floors,
    guards=guards,
).map(lambda made: made if made.rate_cards else replace(made, prepaid_nanos=None))
credentials = several(
    st.builds(
        parts.Credential,
        credential_id=st.sampled_from(["main", "old", "ci"]),
        kind=st.just(CredentialKind.API_KEY),
        identity=hashes,
        revoked=st.booleans(),
        expires_at=maybe(instants),
    ),
    lambda each: each.credential_id,
)


def tenant(name: str, plans: list[str]) -> st.SearchStrategy[parts.Tenant]:
    started = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1))  # noqa: DTZ001 - naive bounds
    subscription = st.builds(
        parts.Subscription,
        subscription_id=st.just(f"{name}-1"),
        plan_id=st.sampled_from(plans),
        started_at=started.map(lambda at: at.replace(tzinfo=UTC)),
        state=st.sampled_from(SubscriptionState),
    )
    former = st.builds(
        parts.Subscription,
        subscription_id=st.just(f"{name}-0"),
        plan_id=st.sampled_from(plans),
        started_at=st.just(datetime(2024, 1, 1, tzinfo=UTC)),
        state=st.just(SubscriptionState.CANCELLED),
        ended_at=st.just(datetime(2025, 1, 1, tzinfo=UTC)),
        changes=st.sampled_from(plans).map(
            lambda to: (
                parts.PlanChange(plan_id=to, effective_from=datetime(2024, 5, 1, tzinfo=UTC)),
            )
        ),
    )
    override = st.builds(
        parts.MarginOverride,
        level_max=st.sampled_from([Level.NONE, Level.WARN, Level.THROTTLE]),
        until=instants,
        reason=texts,
        author=texts,
    )
    return st.builds(
        parts.Tenant,
        tenant_id=st.just(name),
        name=texts,
        subscription=subscription,
        former=st.lists(former, max_size=1).map(tuple),
        credentials=credentials,
        deals=several(deal, lambda each: each.deal_id, most=1),
        thresholds=floors,
        shadow=maybe(st.booleans()),
        margin_override=maybe(override),
        negotiated_costs=costs,
    )


@st.composite
def catalogs(draw: st.DrawFn) -> parts.Catalog:
    """Draw a catalog without problems."""
    plans = draw(st.lists(st.sampled_from(["free", "pro", "max"]), unique=True, min_size=1))
    names = draw(st.lists(st.sampled_from(["acme", "globex", "initech"]), unique=True))
    made = parts.Catalog(
        currency="USD",
        thresholds=parts.Thresholds().changed_by(draw(floors)),
        features=tuple(
            parts.Feature(feature_id=name, title=draw(texts))
            for name in draw(st.permutations(FEATURES))
        ),
        routes=tuple(
            parts.Route(
                methods=draw(st.sampled_from([(), ("GET",), ("GET", "POST")])),
                path_template=path,
                features=draw(features),
                weight_units=draw(st.integers(1, 10)),
            )
            for path in draw(st.permutations(["/a", "/b/{id}", "/c/**"]))
        ),
        default_allows=draw(st.booleans()),
        plans={name: draw(plan(name)) for name in plans},
        tenants={name: draw(tenant(name, plans)) for name in names},
        costs=draw(costs),
        built_in_costs=True,
        prices_file=draw(st.sampled_from(["", "prices.jsonl"])),
        meters=(
            parts.Meter(meter="own.pages", title=draw(texts), unit="page", aliases=("pages",)),
        ),
        metering=draw(
            several(
                st.builds(
                    parts.MeteringRule,
                    rule_id=st.sampled_from(["calls", "probes"]),
                    path_template=st.sampled_from(["/a", "/b/**"]),
                    statuses=st.sampled_from([(), ("5xx",), ("200-299", "404")]),
                    meter=st.just("api.calls"),
                    quantity=st.just(Quantity.ONE),
                    quantity_micros=st.integers(1, 10**12),
                ),
                lambda each: each.rule_id,
            )
        ),
        ingest_keys=draw(
            several(
                st.builds(
                    parts.IngestKey,
                    key_id=st.sampled_from(["bridge", "page"]),
                    sha256=hashes,
                    scopes=st.just(("usage:ingest",)),
                    revoked=st.booleans(),
                    expires_at=maybe(instants),
                ),
                lambda each: each.key_id,
            )
        ),
        exchange_rates=draw(exchange_rates),
    )
    assume(not find_problems(made))
    return made
