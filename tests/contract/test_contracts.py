"""Contracts and prices from a real Redis: what is absent, broken, new, or not there yet."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from aforo_meter.contract_messages import UnreadableError
from aforo_meter.contracts import Contracts, Look, NotSyncedError
from aforo_proto.contract_pb2 import Contract, PriceBook, PriceEntry, PriceList
from aforo_proto.policy_pb2 import SyncState
from tests.contract.consume_lab import DOLLAR, Catalog

pytestmark = pytest.mark.contract


@pytest.fixture
def catalog(redis_url: str) -> Catalog:
    catalog = Catalog(redis.Redis.from_url(redis_url))
    catalog.price("api.calls", 5)
    catalog.contract("acme")
    return catalog


@pytest.fixture
async def contracts(redis_url: str) -> AsyncIterator[Contracts]:
    client = Redis.from_url(redis_url)
    yield Contracts(client)
    await client.aclose()


def price_id(contracts: Contracts, tenant: str) -> str | None:
    found = contracts.prices(tenant).price_of(
        "api.calls", provider="", model="", at_micros=1, input_tokens=0
    )
    return None if found is None else found.price_id


async def test_a_contract_is_read_when_it_is_first_needed(
    contracts: Contracts, catalog: Catalog
) -> None:
    catalog.sync()

    await contracts.know([("acme", "sub-1"), ("nobody", "")])

    terms = contracts.terms("acme")
    assert terms is not None
    assert (terms.subscription_id, terms.committed_fee_nanos) == ("sub-1", 10 * DOLLAR)
    assert contracts.terms("nobody") is None
    assert price_id(contracts, "acme") == price_id(contracts, "nobody") == "api.calls@5"


async def test_nothing_is_known_absent_before_a_sync_is_complete(
    contracts: Contracts, catalog: Catalog
) -> None:
    with pytest.raises(NotSyncedError, match="aforo:v1:pricebook"):
        await contracts.know([("acme", "")])

    catalog.sync()
    catalog.redis.delete("aforo:v1:sync")
    with pytest.raises(NotSyncedError, match="aforo:v1:sync"):
        await contracts.know([("nobody", "")])


async def test_what_is_known_needs_no_redis(contracts: Contracts, catalog: Catalog) -> None:
    catalog.sync()
    await contracts.know([("acme", "sub-1")])
    catalog.redis.flushall()

    await contracts.know([("acme", "sub-1")])

    assert contracts.terms("acme") is not None
    with pytest.raises(NotSyncedError):
        await contracts.know([("globex", "")])


async def test_a_look_names_only_what_changed(contracts: Contracts, catalog: Catalog) -> None:
    catalog.contract("globex")
    catalog.sync()
    await contracts.know([("acme", ""), ("globex", ""), ("late", "")])
    first = await contracts.look()
    assert (first.tenants, first.prices, first.emptied) == (frozenset(), False, True)
    catalog.redis.set("aforo:v1:published", b"1")

    assert await contracts.look() == Look()
    catalog.contract("globex", fee_nanos=1)
    catalog.contract("late")
    catalog.sync()
    look = await contracts.look()

    assert look.tenants == {"globex", "late"}
    assert contracts.terms("late") is not None
    assert await contracts.look() == Look()


async def test_a_look_reads_again_whom_sync_wrote_alone(
    contracts: Contracts, catalog: Catalog
) -> None:
    for tenant in ("globex", "gone"):
        catalog.contract(tenant)
    catalog.sync()
    catalog.redis.set("aforo:v1:published", b"1")
    await contracts.know([(tenant, "") for tenant in ("acme", "globex", "gone", "late")])
    await contracts.look()

    for tenant in ("acme", "globex"):
        catalog.contract(tenant, fee_nanos=1)
    catalog.contract("late")
    for tenant in ("acme", "globex", "late"):
        catalog.contracts[tenant].catalog_version = "alone"
        key = f"aforo:v1:{{{tenant}}}:contract"
        catalog.redis.set(key, catalog.contracts[tenant].SerializeToString())
    catalog.redis.delete("aforo:v1:{gone}:contract")
    written = {"globex": "alone", "late": "alone", "gone": "", "unheard-of": "alone"}
    state = SyncState(catalog_version=f"v{catalog.version}", written_since=written)
    catalog.redis.set("aforo:v1:sync", state.SerializeToString())

    assert await contracts.look() == Look(tenants=frozenset({"globex", "late", "gone"}))
    assert contracts.terms("gone") is None
    assert await contracts.look() == Look()


async def test_a_look_sees_that_a_change_was_taken_back(
    contracts: Contracts, catalog: Catalog
) -> None:
    """globex gets another fee, and its old one again: a pass finds the catalog that it knew."""
    catalog.contract("globex")
    catalog.sync()
    catalog.redis.set("aforo:v1:published", b"1")
    await contracts.know([("globex", "")])
    await contracts.look()
    key, version = "aforo:v1:{globex}:contract", f"v{catalog.version}"
    before: Any = catalog.redis.get(key)
    changed = Contract.FromString(before)
    changed.committed_fee_nanos, changed.catalog_version = 1, "alone"
    catalog.redis.set(key, changed.SerializeToString())
    state = SyncState(catalog_version=version, written_since={"globex": "alone"})
    catalog.redis.set("aforo:v1:sync", state.SerializeToString())
    assert (await contracts.look()).tenants == {"globex"}

    catalog.redis.set(key, before)
    catalog.redis.set("aforo:v1:sync", SyncState(catalog_version=version).SerializeToString())

    assert (await contracts.look()).tenants == {"globex"}
    assert await contracts.look() == Look()


async def test_a_look_says_that_prices_changed(contracts: Contracts, catalog: Catalog) -> None:
    catalog.sync()
    await contracts.know([("acme", "")])
    await contracts.look()

    catalog.prices[0].price_id = "new"
    catalog.sync()

    assert (await contracts.look()).prices
    assert price_id(contracts, "acme") == "new"


async def test_a_contract_that_is_gone_is_gone(contracts: Contracts, catalog: Catalog) -> None:
    catalog.sync()
    await contracts.know([("acme", "")])
    await contracts.look()

    catalog.redis.delete("aforo:v1:{acme}:contract")
    del catalog.contracts["acme"]
    catalog.sync()

    assert (await contracts.look()).tenants == {"acme"}
    assert contracts.terms("acme") is None


async def test_a_broken_contract_leaves_the_last_known_in_force(
    contracts: Contracts, catalog: Catalog
) -> None:
    catalog.sync()
    await contracts.know([("acme", "")])

    catalog.contract("acme", fee_nanos=1)
    catalog.sync()
    catalog.redis.set("aforo:v1:{acme}:contract", b"\xff\xff")

    assert (await contracts.look()).tenants == frozenset()
    terms = contracts.terms("acme")
    assert terms is not None
    assert terms.committed_fee_nanos == 10 * DOLLAR


async def test_a_broken_contract_that_was_never_known_is_waited_for(
    contracts: Contracts, catalog: Catalog
) -> None:
    catalog.sync()
    catalog.redis.set("aforo:v1:{acme}:contract", b"\xff\xff")

    with pytest.raises(UnreadableError, match="contract of acme"):
        await contracts.know([("acme", "")])

    catalog.sync()
    await contracts.know([("acme", "")])
    assert contracts.terms("acme") is not None


async def test_a_broken_price_book_leaves_the_last_known_in_force(
    contracts: Contracts, catalog: Catalog
) -> None:
    catalog.sync()
    await contracts.know([("acme", "")])
    catalog.contract("acme", fee_nanos=1)
    catalog.sync()
    catalog.redis.set("aforo:v1:pricebook", b"\xff\xff")

    assert (await contracts.look()).tenants == frozenset()
    assert price_id(contracts, "acme") == "api.calls@5"

    # It is tried again until it can be read, and nothing that changed meanwhile is forgotten.
    catalog.redis.set("aforo:v1:pricebook", b"")
    look = await contracts.look()
    assert look.tenants == {"acme"}
    assert look.prices


async def test_a_subscription_that_is_not_the_known_one_is_asked_for_once(
    contracts: Contracts, catalog: Catalog
) -> None:
    catalog.sync()
    await contracts.know([("acme", "sub-1")])
    catalog.contract("acme", subscription="sub-2")
    catalog.sync()

    await contracts.know([("acme", "sub-2")])
    terms = contracts.terms("acme")
    assert terms is not None
    assert terms.subscription_id == "sub-2"

    # The former one is known as such from then on.
    await contracts.know([("acme", "sub-1")])
    catalog.redis.flushall()
    await contracts.know([("acme", "sub-1"), ("acme", "sub-2")])


async def test_a_tenants_negotiated_prices_are_its_own(
    contracts: Contracts, catalog: Catalog
) -> None:
    entry = PriceEntry(price_id="deal", meter="api.calls", price_nanos=1, per_units=1)
    catalog.contracts["acme"].negotiated.append(PriceList(entries=[entry]))
    catalog.contract("globex")
    catalog.sync()

    await contracts.know([("acme", ""), ("globex", "")])

    assert price_id(contracts, "acme") == "deal"
    assert price_id(contracts, "globex") == "api.calls@5"
    del catalog.contracts["acme"].negotiated[:]
    catalog.sync()
    assert (await contracts.look()).tenants == {"acme"}
    assert price_id(contracts, "acme") == "api.calls@5"


async def test_prices_in_another_currency_than_the_charges_are_not_taken_over(
    redis_url: str, catalog: Catalog
) -> None:
    async def charged_in() -> str:
        return charges

    charges = ""
    client = Redis.from_url(redis_url)
    contracts = Contracts(client, charged_in)
    catalog.sync()
    await contracts.know([("acme", "")])
    charges = "USD"

    catalog.sync()
    held: Any = catalog.redis.get("aforo:v1:pricebook")
    dong = PriceBook.FromString(held)
    dong.currency = "VND"
    catalog.redis.set("aforo:v1:pricebook", dong.SerializeToString())
    look = await contracts.look()
    with pytest.raises(NotSyncedError, match=r"in VND, and the ledger has charges in USD: amounts"):
        await Contracts(client, charged_in).know([("acme", "")])

    assert look == Look(emptied=True)
    assert contracts.book is not None
    assert contracts.book.currency == "USD"
    charges = ""
    assert (await contracts.look()).prices
    assert contracts.book.currency == "VND"
    await client.aclose()
