"""The read model holds what is entitled, under a version that time alone does not change."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from aforo_admin.catalog_yaml import read_text
from aforo_admin.domain.catalog import Catalog, sha256_hex
from aforo_admin.mint import sha256_of_key
from aforo_admin.read_model import ReadModel, build, build_tenants, is_ours_to_remove
from aforo_authz import read_model as reader
from aforo_authz.domain.access import CredentialKind, Level, SubscriptionState
from aforo_meter.contract_messages import book_of
from aforo_meter.domain.prices import Prices
from aforo_proto.contract_pb2 import Contract, PriceBook
from aforo_proto.policy_pb2 import Policy, Routes

EXAMPLE = (Path(__file__).resolve().parents[2] / "catalog.example.yaml").read_text()
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def catalog(text: str = EXAMPLE) -> Catalog:
    return read_text(text.encode(), name="c.yaml")


def model(text: str = EXAMPLE, now: datetime = NOW) -> ReadModel:
    return build(catalog(text), now)


def contract(found: ReadModel, tenant_id: str) -> Contract:
    return Contract.FromString(found.basis[f"aforo:v1:{{{tenant_id}}}:contract".encode()])


def test_the_decision_reads_what_sync_writes() -> None:
    found = model()

    policy = reader.policy_of("p", found.basis[reader.policy_key("acme").encode()])

    assert policy.state is SubscriptionState.ACTIVE
    assert policy.features == {"chat", "embeddings", "reports"}
    assert policy.quotas[0].limit_units == 2_000_000
    assert policy.period_start_micros < NOW.timestamp() * 10**6 < policy.period_end_micros
    assert policy.catalog_version == found.tenants["acme"]


def test_an_override_says_until_when_why_and_who() -> None:
    found = model()

    key = reader.policy_key("globex").encode()
    written = Policy.FromString(found.basis[key]).margin_override
    read = reader.policy_of("p", found.basis[key])

    assert written.reason == "Invoice 1043 is being corrected"
    assert written.author == "dana@example.com"
    assert read.override_level_max is Level.WARN
    assert read.override_until_micros == written.until_micros


def test_each_kind_of_credential_is_found_by_its_own_hash() -> None:
    found = model()

    def held(sha256: str) -> tuple[CredentialKind, str]:
        key = reader.credential_key(sha256)
        read = reader.credential_of(key, found.credentials[key.encode()])
        return read.kind, read.tenant_id

    api_key = "1f0a55b1c5bdef2f0ab4a2cbd2a49d26c3dcb5a8a5a54b2e9cb6a7be8e9d5b10"
    assert held(api_key) == (CredentialKind.API_KEY, "acme")
    subject = sha256_hex("jwt\0acme-ci@idp.example.com")
    assert held(subject) == (CredentialKind.JWT_SUBJECT, "acme")
    uri = sha256_hex("certificate\0spiffe://example.com/ns/acme/sa/batch")
    assert held(uri) == (CredentialKind.CERTIFICATE, "acme")


def test_a_key_s_hash_is_that_of_its_bytes() -> None:
    assert sha256_of_key("abc").startswith("ba7816bf8f01cfea")


def test_equal_catalogs_make_equal_bytes() -> None:
    assert model() == model()
    assert model().version == model("# a comment\n" + EXAMPLE).version


def test_time_alone_changes_periods_and_not_the_version() -> None:
    now = model()
    later = model(now=NOW + timedelta(days=40))

    changed = {key for key, value in later.basis.items() if now.basis[key] != value}

    assert later.version == now.version
    tenants = (b"globex", b"initech", b"umbrella")
    assert changed == {b"aforo:v1:{%b}:policy" % tenant for tenant in tenants}


def test_every_change_of_content_has_a_version_of_its_own() -> None:
    edits = [
        ("committed_fee: 500 USD", "committed_fee: 501 USD"),
        ("limit: 600", "limit: 601"),
        ("weight: 10", "weight: 11"),
        ("price: 0.40", "price: 0.41"),
        ("status: revoked", "status: active"),
        ("until: 2026-11-27T18:00", "until: 2026-11-27T19:00"),
        ("name: Globex", "name: Globex Inc"),
    ]
    versions = [model(EXAMPLE.replace(old, new)).version for old, new in edits]

    # A name is for people: nothing that is read in Redis depends on it.
    assert versions.pop() == model().version
    assert len({model().version, *versions}) == len(edits)


def test_a_deal_that_begins_or_ends_changes_the_version() -> None:
    before = model(now=datetime(2028, 1, 14, tzinfo=UTC))
    after = model(now=datetime(2028, 1, 15, tzinfo=UTC))

    assert before.version != after.version
    assert before.holds_until <= datetime(2028, 1, 15, tzinfo=UTC)
    assert contract(before, "acme").committed_fee_nanos == 36_000 * 10**9
    assert contract(after, "acme").committed_fee_nanos == 24_000 * 10**9


def test_every_value_carries_the_version_of_its_own_content() -> None:
    found = model()
    other = model(EXAMPLE.replace("weight: 10", "weight: 11"))

    assert len(set(found.tenants.values())) == len(found.tenants) == 4
    for tenant_id, version in found.tenants.items():
        policy = Policy.FromString(found.basis[reader.policy_key(tenant_id).encode()])
        assert contract(found, tenant_id).catalog_version == policy.catalog_version == version
        assert policy.period_end_micros > 0
    versions = [
        Routes.FromString(each.basis[b"aforo:v1:routes"]).catalog_version for each in (found, other)
    ]
    assert len({"", *versions}) == 3


def test_a_change_changes_no_value_that_says_the_same() -> None:
    before, after = model(), model(EXAMPLE.replace("limit: 600", "limit: 601"))

    changed = {key for key, value in after.basis.items() if before.basis[key] != value}

    assert changed == {b"aforo:v1:{globex}:contract", b"aforo:v1:{globex}:policy"}
    assert before.credentials == after.credentials
    assert before.version != after.version


def test_a_tenant_alone_has_the_values_that_it_has_among_all() -> None:
    every, alone = model(), build_tenants(catalog(), {"acme"}, NOW)

    assert alone.basis.items() <= every.basis.items()
    assert alone.credentials.items() <= every.credentials.items()
    assert alone.tenants == {"acme": every.tenants["acme"]}


def test_rating_finds_own_and_negotiated_prices_before_the_published_ones() -> None:
    found = model()
    book = book_of(found.basis[b"aforo:v1:pricebook"])
    negotiated = book_of(PriceBook(own=contract(found, "acme").negotiated).SerializeToString()).own
    at_micros = int(NOW.timestamp()) * 10**6

    def price(model_name: str, *, provider: str, acme: bool = False) -> str:
        prices = Prices(book, negotiated if acme else ())
        entry = prices.price_of(
            "llm.input_tokens",
            provider=provider,
            model=model_name,
            at_micros=at_micros,
            input_tokens=10,
        )
        assert entry is not None
        return f"{entry.source} {entry.price_nanos}"

    assert price("gpt-4o-2024-08-06", provider="openai").startswith("genai-prices")
    # A price for gpt-4o holds for every name that the model goes by.
    assert price("gpt-4o-2024-08-06", provider="openai", acme=True) == "negotiated 2000000000"
    assert price("llama-own", provider="inhouse") == "catalog 0"


def test_a_star_in_a_model_s_name_stands_for_anything() -> None:
    line = "  - {meter: llm.input_tokens, provider: inhouse, price: 0, per: 1M, from: 2026-01-01}"
    assert line in EXAMPLE
    starred = [
        line.replace("inhouse,", f'inhouse, model: "{name}",')
        for name in ("qwen*", "*-fp8", "*moe*")
    ]
    found = model(EXAMPLE.replace(line, "\n".join(starred)))

    own = PriceBook.FromString(found.basis[b"aforo:v1:pricebook"]).own
    matches = {each.model: each.match.WhichOneof("rule") for each in own if "*" in each.model}
    assert matches == {"qwen*": "starts_with", "*-fp8": "ends_with", "*moe*": "contains"}


def test_without_the_built_in_costs_only_own_ones_are_there() -> None:
    text = EXAMPLE.replace("built_in_costs: true", "built_in_costs: false")
    book = PriceBook.FromString(model(text).basis[b"aforo:v1:pricebook"])

    assert not book.built_in
    assert {(each.provider, each.model) for each in book.own} == {
        ("", "hosted-70b"),
        ("inhouse", ""),
        ("", ""),
    }


def test_only_what_sync_owns_or_a_removed_tenant_leaves_is_removed() -> None:
    found = model()
    removable = {
        key
        for key in (
            b"aforo:v1:cred:" + b"0" * 64,
            b"aforo:v1:{gone}:policy",
            b"aforo:v1:{gone}:contract",
            b"aforo:v1:{gone}:margin",
            b"aforo:v1:{gone}:something-new",
            b"aforo:v1:{acme}:margin",
            b"aforo:v1:consumed:0",
            b"aforo:v1:published",
            b"aforo:v1:sync",
            b"aforo:v1:unknown",
            b"aforo:v1:{\xff",
        )
        if is_ours_to_remove(key, found)
    }

    assert removable == {
        b"aforo:v1:cred:" + b"0" * 64,
        b"aforo:v1:{gone}:policy",
        b"aforo:v1:{gone}:contract",
        b"aforo:v1:{gone}:margin",
    }
