"""A catalog is read exactly, or refused with every fault: its line, its field and what to do."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aforo_admin import catalog_yaml
from aforo_admin.catalog_yaml import read_file, read_text
from aforo_admin.domain.catalog import Catalog, Credential, ThresholdChanges
from aforo_admin.domain.checking_tenants import IDENTITY_FIELDS
from aforo_admin.faults import CatalogError
from aforo_authz.domain.access import CredentialKind, Level, SubscriptionState
from aforo_authz.domain.quotas import WindowKind
from aforo_meter.domain.periods import Cadence

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "catalog.example.yaml"
HASH = "77de38e4b50e618a0ebb95db61e2f42697391659d82c064a5f81b9f48d85ccd5"

METERS = (
    "agent.capability_calls, agent.sessions, agent.steps, api.calls, bytes.request, "
    "bytes.response, "
    "graphql.operations, grpc.calls, llm.cache_creation_tokens, "
    "llm.cached_input_tokens, llm.input_tokens, llm.output_tokens, "
    "llm.reasoning_tokens, llm.tool_tokens, mcp.sessions, mcp.tool_calls, "
    "mqtt.connects, mqtt.deliveries, mqtt.disconnects, mqtt.messages, mqtt.subscribes, "
    "mqtt.unsubscribes, websocket.connections, websocket.connections_closed, websocket.messages"
)
QUOTA_METERS = ", ".join(sorted([*METERS.split(", "), "money.cogs"]))

GOOD = f"""\
version: 1
currency: USD
features:
  - {{id: chat, title: Chat}}
routes:
  - {{methods: [POST], path: /chat, features: [chat]}}
plans:
  pro:
    committed_fee: 100
    features: [chat]
    quotas:
      - {{id: calls, meter: api.calls, limit: 5, window: day}}
tenants:
  acme:
    subscription: {{id: s1, plan: pro, started_at: 2026-01-15}}
    credentials:
      - {{id: main, sha256: {HASH}}}
costs:
  - {{meter: api.calls, price: 1, per: 1k, from: 2026-01-01}}
