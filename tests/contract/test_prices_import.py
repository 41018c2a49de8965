"""What is published is imported once: by sync into Redis, or into a file beside the catalog."""

import time
from pathlib import Path
from typing import Any

import pytest
import redis

from aforo_admin.builtin_prices import built_in_lists, identified, name_of
from aforo_admin.prices_file import read_prices, write_prices
from aforo_meter.domain.periods import DAY_MICROS
from aforo_meter.ledger_sql import SqlLedger
from aforo_proto.contract_pb2 import PriceBook, PriceList
from aforo_proto.margin_pb2 import Margin
from tests.contract.ledger_lab import batch, used
from tests.contract.ledgers import AuditedLedger
from tests.contract.test_sync_process import aforo_admin

pytestmark = pytest.mark.contract

CATALOG = """\
version: 1
currency: USD
built_in_costs: {built_in}
plans: {{pro: {{committed_fee: 5, features: []}}}}
"""
MODEL = ("anthropic", "claude-haiku-4-5")


def earlier_edition() -> list[PriceList]:
    """Return what the package says, but for one model, whose undated prices were half."""
    lists = []
    for each in built_in_lists():
        copy = PriceList()
        copy.CopyFrom(each)
        if (copy.provider, copy.model) == MODEL:
            for entry in copy.entries:
                name = name_of(entry)
                entry.price_nanos //= 2
                identified(entry, name=name).source = "genai-prices 0.0.1"
        lists.append(copy)
    return lists


def of_model(lists: Any) -> PriceList:  # noqa: ANN401 - repeated or list
    (found,) = (each for each in lists if (each.provider, each.model) == MODEL)
    assert isinstance(found, PriceList)
    return found


def book_in(client: redis.Redis) -> PriceBook:
    value: Any = client.get("aforo:v1:pricebook")
    return PriceBook.FromString(value)


def held(url: str) -> PriceList:
    with redis.Redis.from_url(url) as client:
        return of_model(book_in(client).built_in)


@pytest.fixture
def env(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """Redis holds what an earlier edition said."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG.format(built_in="true"))
    book = PriceBook(version="old", currency="USD", built_in=earlier_edition())
    with redis.Redis.from_url(redis_url) as client:
        client.set("aforo:v1:pricebook", book.SerializeToString())
    return {"AFORO_ADMIN_REDIS_URL": redis_url, "AFORO_ADMIN_CATALOG": str(catalog)}


def test_an_upgraded_package_adds_entries_to_what_redis_holds(
    env: dict[str, str], redis_url: str
) -> None:
    before = of_model(earlier_edition()).entries
    began_micros = time.time_ns() // 1000

    told = aforo_admin("diff", env=env)
    first = aforo_admin("sync", "--once", env=env)
    after = held(redis_url).entries
    again = aforo_admin("sync", "--once", env=env)

    assert (first.returncode, again.returncode) == (0, 0), first.stderr
    assert list(after[: len(before)]) == list(before)
    assert len(after) == 2 * len(before)
    for entry in after[len(before) :]:
        assert began_micros <= entry.effective_from_micros < began_micros + DAY_MICROS
        assert entry.source == built_in_lists()[0].entries[0].source
    assert "claude-haiku-4-5" in told.stdout
    assert list(held(redis_url).entries) == list(after)


def test_a_file_begins_with_what_redis_holds_and_is_what_sync_writes(
    env: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "prices.jsonl"
    into = ["prices", "import", "--into", str(file)]

    unsaid = aforo_admin(*into, env=env)
    shown = aforo_admin(*into, "--begin", "live", env=env)
    assert not file.exists()
    written = aforo_admin(*into, "--begin", "live", "--write", env=env)
    Path(env["AFORO_ADMIN_CATALOG"]).write_text(CATALOG.format(built_in="prices.jsonl"))
    synced = aforo_admin("sync", "--once", env=env)

    assert (unsaid.returncode, synced.returncode) == (1, 0), synced.stderr
    assert "say --begin live" in unsaid.stderr
    count = len(of_model(earlier_edition()).entries)
    for done in (shown, written):
        lines = done.stdout.splitlines()
        assert [line[:2] for line in lines[:count]] == ["+ "] * count
        assert "models" in lines[count]
    assert "nothing is written" in shown.stdout
    assert list(held(redis_url).entries) == list(of_model(read_prices(file)).entries)
    assert len(held(redis_url).entries) == 2 * count


def test_a_second_import_adds_nothing(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "prices.jsonl"
    write_prices(file, earlier_edition())
    into = ["prices", "import", "--into", str(file), "--write"]

    first = aforo_admin(*into, env=env)
    content = file.read_bytes()
    second = aforo_admin(*into, env=env)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "+ " in first.stdout
    assert "+ " not in second.stdout
    assert file.read_bytes() == content


def test_a_catalog_without_its_file_of_prices_is_refused(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG.format(built_in="prices.jsonl"))

    done = aforo_admin("check", str(catalog))

    assert done.returncode == 1
    assert f"{tmp_path / 'prices.jsonl'}: can't be read" in done.stderr
    assert "aforo-admin prices import --into" in done.stderr


def test_a_change_of_the_currency_under_charges_is_refused(
    env: dict[str, str], redis_url: str
) -> None:
    assert aforo_admin("sync", "--once", env=env).returncode == 0
    margin = Margin(tenant_id="acme", currency="USD", cogs_nanos=10**10)
    with redis.Redis.from_url(redis_url) as client:
        client.set("aforo:v1:{acme}:margin", margin.SerializeToString())
    other = CATALOG.format(built_in="false").replace("USD", "VND")
    Path(env["AFORO_ADMIN_CATALOG"]).write_text(other)

    done = [aforo_admin("sync", "--once", env=env), aforo_admin("diff", env=env)]

    assert [one.returncode for one in done] == [1, 2]
    for one in done:
        assert "the catalog's currency is VND, and the ledger, by Redis, has charges in USD" in (
            one.stderr
        )
    with redis.Redis.from_url(redis_url) as client:
        assert book_in(client).currency == "USD"
        client.delete("aforo:v1:{acme}:margin")
    assert aforo_admin("sync", "--once", env=env).returncode == 0


async def test_check_compares_the_currency_with_that_of_the_ledger(
    tmp_path: Path, file: AuditedLedger
) -> None:
    async with SqlLedger(file.url) as ledger:
        await ledger.apply(batch([used("e1", 10)]))
    catalog = tmp_path / "catalog.yaml"

    catalog.write_text(CATALOG.format(built_in="false"))
    right = aforo_admin("check", str(catalog), "--ledger-url", file.url)
    catalog.write_text(CATALOG.format(built_in="false").replace("USD", "VND"))
    wrong = aforo_admin("check", str(catalog), "--ledger-url", file.url)

    assert (right.returncode, wrong.returncode) == (0, 1)
    assert "warning: costs: every call counts on api.calls, and no cost price" in right.stderr
    assert "the catalog's currency is VND, and the ledger has charges in USD" in wrong.stderr
