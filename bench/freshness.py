"""How long until a decision knows what the last call cost: usage → margin → decision."""

import asyncio
import hashlib
import statistics
import time
from typing import Any

from demo.story import CHAT, completion
from lab.http_client import HttpClient
from lab.servers import scratch_dir
from lab.stack import Options, Stack

FEE_DOLLARS = 10
# A million output tokens of gpt-4o cost $10: with the input, just over the fee.
OUTPUT_TOKENS = 1_000_000
WAIT_S_MAX = 20.0
PAUSE_S = 0.01


def run(*, tenants: int) -> dict[str, Any]:
    """Push tenants over their floor, one after the other; time each until it is blocked."""
    home = scratch_dir("bench-freshness")
    path = home / "catalog.yaml"
    keys = [f"bench-freshness-{number}" for number in range(tenants)]
    path.write_text(catalog(keys))
    print(f"  freshness: {tenants} tenants, one after the other", flush=True)
    with Stack(Options(catalog=path, home=home)) as stack:
        took_ms = asyncio.run(_measure(stack.url, keys))
    ordered = sorted(took_ms)
    return {
        "samples": len(ordered),
        "p50_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 1),
        "max_ms": round(ordered[-1], 1),
    }


async def _measure(url: str, keys: list[str]) -> list[float]:
    return [await _blocked_after_ms(url, key) for key in keys]


async def _blocked_after_ms(url: str, key: str) -> float:
    async with HttpClient(url, api_key=key) as client:
        answer = await client.post(CHAT, completion(OUTPUT_TOKENS))
        assert answer.status == 200, answer.text
        started = time.perf_counter()
        while time.perf_counter() - started < WAIT_S_MAX:
            if (await client.get("/echo")).status == 429:
                return (time.perf_counter() - started) * 1000
            await asyncio.sleep(PAUSE_S)
    raise TimeoutError(f"not blocked {WAIT_S_MAX:.0f} s after the call that cost too much")


def catalog(keys: list[str]) -> str:
    """Return a catalog with a tenant per key, all on one small plan."""
    return f"""\
version: 1
currency: USD
features:
  - {{id: api, title: API}}
routes:
  - {{path: "/**", features: [api]}}
plans:
  small:
    title: Small
    committed_fee: {FEE_DOLLARS}
    features: [api]
tenants:
{"".join(_tenant(number, key) for number, key in enumerate(keys))}
costs:
  - {{meter: api.calls, price: 0, per: 1, from: 2026-01-01}}
  - {{meter: bytes.request, price: 0, per: 1, from: 2026-01-01}}
  - {{meter: bytes.response, price: 0, per: 1, from: 2026-01-01}}
"""


def _tenant(number: int, key: str) -> str:
    return f"""\
  tenant-{number}:
    name: Tenant {number}
    subscription: {{id: sub-{number}, plan: small, started_at: 2026-01-01}}
    credentials:
      - {{id: key-{number}, sha256: {hashlib.sha256(key.encode()).hexdigest()}}}
"""