"""


def faults(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(CatalogError) as caught:
        read_text(data, name="c.yaml")
    return caught.value.lines


def fault(text: str) -> str:
    (line,) = faults(text)
    return line


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def with_tenant(lines: str) -> str:
    """The good catalog, with further fields of acme, in line 18 and after."""
    indented = "".join(f"    {line}\n" for line in lines.splitlines())
    return GOOD.replace("costs:\n", f"{indented}costs:\n")


def read(text: str) -> Catalog:
    return read_text(text.encode(), name="c.yaml")


def test_a_quota_of_money_has_an_amount_as_its_limit() -> None:
    catalog = read(
        with_tenant(
            "deals: [{id: d, from: 2026-02-01, quotas: ["
            "{id: calls, meter: money.cogs, limit: 7.5}]}]"
        ).replace("meter: api.calls, limit: 5", "meter: money.cogs, limit: 2.50 USD")
    )

    assert catalog.plans["pro"].quotas[0].limit_units == 2_500_000_000
    assert catalog.tenants["acme"].deals[0].quotas[0].limit_units == 7_500_000_000


def test_the_example_is_a_good_catalog() -> None:
    catalog = read_file(EXAMPLE)

    acme = catalog.tenants["acme"]
    assert acme.subscription.started_at == datetime(2026, 1, 15, tzinfo=UTC)
    assert [credential.kind for credential in acme.credentials] == [
        CredentialKind.API_KEY,
        CredentialKind.JWT_SUBJECT,
        CredentialKind.CERTIFICATE,
    ]
    assert acme.deals[0].committed_fee_nanos == 36_000 * 10**9
    assert acme.deals[0].thresholds == ThresholdChanges(block_below_bp=-500)
    assert acme.deals[0].quotas[0].limit_units == 2_000_000
    enterprise = catalog.plans["enterprise"]
    assert enterprise.cadence is Cadence.YEAR
    assert enterprise.thresholds == ThresholdChanges(warn_below_bp=3000, throttle_below_bp=1500)
    assert catalog.plans["pro"].quotas[1].window is WindowKind.BILLING_PERIOD
    assert catalog.plans["pilot"].shadow
    assert catalog.tenants["initech"].subscription.state is SubscriptionState.TRIALING
    override = catalog.tenants["globex"].margin_override
    assert override is not None
    assert override.level_max is Level.WARN
    assert override.until == datetime(2026, 11, 27, 17, tzinfo=UTC)
    assert catalog.routes[3].weight_units == 10
    assert catalog.costs[2].price_nanos == 0


def test_what_is_left_out_has_its_documented_default() -> None:
    catalog = read(GOOD)

    assert not catalog.default_allows
    assert catalog.built_in_costs
    assert catalog.thresholds.warn_below_bp == 2000
    plan = catalog.plans["pro"]
    assert (plan.title, plan.cadence, plan.shadow) == ("pro", Cadence.MONTH, False)
    assert not plan.quotas[0].soft
    acme = catalog.tenants["acme"]
    assert (acme.name, acme.shadow) == ("acme", None)
    assert acme.subscription.state is SubscriptionState.ACTIVE
    assert acme.credentials == (
        Credential(credential_id="main", kind=CredentialKind.API_KEY, identity=HASH),
    )


def test_anchors_and_merge_keys_save_writing() -> None:
    text = changed(
        "plans:\n  pro:\n",
        "plans:\n  basic: &basic\n    committed_fee: 1\n    features: &all [chat]\n"
        "  plus:\n    <<: *basic\n    committed_fee: 2\n  pro:\n",
    ).replace("    features: [chat]\n    quotas", "    features: *all\n    quotas")

    plans = read(text).plans

    assert plans["plus"].committed_fee_nanos == 2 * 10**9
    assert plans["plus"].features == plans["pro"].features == ("chat",)


def case(name: str, text: str, expected: str) -> pytest.ParameterSet:
    return pytest.param(text, expected, id=name)


def test_deals_may_follow_each_other() -> None:
    text = with_tenant(
        "deals:\n  - {id: b, from: 2027-01-01}\n  - {id: a, from: 2026-01-01, until: 2027-01-01}"
    )

    assert [deal.deal_id for deal in read(text).tenants["acme"].deals] == ["b", "a"]


SINGLE_FAULTS = [
    case(
        "misspelt field",
        changed("currency", "currency_"),
        "c.yaml:1: currency: is missing",
    ),
    case(
        "unknown plan",
        changed("plan: pro", "plan: pr0"),
        'c.yaml:15: tenants.acme.subscription.plan: no plan "pr0"; did you mean "pro"? '
        "plans are: pro",
    ),
    case(
        "unknown feature",
        changed("path: /chat, features: [chat]", "path: /chat, features: [caht]"),
        'c.yaml:6: routes[0].features[0]: no feature "caht"; did you mean "chat"? '
        "features are: chat",
    ),
    case(
        "unknown window",
        changed("window: day", "window: week"),
        'c.yaml:12: plans.pro.quotas[0].window: no window "week"; windows are: minute, hour, day, '
        "month, billing_period",
    ),
    case(
        "key instead of hash",
        changed(HASH, "aforo_this-is-a-secret-key"),
        "c.yaml:17: tenants.acme.credentials[0].sha256: is no SHA-256 (64 digits 0-9, a-f); never "
        "write the key itself here: make one with `aforo-admin mint`, or hash it with "
        '`printf %s "$KEY" | sha256sum`',
    ),
    case(
        "negative fee",
        changed("committed_fee: 100", "committed_fee: -100"),
        "c.yaml:9: plans.pro.committed_fee: must not be negative",
    ),
    case(
        "too large fee",
        changed("committed_fee: 100", "committed_fee: 10_000_000_000"),
        "c.yaml:9: plans.pro.committed_fee: is above 9223372036, the largest amount that "
        "nanos in 64 bits hold; state it in a larger currency, or split it",
    ),
    case(
        "other currency",
        changed("committed_fee: 100", "committed_fee: 100 EUR"),
        "c.yaml:9: plans.pro.committed_fee: is in EUR, but the currency here is USD",
    ),
    case(
        "allowance beside a fee",
        changed("committed_fee: 100", "committed_fee: 100\n    allowance: 5"),
        "c.yaml:10: plans.pro.allowance: only a plan without a fee has an allowance: with one, the "
        "margin decides; remove it, or set committed_fee to 0",
    ),
    case(
        "fraction of a call",
        changed("limit: 5", "limit: 5.5"),
        'c.yaml:12: plans.pro.quotas[0].limit: "5.5" is no whole number of at least 0: write 5000, '
        "5_000, 5k or 2M",
    ),
    case(
        "floors out of order",
        changed(
            "    features: [chat]\n", "    features: [chat]\n    thresholds: {warn_below: 5%}\n"
        ),
        "c.yaml:11: plans.pro.thresholds: floors are out of order: warn_below 5%, throttle_below "
        "10% (inherited); order them warn_below ≥ throttle_below ≥ block_below",
    ),
    case(
        "floor above 100 %",
        changed("currency: USD", "currency: USD\nthresholds: {warn_below: 120%}"),
        "c.yaml:3: thresholds.warn_below: must be from -10000% to 100%, not 120%",
    ),
    case(
        "floor without a sign",
        changed("currency: USD", "currency: USD\nthresholds: {warn_below: 25}"),
        'c.yaml:3: thresholds.warn_below: "25" is no share: write it with its sign, like 20% or '
        "0.5%",
    ),
    case(
        "floor too fine",
        changed("currency: USD", "currency: USD\nthresholds: {warn_below: 25.125%}"),
        'c.yaml:3: thresholds.warn_below: "25.125%" is finer than a hundredth of a percent: round '
        "it",
    ),
    case(
        "id with a brace",
        changed("  acme:", '  "ac{me":'),
        'c.yaml:14: tenants["ac{me"]: "ac{me" is no id: use 1 to 64 of a-z, 0-9, ".", "_" and "-", '
        "the first a letter or digit",
    ),
    case(
        "route that nothing reaches",
        changed(
            "features: [chat]}\nplans",
            "features: [chat]}\n  - {methods: [POST], path: /chat, features: []}\nplans",
        ),
        "c.yaml:7: routes[1]: is never reached: routes[0] takes the same path and methods, and the "
        "first that matches wins",
    ),
    case(
        "route without a slash",
        changed("path: /chat", "path: chat"),
        "c.yaml:6: routes[0].path: path template 'chat' must start with '/'",
    ),
    case(
        "route with a query",
        changed("path: /chat", 'path: "/chat?x=1"'),
        'c.yaml:6: routes[0].path: "/chat?x=1" can never match: a path arrives without query, '
        "fragment, parameters (;) and spaces",
    ),
    case(
        "method in small letters",
        changed("[POST]", "[post]"),
        'c.yaml:6: routes[0].methods[0]: "post" is no method: write it in capitals, like POST',
    ),
    case(
        "weight of nothing",
        changed("path: /chat,", "path: /chat, weight: 0,"),
        "c.yaml:6: routes[0].weight: must be a whole number of at least 1",
    ),
    case(
        "routes without a list",
        changed("  - {methods", "  rules: {methods"),
        "c.yaml:5: routes: must be a list, but is a mapping; write [] for none",
    ),
    case(
        "date that is none",
        changed("2026-01-15", "2026-02-30"),
        'c.yaml:15: tenants.acme.subscription.started_at: "2026-02-30" is no date of the calendar: '
        "day is out of range for month",
    ),
    case(
        "date in another order",
        changed("2026-01-15", "15.01.2026"),
        'c.yaml:15: tenants.acme.subscription.started_at: "15.01.2026" is no date: write '
        "2026-01-31, or 2026-01-31T09:30Z (UTC unless it names an offset, like +02:00)",
    ),
    case(
        "price too fine",
        changed("price: 1,", "price: 0.0000000001,"),
        'c.yaml:19: costs[0].price: "0.0000000001" has more than 9 decimals: quote it for more '
        "units, like per: 1M",
    ),
    case(
        "price in exponents",
        changed("price: 1,", "price: 1e3,"),
        'c.yaml:19: costs[0].price: "1e3" is no amount: write digits and a point, like 2000, '
        "2_000.50 or 2000 USD",
    ),
    case(
        "thousands with commas",
        changed("committed_fee: 100", 'committed_fee: "2,000"'),
        'c.yaml:9: plans.pro.committed_fee: "2,000" is no amount: write digits and a point, like '
        "2000, 2_000.50 or 2000 USD",
    ),
    case(
        "unknown meter",
        changed("{meter: api.calls, price", "{meter: llm.input_token, price"),
        'c.yaml:19: costs[0].meter: no meter "llm.input_token"; did you mean "llm.input_tokens"? '
        f"meters are: {METERS}",
    ),
    case(
        "overlapping prices",
        GOOD + "  - {meter: api.calls, price: 2, per: 1, from: 2026-01-01T00:00:00Z}\n",
        "c.yaml:20: costs[1].from: overlaps costs[0]: both price api.calls of any provider, any "
        "model from 2026-01-01; give them different dates or remove one",
    ),
    case(
        "prices in a foreign currency",
        changed("currency: USD", "currency: EUR"),
        "c.yaml:2: currency: the built-in prices of language models are in USD: use it, or set "
        "built_in_costs to false and give your own prices in EUR",
    ),
    case(
        "two proofs of identity",
        changed(f"sha256: {HASH}", f"sha256: {HASH}, jwt_subject: a@b"),
        "c.yaml:17: tenants.acme.credentials[0].jwt_subject: stands beside sha256; a credential "
        "has one of sha256, jwt_subject, certificate_uri",
    ),
    case(
        "no proof of identity",
        changed(f", sha256: {HASH}", ""),
        "c.yaml:17: tenants.acme.credentials[0]: identifies nobody: give one of sha256, "
        "jwt_subject, certificate_uri",
    ),
    case(
        "certificate that is no URI",
        changed(f"sha256: {HASH}", "certificate_uri: acme"),
        "c.yaml:17: tenants.acme.credentials[0].certificate_uri: is no URI; a certificate is known "
        "by one, like spiffe://domain/name",
    ),
    case(
        "override without a reason",
        with_tenant("margin_override: {level_max: warn, until: 2026-12-01, author: dana}"),
        "c.yaml:18: tenants.acme.margin_override.reason: is missing",
    ),
    case(
        "override that lets nothing through",
        with_tenant(
            "margin_override: {level_max: block, until: 2026-12-01, author: dana, reason: x}"
        ),
        'c.yaml:18: tenants.acme.margin_override.level_max: no level "block"; levels are: none, '
        "warn, throttle",
    ),
    case(
        "deal that ends before it starts",
        with_tenant("deals: [{id: d, from: 2026-02-01, until: 2026-02-01}]"),
        "c.yaml:18: tenants.acme.deals[0].until: must be after from (2026-02-01); it is the first "
        "instant at which the deal no longer holds",
    ),
    case(
        "overlapping deals",
        with_tenant("deals:\n  - {id: b, from: 2026-03-01}\n  - {id: a, from: 2026-02-01}"),
        'c.yaml:19: tenants.acme.deals[0].from: overlaps the deal "a": end that one with '
        '"until: 2026-03-01", or start this one later',
    ),
    case(
        "change of a quota that the plan has not",
        with_tenant("deals: [{id: d, from: 2026-02-01, quotas: [{id: cals, limit: 9}]}]"),
        'c.yaml:18: tenants.acme.deals[0].quotas[0].id: plan "pro" has no quota "cals" to change, '
        'and a further one needs meter, window too; did you mean "calls"? quotas are: calls',
    ),
    case(
        "floors of a deal out of order with the plan's",
        with_tenant("deals: [{id: d, from: 2026-02-01, thresholds: {throttle_below: 30%}}]"),
        "c.yaml:18: tenants.acme.deals[0].thresholds: floors are out of order: warn_below 20% "
        "(inherited), throttle_below 30%; order them warn_below ≥ throttle_below ≥ block_below",
    ),
    case(
        "empty section",
        changed("  - {meter: api.calls, price: 1, per: 1k, from: 2026-01-01}\n", ""),
        "c.yaml:18: costs: must be a list, but is empty; write [] for none",
    ),
    case(
        "value left out",
        changed("committed_fee: 100", "committed_fee:"),
        "c.yaml:9: plans.pro.committed_fee: has no value; give one or remove the line",
    ),
    case(
        "form of the future",
        changed("version: 1", "version: 2"),
        'c.yaml:1: version: "2" is a form that this version does not know; write 1',
    ),
    case(
        "weight beyond reason",
        changed("path: /chat,", "path: /chat, weight: 2M,"),
        "c.yaml:6: routes[0].weight: must be at most 1000000",
    ),
    case(
        "route whose methods are taken one by one",
        changed(
            "features: [chat]}\nplans",
            "features: [chat]}\n  - {methods: [GET], path: /chat, features: []}\n"
            "  - {methods: [GET, POST], path: /chat, features: []}\nplans",
        ),
        "c.yaml:8: routes[2]: is never reached: routes[1] takes the same path and methods, and the "
        "first that matches wins",
    ),
    case(
        "route after one for any method",
        changed(
            "features: [chat]}\nplans",
            'features: [chat]}\n  - {path: "/a/{b}", features: []}\n'
            '  - {methods: [GET], path: "/a/{c}", features: []}\nplans',
        ),
        "c.yaml:8: routes[2]: is never reached: routes[1] takes the same path and methods, and the "
        "first that matches wins",
    ),
    case(
        "quota of an unknown meter",
        changed("meter: api.calls, limit", "meter: calls, limit"),
        'c.yaml:12: plans.pro.quotas[0].meter: no meter "calls"; did you mean "api.calls"? '
        f"meters are: {QUOTA_METERS}",
    ),
    case(
        "limit of money that is no amount",
        changed("meter: api.calls, limit: 5", "meter: money.cogs, limit: 5k"),
        'c.yaml:12: plans.pro.quotas[0].limit: "5k" is no amount: write digits and a point, like '
        "2000, 2_000.50 or 2000 USD",
    ),
    case(
        "deal that changes a limit of money without saying so",
        with_tenant("deals: [{id: d, from: 2026-02-01, quotas: [{id: calls, limit: 5}]}]").replace(
            "meter: api.calls, limit", "meter: money.cogs, limit"
        ),
        "c.yaml:18: tenants.acme.deals[0].quotas[0].limit: is an amount here: say meter: "
        "money.cogs as well",
    ),
    case(
        "quota of money by the minute",
        changed("api.calls, limit: 5, window: day", "money.cogs, limit: 5, window: minute"),
        "c.yaml:12: plans.pro.quotas[0].window: what usage costs is known by the hour: write "
        "hour, day, month or billing_period",
    ),
    case(
        "feature listed twice",
        changed("    features: [chat]\n", "    features: [chat, chat]\n"),
        'c.yaml:10: plans.pro.features[1]: "chat" is listed twice',
    ),
    case(
        "equal ids in a list",
        changed("  - {id: chat, title: Chat}\n", "  - {id: chat}\n  - {id: chat}\n"),
        'c.yaml:5: features[1].id: "chat" is already the id of features[0]',
    ),
    case(
        "empty title",
        changed("title: Chat", 'title: " "'),
        "c.yaml:4: features[0].title: must not be empty",
    ),
    case(
        "endless name",
        with_tenant(f"name: {'a' * 201}"),
        "c.yaml:18: tenants.acme.name: is 201 characters long, at most 200 are kept",
    ),
    case(
        "price of no units",
        changed("per: 1k", "per: 0"),
        "c.yaml:19: costs[0].per: must be a whole number of at least 1",
    ),
    case(
        "star inside a model's name",
        changed("{meter: api.calls, price", "{meter: api.calls, model: gpt-*-mini, price"),
        'c.yaml:19: costs[0].model: "*" may stand at the start or the end of a name, as in '
        '"gpt-4o*"; leave model out to mean any',
    ),
    case(
        "currency in words",
        changed("currency: USD", "currency: dollars"),
        'c.yaml:2: currency: "dollars" is no currency: use three capital letters, like USD',
    ),
    case(
        "subject of nothing",
        changed(f"sha256: {HASH}", 'jwt_subject: ""'),
        "c.yaml:17: tenants.acme.credentials[0].jwt_subject: must be of 1 to 1024 characters, "
        "without NUL",
    ),
    case(
        "allowance of a deal with a fee",
        with_tenant("deals: [{id: d, from: 2026-02-01, allowance: 5}]"),
        "c.yaml:18: tenants.acme.deals[0].allowance: only a contract without a fee has an "
        "allowance: with one, the margin decides; remove it, or set committed_fee to 0",
    ),
    case(
        "deal's quota of an unknown meter",
        with_tenant("deals: [{id: d, from: 2026-02-01, quotas: [{id: calls, meter: cal}]}]"),
        'c.yaml:18: tenants.acme.deals[0].quotas[0].meter: no meter "cal"; meters are: '
        f"{QUOTA_METERS}",
    ),
    case(
        "unlimited quota that the plan has not",
        with_tenant("deals: [{id: d, from: 2026-02-01, quotas: [{id: x, limit: unlimited}]}]"),
        'c.yaml:18: tenants.acme.deals[0].quotas[0].id: plan "pro" has no quota "x" to change, and '
        "a further one needs meter, limit, window too; quotas are: calls",
    ),
    case(
        "floors of a tenant out of order with the plan's",
        with_tenant("thresholds: {block_below: 15%}\ndeals: [{id: d, from: 2026-02-01}]"),
        "c.yaml:18: tenants.acme.thresholds: floors are out of order: throttle_below 10% "
        "(inherited), block_below 15%; order them warn_below ≥ throttle_below ≥ block_below",
    ),
    case(
        "state that is none",
        changed("started_at: 2026-01-15", "started_at: 2026-01-15, state: activ"),
        'c.yaml:15: tenants.acme.subscription.state: no state "activ"; did you mean "active"? '
        "states are: created, trialing, active, past_due, expiring_soon, paused, suspended, "
        "expired, cancelled",
    ),
    case(
        "status that is none",
        changed(f"sha256: {HASH}", f"sha256: {HASH}, status: off"),
        'c.yaml:17: tenants.acme.credentials[0].status: "off" is neither active nor revoked',
    ),
    case(
        "default route that is none",
        changed("currency: USD", "currency: USD\ndefault_route: open"),
        'c.yaml:3: default_route: "open" is neither allow nor deny',
    ),
    case(
        "plan without a list of features",
        changed("    features: [chat]\n", ""),
        "c.yaml:8: plans.pro.features: is missing; write [] for none",
    ),
    case(
        "list where a value belongs",
        changed("committed_fee: 100", "committed_fee: [100]"),
        "c.yaml:9: plans.pro.committed_fee: must be a single value, but is a list",
    ),
    case(
        "list instead of a catalog",
        "- a\n",
        "c.yaml:1: must be a mapping of fields, but is a list",
    ),
]


@pytest.mark.parametrize(("text", "expected"), SINGLE_FAULTS)
def test_a_fault_names_line_field_and_remedy(text: str, expected: str) -> None:
    told = faults(text)

    assert told[0] == expected
    # A misspelt field is missing where it belongs and unknown where it stands.
    assert len(told) == (2 if expected.endswith("currency: is missing") else 1)


def test_every_fault_is_told_at_once_by_line() -> None:
    text = (
        changed("window: day", "window: dya")
        .replace("plan: pro", "plan: pr0")
        .replace("price: 1,", "price: one,")
    )

    assert [line.split(": ")[:2] for line in faults(text)] == [
        ["c.yaml:12", "plans.pro.quotas[0].window"],
        ["c.yaml:15", "tenants.acme.subscription.plan"],
        ["c.yaml:19", "costs[0].price"],
    ]


def test_what_only_follows_from_another_fault_is_not_told() -> None:
    """A blank value stands in for what can't be read; what that breaks is no fault of its own."""
    unread_feature = changed("  - {id: chat, title: Chat}", "  - chat")
    unread_plans = GOOD[: GOOD.index("plans:")] + "plans: [1]\n" + GOOD[GOOD.index("tenants:") :]
    unread_floor = changed(
        "    features: [chat]\n",
        "    features: [chat]\n    thresholds: {throttle_below: much, block_below: 15%}\n",
    )

    assert fault(unread_feature).startswith("c.yaml:4: features[0]: must be a mapping")
    assert fault(unread_plans).startswith("c.yaml:7: plans: must map ids")
    assert fault(unread_floor).startswith("c.yaml:11: plans.pro.thresholds.throttle_below: ")


