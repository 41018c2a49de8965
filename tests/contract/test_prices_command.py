"""`aforo-admin prices` with a real Redis and a real ledger."""

import json
from pathlib import Path
from typing import Any

import pytest

from aforo_admin.ledger_reading import standings
from aforo_meter.corrections import Scope, Take
from aforo_meter.corrections_sql import SqlCorrections
from aforo_meter.domain.corrections import Kind
from aforo_meter.domain.guards import Guard
from aforo_meter.domain.periods import HOUR_MICROS, calendar_month
from aforo_meter.ledger_adjusting import Order
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.consume_lab import now_micros
from tests.contract.ledger_lab import DOLLAR, NOW, UNIT, batch, price, used, watch, watched
from tests.contract.ledgers import AuditedLedger
from tests.contract.test_sync_process import CLOSED_PORT_URL, aforo_admin

pytestmark = pytest.mark.contract

CATALOG = """\
version: 1
currency: USD
built_in_costs: {built_in}
features: [{{id: api, title: API}}]
plans:
  pro:
    committed_fee: 10.00 USD
    features: [api]
    guards: [{{id: api, features: [api], revenue: 8.00 USD}}]
tenants:
  acme:
    name: Acme
    subscription: {{id: sub-1, plan: pro, started_at: 2026-01-01}}
    negotiated_costs:
      - {{meter: gpu.ms, price: 0.01, per: 1, from: 2026-01-01}}
  globex:
    name: Globex
    subscription: {{id: sub-2, plan: pro, started_at: 2026-01-01}}
meters:
  - {{id: gpu.ms, title: GPU, unit: ms}}
costs:
  - {{meter: api.calls, price: {calls}, per: 1, from: 2026-01-01}}
  - {{meter: gpu.ms, price: {gpu}, per: 1, from: 2026-01-01}}
"""


def written(path: Path, *, calls: str = "1.00", gpu: str = "0.02", built_in: bool = False) -> Path:
    path.write_text(CATALOG.format(calls=calls, gpu=gpu, built_in=str(built_in).lower()))
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return written(tmp_path / "old.yaml")


@pytest.fixture
def env(old: Path, redis_url: str) -> dict[str, str]:
    """Redis holds the old catalog."""
    env = {"AFORO_ADMIN_REDIS_URL": redis_url, "AFORO_ADMIN_CATALOG": str(old)}
    assert aforo_admin("sync", "--once", env=env).returncode == 0
    return {"AFORO_ADMIN_REDIS_URL": redis_url}


def test_what_redis_holds_equals_the_catalog_that_was_synced(
    env: dict[str, str], old: Path
) -> None:
    done = aforo_admin("prices", "diff", "live", str(old), "--exit-code", env=env)

    assert (done.returncode, done.stdout) == (0, "0 added, 0 changed, 0 removed\n")


async def test_what_was_corrected_counts_as_it_is_now(
    ledger: SqlLedger, file: AuditedLedger
) -> None:
    """7 calls at $1, moved to $2: $14. 5 more at $1, of which 2 are taken back: $3."""
    first, second = price("first"), price("second", nanos=2 * DOLLAR)
    calls = used("e1", 7, prices=(first,))
    others = [used("e2", 5, prices=(first,), model="m"), used("e3", 4, prices=(), model="new")]
    await ledger.apply(batch([calls, *others], watches=watched(watch())))
    corrections = SqlCorrections(ledger)
    rows = {row.model: row for row in await corrections.rows(Scope(tenant_id="acme"))}

    def order(kind: Kind) -> Order:
        return Order(kind=kind, run_id="run", reason="a mistake", author="ann", now_micros=NOW)

    await corrections.rerate({rows[""]: "second"}, [second], "USD", order(Kind.RERATE))
    takes = [Take(rows["m"], (2 * UNIT, 0)), Take(rows["new"], None)]
    await corrections.void(takes, order(Kind.VOID))

    (standing,) = standings(file.url, now_micros=NOW)
    assert sorted((one.model, one.quantity_micros, one.cogs_nanos) for one in standing.used) == [
        ("", 7 * UNIT, 14 * DOLLAR),
        ("m", 3 * UNIT, 3 * DOLLAR),
    ]
    assert sum(one.cogs_nanos or 0 for one in standing.used) == standing.assessment.cogs_nanos


