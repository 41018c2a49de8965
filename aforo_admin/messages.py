"""What holds, in the domain's words → the messages of aforo_proto. It knows no keys, no Redis."""

import functools
import hashlib
import itertools
from collections.abc import Iterable
from typing import Final

from aforo_admin import messages_guards, messages_rates
from aforo_admin.builtin_prices import built_in_lists
from aforo_admin.domain import catalog as said
from aforo_admin.domain import entitling
from aforo_admin.domain.problems import day
from aforo_authz.domain import access, quotas
from aforo_meter.domain import periods, terms
from aforo_meter.domain.metering import Quantity
from aforo_meter.domain.periods import micros_of
from aforo_meter.domain.prices import NEGOTIATED_SOURCE, OWN_SOURCE
from aforo_proto.contract_pb2 import (
    Cadence,
    Contract,
    ModelMatch,
    PriceBook,
    PriceEntry,
    PriceList,
    RevenueBasis,
)
from aforo_proto.margin_pb2 import Level
from aforo_proto.metering_pb2 import (
    QUANTITY_SOURCE_UNSPECIFIED,
    IngestKey,
    IngestScope,
    Meter,
    Metering,
    MeteringRule,
    QuantitySource,
)
from aforo_proto.policy_pb2 import (
    CREDENTIAL_STATUS_ACTIVE,
    CREDENTIAL_STATUS_REVOKED,
    DEFAULT_RULE_ALLOW,
    DEFAULT_RULE_DENY,
    Credential,
    CredentialKind,
    MarginOverride,
    Policy,
    Quota,
    RouteRule,
    Routes,
    SubscriptionState,
    Window,
)

DIGEST_CHARS: Final = 12
PRICE_DIGEST_CHARS: Final = 8

# By the domain's names: protobuf looks a number up by name slowly, and every tenant has some.
_KINDS: Final = {
    each: CredentialKind.Value(f"CREDENTIAL_KIND_{each.name}") for each in access.CredentialKind
}
_STATES: Final = {
    each: SubscriptionState.Value(f"SUBSCRIPTION_STATE_{each.name}")
    for each in access.SubscriptionState
}
_WINDOWS: Final = {each: Window.Value(f"WINDOW_{each.name}") for each in quotas.WindowKind}
_CADENCES: Final = {each: Cadence.Value(f"CADENCE_{each.name}") for each in periods.Cadence}
_BASES: Final = {
    each: RevenueBasis.Value(f"REVENUE_BASIS_{each.name}") for each in terms.RevenueBasis
}


def credential(tenant_id: str, given: said.Credential) -> Credential:
    return Credential(
        tenant_id=tenant_id,
        kind=_KINDS[given.kind],
        status=CREDENTIAL_STATUS_REVOKED if given.revoked else CREDENTIAL_STATUS_ACTIVE,
        expires_at_micros=micros_of(given.expires_at) if given.expires_at else 0,
        credential_id=given.credential_id,
    )


def policy(given: access.Policy, override: said.MarginOverride | None) -> Policy:
    """Return a policy without its period, which changes with time alone."""
    message = Policy(
        tenant_id=given.tenant_id,
        subscription_id=given.subscription_id,
        plan_id=given.plan_id,
        state=_STATES[given.state],
        features=sorted(given.features),
        quotas=[_quota(each) for each in given.quotas],
        shadow=given.shadow,
        stale_margin_blocks=given.stale_margin_blocks,
    )
    if override is not None:
        message.margin_override.CopyFrom(
            MarginOverride(
                level_max=Level.Value(f"LEVEL_{override.level_max.name}"),
                until_micros=micros_of(override.until),
                reason=override.reason,
                author=override.author,
            )
        )
    return message


def period(given: access.Policy) -> Policy:
    """Return what `policy` leaves out."""
    return Policy(
        period_start_micros=given.period_start_micros,
        period_end_micros=given.period_end_micros,
        next_period_end_micros=given.next_period_end_micros,
    )


@functools.lru_cache(maxsize=1024)  # The tenants of a plan share its quotas.
def _quota(given: quotas.Quota) -> Quota:
    return Quota(
        quota_id=given.quota_id,
        meter=given.meter,
        features=sorted(given.features),
        limit_units=given.limit_units,
        window=_WINDOWS[given.window],
        soft=given.soft,
    )


def contract(given: entitling.Contract) -> Contract:
    return Contract(
        tenant_id=given.tenant_id,
        subscription_id=given.subscription_id,
        plan_id=given.plan_id,
        currency=given.currency,
        committed_fee_nanos=given.committed_fee_nanos,
        allowance_nanos=given.allowance_nanos,
        cadence=_CADENCES[given.cadence],
        anchor_micros=micros_of(given.anchor),
        thresholds=messages_guards.thresholds(given.thresholds, source=given.thresholds_source),
        guards=[messages_guards.guard(each) for each in given.guards],
        negotiated=price_lists(
            given.negotiated, source=NEGOTIATED_SOURCE, owner=f"negotiated:{given.tenant_id}"
        ),
        phases=[messages_rates.phase(each) for each in given.phases],
        basis=_BASES[given.basis],
        exchange_rates=[messages_rates.exchange_rate(each) for each in given.exchange_rates],
        ended_at_micros=micros_of(given.ended_at) if given.ended_at else 0,
        former=[contract(each) for each in given.former],
    )


