"""A what-if with a dearer provider is what `aforo-meter replay` writes under that price, to a nano.

Everything is as operators run it: sync, consume, the what-if and the replay are processes.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from aforo_meter.domain.periods import HOUR_MICROS, calendar_month, datetime_of
from aforo_proto import usage_pb2
from lab.servers import HANG_S, ROOT, KafkaServer, RedisServer, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import ConsumeLab, consume_lab, now_micros, usage_event
from tests.contract.ledgers import AuditedLedger, LedgerFile
from tests.contract.tools_lab import ran

pytestmark = [pytest.mark.contract, pytest.mark.slow]

# Prices that no amount is a whole number of nanos at; a fifth more of each is written exactly.
PRICES = {"large": "3.333333", "small": "7.777777", "tiered": "1.1", "tiered_long": "2.3"}
DEARER = {"large": "3.9999996", "small": "9.3333324", "tiered": "1.32", "tiered_long": "2.76"}

TOKENS = "meter: llm.input_tokens, per: 1M, from: 2020-01-01"
CATALOG = """\
version: 1
currency: USD
built_in_costs: false
features: [{{id: api, title: API}}]
plans:
  flat: {{committed_fee: 500, billing: calendar, features: [api]}}
  metered:
    committed_fee: 0
    billing: calendar
    features: [api]
    rate_card:
      - from: 2020-01-01
        components: [{{id: tokens, meter: llm.input_tokens, price: 9, per: 1M}}]
tenants:
  acme: {{subscription: {{id: acme-1, plan: flat, started_at: 2020-01-01}}}}
  globex: {{subscription: {{id: globex-1, plan: metered, started_at: 2020-01-01}}}}
  initech:
    subscription: {{id: initech-1, plan: flat, started_at: 2020-01-01}}
    negotiated_costs:  # Theirs stays as it is, whatever the provider asks of others.
      - {{{tokens}, provider: openai, model: large, price: 2.7}}
  umbrella: {{subscription: {{id: umbrella-1, plan: flat, started_at: 2020-01-01}}}}
costs:
  - {{meter: api.calls, price: 0.40, per: 1M, from: 2020-01-01}}
  - {{{tokens}, provider: openai, model: large, price: {large}}}
  - {{{tokens}, provider: openai, model: small, price: {small}}}
  - {{{tokens}, provider: openai, model: tiered, price: {tiered}}}
  - {{{tokens}, provider: openai, model: tiered, price: {tiered_long}, input_tokens_from: 1000}}
  - {{{tokens}, provider: other, price: 7}}
"""
KINDS = (("openai", "large"), ("openai", "small"), ("openai", "tiered"), ("other", "large"))
TENANTS = ("acme", "globex", "initech")
UNTOUCHED = "umbrella"  # It asks another provider alone.
TURNS = 3


def usage(start_micros: int) -> Iterator[usage_pb2.UsageEvent]:
    """Yield usage of several hours of the period, as far as it has lasted."""
    step_micros = min(HOUR_MICROS, (now_micros() - start_micros) // TURNS)
    for turn in range(TURNS):
        for number, (provider, model) in enumerate(KINDS):
            for tenant in (*TENANTS, *([UNTOUCHED] if provider == "other" else [])):
                for tokens in (1, 999 + number, 1777 * (turn + 1)):
                    yield usage_event(
                        tenant,
                        tokens,
                        meter="llm.input_tokens",
                        subscription_id=f"{tenant}-1",
                        occurred_at_micros=start_micros + turn * step_micros + number,
                        dimensions=usage_pb2.Dimensions(provider=provider, model=model),
                    )


def admin(*arguments: str, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if "AFORO_" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "aforo_admin", *arguments],
        env={**clean, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def synced(path: Path, text: str, redis_url: str) -> Path:
    path.write_text(text)
    admin("sync", "--once", AFORO_ADMIN_CATALOG=str(path), AFORO_ADMIN_REDIS_URL=redis_url)
    return path


def cogs_of(ledger: AuditedLedger) -> dict[str, int]:
    """Return what each tenant's rows come to, each rounded by itself, by SQL and fractions."""
    found: dict[str, int] = defaultdict(int)
    for (tenant, _, _), nanos in ledger.audited_cogs().items():
        found[tenant] += nanos
    return dict(found)


async def test_a_provider_s_rise_is_a_replay_under_that_price(
    kafka_server: KafkaServer | KafkaAt, tmp_path: Path
) -> None:
    start_micros = calendar_month(now_micros()).start_micros
    async with consume_lab(kafka_server.bootstrap, tmp_path) as lab:
        catalog = synced(
            tmp_path / "catalog.yaml", CATALOG.format(tokens=TOKENS, **PRICES), lab.redis_server.url
        )
        await lab.start()
        events = list(usage(start_micros))
        await lab.send_many(events)
        for tenant in (*TENANTS, UNTOUCHED):
            # This broker names the start of a partition's last batch as its end: nothing is in it.
            await lab.send(tenant, 0)
        await eventually(lambda: read_all(lab))
        recorded = cogs_of(lab.ledger)

        same = what_if(catalog, lab)
        dearer = what_if(catalog, lab, "--provider-cost", "openai=+20%")
        scratch = await replayed_at(DEARER, lab, start_micros, tmp_path)

    assert {name: one["recorded"]["cogs_nanos"] for name, one in same.items()} == recorded
    for one in same.values():
        assert one["recorded"] == one["replayed"] == one["acted"]
    expected = cogs_of(scratch)
    assert {name: one["replayed"]["cogs_nanos"] for name, one in dearer.items()} == expected
    # It is no rise of the sum: what is rounded is each row, and what was negotiated stays.
    assert all(expected[name] > recorded[name] for name in TENANTS)
    assert expected[UNTOUCHED] == recorded[UNTOUCHED]
    assert expected["initech"] - recorded["initech"] < expected["acme"] - recorded["acme"]
    assert Fraction(expected["acme"], recorded["acme"]) != Fraction(6, 5)
    for name, one in dearer.items():
        assert one["replayed"]["revenue_nanos"] == one["recorded"]["revenue_nanos"], name


def read_all(lab: ConsumeLab) -> bool:
    (read,) = lab.ledger.rows("SELECT SUM(next_offset) FROM position")[0]
    return read is not None and read >= len(lab.sent)


def what_if(catalog: Path, lab: ConsumeLab, *more: str) -> dict[str, Any]:
    arguments = ["--catalog", str(catalog), "--ledger-url", lab.ledger.url, "--json"]
    found = json.loads(admin("what-if", *arguments, *more))
    return {one["tenant"]: one for one in found["tenants"]}


async def replayed_at(
    prices: dict[str, str], lab: ConsumeLab, start_micros: int, home: Path
) -> AuditedLedger:
    """Rate the same usage into a ledger of its own, by a catalog with these prices."""
    scratch = LedgerFile(home / "scratch.db")
    until = datetime_of(now_micros())
    with RedisServer(log_dir=home) as apart:
        synced(home / "dearer.yaml", CATALOG.format(tokens=TOKENS, **prices), apart.url)
        done = await ran(
            *("replay", "--bootstrap", lab.bootstrap, "--topic", lab.topic),
            *("--redis-url", apart.url, "--ledger-url", scratch.url),
            *("--from", datetime_of(start_micros).replace(tzinfo=None).isoformat()),
            *("--to", until.replace(tzinfo=None).isoformat(), "--json"),
        )
    assert done.code == 0, done.err
    assert done.json()["rated"] >= len(lab.sent) - len((*TENANTS, UNTOUCHED))
    return scratch