async def test_a_rise_names_whose_level_it_would_change(
    env: dict[str, str], ledger: SqlLedger, file: AuditedLedger, tmp_path: Path
) -> None:
    """acme's 7 calls cost 7 of 10 dollars, 9.80 at 1.40; globex' one call changes nothing much.

    Calls that need `api` have 8 dollars in each of the two contracts.
    """
    now = now_micros()
    period = calendar_month(now)
    at = max(period.start_micros, now - HOUR_MICROS)
    calls = price("catalog/*/*/api.calls", nanos=DOLLAR)
    guard = Guard(guard_id="api", features=frozenset({"api"}), revenue_nanos=8 * DOLLAR)
    await ledger.apply(
        batch(
            [
                used("a1", 7, prices=(calls,), period=period, at_micros=at),
                used(
                    "g1",
                    1,
                    prices=(calls,),
                    tenant="globex",
                    subscription="sub-2",
                    period=period,
                    at_micros=at,
                ),
            ],
            watches=watched(
                watch(period=period, guards=[guard]),
                watch(tenant="globex", subscription="sub-2", period=period, guards=[guard]),
            ),
            now_micros=now,
        )
    )
    new = written(tmp_path / "new.yaml", calls="1.40")
    asked = ["prices", "diff", "live", str(new), "--ledger-url", file.url]

    told = aforo_admin(*asked, "--exit-code", env=env)
    document: Any = json.loads(aforo_admin(*asked, "--json", env=env).stdout)

    assert (told.returncode, told.stderr) == (1, "")
    lines = told.stdout.splitlines()
    assert lines[0] == ("~ own */* api.calls, from 2026-01-01 00:00:00Z: 1 USD each → 1.4 USD each")
    assert lines[1] == "0 added, 1 changed, 0 removed"
    assert lines[3].startswith("2 tenants' usage of the current period would cost something else")
    assert " ".join(lines[5].split()) == ("acme none → throttle 30.00 % → 2.00 % 7 USD → 9.8 USD")
    assert lines[6:] == [
        "guard api of acme: warn → block",
        "COGS at the same level, 1 tenant: globex 1 USD → 1.4 USD",
    ]
    assert document["tenants"][0]["guards"] == [
        {"guard": "api", "before": "warn", "after": "block"}
    ]
    assert [(one["tenant"], one["changes_level"]) for one in document["tenants"]] == [
        ("acme", True),
        ("globex", False),
    ]
    assert file.kept_cogs()["acme", "sub-1", period.start_micros] == 7 * DOLLAR


def test_prices_are_listed_in_the_order_in_which_they_are_asked_for(env: dict[str, str]) -> None:
    done = aforo_admin("prices", "list", "--meter", "gpu.ms", env=env)

    assert [line.split()[:1] + line.split()[-2:-1] for line in done.stdout.splitlines()[1:]] == [
        ["negotiated", "negotiated"],
        ["own", "catalog"],
    ]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (["--model", "gtp-4o"], "no price is for the model 'gtp-4o'; did you mean 'gpt-4o'?"),
        (["--meter", "llm.input_token"], "did you mean 'llm.input_tokens'?"),
        (["--provider", "opanai"], "did you mean 'openai'?"),
    ],
)
def test_a_misspelt_name_has_no_prices_of_others(
    tmp_path: Path, asked: list[str], complaint: str
) -> None:
    catalog = written(tmp_path / "catalog.yaml", built_in=True)

    done = aforo_admin("prices", "list", str(catalog), *asked)

    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr


def test_where_redis_is_may_be_said_instead_of_set(env: dict[str, str]) -> None:
    url = env["AFORO_ADMIN_REDIS_URL"]

    listed = aforo_admin("prices", "list", "--redis-url", url)
    shown = aforo_admin("show", "acme", "--redis-url", url)
    wrong = aforo_admin("show", "acme", "--redis-url", "cache:6379")

    assert (listed.returncode, shown.returncode) == (0, 0)
    assert wrong.returncode == 2
    assert "expected redis://host:port/db" in wrong.stderr


def test_a_published_model_has_dated_prices_with_their_source(tmp_path: Path) -> None:
    catalog = written(tmp_path / "catalog.yaml", built_in=True)
    asked = ["prices", "list", str(catalog), "--provider", "openai", "--model", "gpt-4o-2024-08-06"]

    done = aforo_admin(*asked, "--meter", "llm.input_tokens", "--at", "2026-11-01", "--json")

    (entry,) = json.loads(done.stdout)
    assert (entry["precedence"], entry["provider"]) == ("built-in", "openai")
    assert entry["price_nanos"] * 1_000_000 // entry["per_units"] == 5 * DOLLAR // 2
    assert entry["source"].startswith("genai-prices ")


def test_what_can_not_be_compared_is_told(env: dict[str, str], old: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("version: 9\n")
    other = tmp_path / "other.yaml"
    other.write_text(old.read_text().replace("USD", "EUR"))
    nowhere = {"AFORO_ADMIN_REDIS_URL": CLOSED_PORT_URL}

    cases = [
        (aforo_admin("prices", "diff", "live", str(broken), env=env), 2, "broken.yaml:1"),
        (aforo_admin("prices", "diff", str(old), str(other)), 1, "prices in USD can't be"),
        (aforo_admin("prices", "list", env=nowhere), 1, "can't be used"),
        (aforo_admin("prices", "list"), 2, "AFORO_ADMIN_REDIS_URL: not set"),
        (aforo_admin("prices", "list", "--at", "soon", str(old)), 2, "--at"),
        (
            aforo_admin("prices", "diff", "live", str(old), "--ledger-url", "l.db", env=env),
            1,
            "expected sqlite:////",
        ),
    ]

    for done, code, complaint in cases:
        assert (done.returncode, done.stdout) == (code, "")
        assert complaint in done.stderr
        assert "s3cr3t" not in done.stderr


def test_a_redis_without_prices_is_no_empty_price_book(redis_url: str) -> None:
    done = aforo_admin("prices", "list", env={"AFORO_ADMIN_REDIS_URL": redis_url})

    assert done.returncode == 1
    assert "holds no price book" in done.stderr


def test_another_database_is_no_ledger(old: Path, tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(b"")

    done = aforo_admin(
        *("prices", "diff", "live", str(old), "--ledger-url", f"sqlite:///{path}"), env=env
    )

    assert done.returncode == 1
    assert "can't be read: no such table" in done.stderr