def test_equal_keys_are_a_fault_beside_the_others() -> None:
    told = faults(changed("currency: USD", "currency: USD\ncurrency: EUR\ncolour: red"))

    assert told[0] == 'c.yaml:3: the key "currency" stands here twice; first in line 2'
    assert told[1].startswith('c.yaml:4: colour: no field "colour"; fields are: allowance_')


def test_one_credential_belongs_to_one_tenant() -> None:
    text = with_tenant("").replace(
        "costs:\n",
        "  globex:\n    subscription: {id: s2, plan: pro, started_at: 2026-01-15}\n"
        f"    credentials: [{{id: x, sha256: {HASH.upper()}}}]\ncosts:\n",
    )

    assert fault(text).startswith(
        'c.yaml:20: tenants.globex.credentials[0].sha256: is the credential "acme/main" too'
    )


def test_a_fault_never_shows_what_may_be_a_key() -> None:
    secret = "aforo_s3cr3t-s3cr3t-s3cr3t"
    texts = [
        changed(HASH, secret),
        changed(f"{{id: main, sha256: {HASH}}}", secret),
        changed(f"sha256: {HASH}", f"sha256: [{secret}]"),
        changed(f"sha256: {HASH}", f"sha256: {HASH}, jwt_subject: {secret}"),
        changed(f"sha256: {HASH}", f"sha256: {HASH}{secret}"),
    ]

    assert not any(secret in line for text in texts for line in faults(text))