def routes(given: said.Catalog) -> Routes:
    return Routes(
        rules=[
            RouteRule(
                methods=route.methods,
                path_template=route.path_template,
                features=sorted(route.features),
                weight_units=route.weight_units,
            )
            for route in given.routes
        ],
        default_rule=DEFAULT_RULE_ALLOW if given.default_allows else DEFAULT_RULE_DENY,
    )


def metering(given: said.Catalog) -> Metering:
    return Metering(
        rules=[_metering_rule(rule) for rule in given.metering],
        meters=[
            Meter(meter=each.meter, title=each.title, unit=each.unit, aliases=each.aliases)
            for each in given.meters
        ],
    )


def _metering_rule(rule: said.MeteringRule) -> MeteringRule:
    return MeteringRule(
        rule_id=rule.rule_id,
        methods=rule.methods,
        path_template=rule.path_template,
        routes=rule.routes,
        features=rule.features,
        status_ranges=rule.statuses,
        execution_statuses=rule.execution_statuses,
        exclude=rule.exclude,
        meter=rule.meter,
        quantity=QUANTITY_SOURCE_UNSPECIFIED
        if rule.exclude
        else QuantitySource.Value(f"QUANTITY_SOURCE_{rule.quantity.name}"),
        quantity_micros=rule.quantity_micros
        if rule.quantity is Quantity.ONE and not rule.exclude
        else 0,
    )


def ingest_key(given: said.IngestKey) -> IngestKey:
    return IngestKey(
        key_id=given.key_id,
        installation=given.installation,
        scopes=[
            IngestScope.Value(f"INGEST_SCOPE_{scope.replace(':', '_').upper()}")
            for scope in given.scopes
        ],
        revoked=given.revoked,
        expires_at_micros=micros_of(given.expires_at) if given.expires_at else 0,
        tenants=given.tenants,
    )


def price_book(given: said.Catalog, published: Iterable[PriceList]) -> PriceBook:
    """Return all cost prices that hold for everyone.

    Args:
        given: Its own prices, and whether it wants the published ones.
        published: The prices of language models.
    """
    book = PriceBook(
        currency=given.currency,
        own=price_lists(given.costs, source=OWN_SOURCE, owner="catalog"),
        built_in=published if given.built_in_costs else (),
    )
    book.version = digest([book.SerializeToString(deterministic=True)])
    return book


def price_lists(prices: Iterable[said.CostPrice], *, source: str, owner: str) -> list[PriceList]:
    """Return prices by whom they are for, the most specific first: the first that matches wins."""
    ordered = sorted(prices, key=_specific_first)
    return [
        price_list(
            provider, model, [_price_entry(price, source=source, owner=owner) for price in group]
        )
        for (provider, model), group in itertools.groupby(
            ordered, key=lambda price: (price.provider, price.model)
        )
    ]


def price_list(provider: str, model: str, entries: Iterable[PriceEntry] = ()) -> PriceList:
    """Return prices of our own of a model, with the rule of what its name covers."""
    return PriceList(provider=provider, model=model, match=_match(provider, model), entries=entries)


def _specific_first(price: said.CostPrice) -> tuple[object, ...]:
    return (
        not price.model,
        "*" in price.model,
        -len(price.model),
        not price.provider,
        price.provider,
        price.model,
        price.meter,
        price.effective_from,
        price.day_from_s,
        price.input_tokens_from,
    )


def _match(provider: str, model: str) -> ModelMatch | None:
    if model.startswith("*") and model.endswith("*"):
        return ModelMatch(contains=model.strip("*"))
    if model.endswith("*"):
        return ModelMatch(starts_with=model.removesuffix("*"))
    if model.startswith("*"):
        return ModelMatch(ends_with=model.removeprefix("*"))
    published = _published_names().get((provider, model))
    if published is None:
        return None
    # A price for "gpt-4o" is meant for every name that it goes by, as "gpt-4o-2024-08-06".
    return ModelMatch(any_of=ModelMatch.List(matches=[ModelMatch(equals=model), published]))


@functools.cache
def _published_names() -> dict[tuple[str, str], ModelMatch]:
    names: dict[tuple[str, str], ModelMatch] = {}
    for each in built_in_lists():
        names.setdefault((each.provider, each.model.lower()), each.match)
    return names


def _price_entry(price: said.CostPrice, *, source: str, owner: str) -> PriceEntry:
    entry = PriceEntry(
        meter=price.meter,
        price_nanos=price.price_nanos,
        per_units=price.per_units,
        effective_from_micros=micros_of(price.effective_from),
        tier_input_tokens_from=price.input_tokens_from,
        day_from_s=price.day_from_s,
        day_to_s=price.day_to_s,
    )
    name = f"{owner}/{price.provider or '*'}/{price.model or '*'}/{price.meter}"
    checksum = hashlib.sha256(entry.SerializeToString(deterministic=True)).hexdigest()
    # An entry is never edited: with another price it is another entry.
    entry.price_id = f"{name}/{day(price.effective_from)}#{checksum[:PRICE_DIGEST_CHARS]}"
    entry.source = source
    return entry


def digest(parts: Iterable[bytes]) -> str:
    """Return a short name for a content: equal contents have equal names."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()[:DIGEST_CHARS]