def test_every_field_is_documented() -> None:
    package = ROOT / "aforo_admin"
    code = "".join(path.read_text() for path in package.glob("catalog_yaml*.py"))
    read = r'(?:need|may|texts|each|section|need_section|named|read_costs)\((?:\w+, )?"(\w+)"'
    fields = {*re.findall(read, code), *IDENTITY_FIELDS.values()}
    page = (ROOT / "docs" / "catalog.md").read_text()

    assert len(fields) > 40
    assert {name for name in fields if f"`{name}`" not in page} == set()


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"nowhere\.yaml: can't be read: No such file"):
        read_file(tmp_path / "nowhere.yaml")


def test_a_huge_file_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"#" * 100)
    monkeypatch.setattr(catalog_yaml, "BYTES_MAX", 50)
    monkeypatch.setattr("aforo_admin.yaml_nodes.BYTES_MAX", 50)

    with pytest.raises(CatalogError, match="is larger than"):
        read_file(path)


@pytest.mark.parametrize(
    "ill",
    [
        r'"a\r\nx-aforo-tenant: other"',  # A header of its own.
        r'"a\nb"',
        r'"a\0"',
        r'"a\"b"',  # RateLimit quotes a quota's id.
        '"a,b"',  # Lists of features are joined by commas …
        '"a|b"',  # … and the fields of totals by bars.
        '"a:b"',
        '"a b"',
        '"ä"',
        '"A"',
    ],
)
@pytest.mark.parametrize(
    "place",
    ["  - {id: chat,", "  pro:\n", "      - {id: calls,", "  acme:\n", "{id: s1,", "{id: main,"],
)
def test_no_id_that_reaches_a_header_a_key_or_a_total_can_change_its_shape(
    place: str, ill: str
) -> None:
    name = re.search(r"chat|pro|calls|acme|s1|main", place)
    assert name is not None
    text = changed(place, place.replace(name[0], ill))

    assert any("is no id" in line for line in faults(text))
