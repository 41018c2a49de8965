"""What the demo sees, from outside: as a client, as an operator, through the stand-ins."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import redis
from genai_prices import Usage, calc_price

from aforo_meter.alerts import LEVEL_CHANGED
from aforo_meter.webhooks import parse_secret, verify
from aforo_proto import margin_pb2
from demo.checks import StepFailedError, check
from demo.control import Control
from demo.tenants import CALL_COST_NANOS, TENANTS
from lab.http_client import HttpClient
from lab.stack import WEBHOOK_SECRET, Stack

# The stand-in's kinds of tokens, and our meters: both count each token once.
METERS = {
    "input": "llm.input_tokens",
    "cached": "llm.cached_input_tokens",
    "cache_creation": "llm.cache_creation_tokens",
    "output": "llm.output_tokens",
    "tool": "llm.tool_tokens",
    "reasoning": "llm.reasoning_tokens",
}
NANOS = Decimal(1_000_000_000)

# A thousand tokens of one kind, as genai-prices counts: cached ones are part of the input. Sums
# are not asked for: their size would look like that of one request, which some prices depend on.
THOUSAND_TOKENS = {
    "input": Usage(input_tokens=1000),
    "cached": Usage(input_tokens=1000, cache_read_tokens=1000),
    "cache_creation": Usage(input_tokens=1000, cache_write_tokens=1000),
    "output": Usage(output_tokens=1000),
    "tool": Usage(input_tokens=1000),
    "reasoning": Usage(output_tokens=1000),
}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens by provider, model and meter; zeros are left out."""

    counts: Mapping[tuple[str, str, str], int]

    def total(self) -> int:
        return sum(self.counts.values())

    def models(self) -> str:
        return ", ".join(sorted({model for _, model, _ in self.counts}))


class World:
    """One running stack, looked at from outside."""

    def __init__(self, stack: Stack, control: Control | None = None) -> None:
        self.stack = stack
        self._control = control
        self.felt_s: list[float] = []  # From each change in the admin to its first effect.
        self.url = stack.url
        self.upstream = f"http://127.0.0.1:{stack.ports['premium']}"
        self.economy = f"http://127.0.0.1:{stack.ports['economy']}"
        self.webhooks = f"http://127.0.0.1:{stack.ports['webhooks']}"

    def client(self, tenant_id: str) -> HttpClient:
        return HttpClient(self.url, api_key=TENANTS[tenant_id].key)

    @property
    def control(self) -> Control:
        assert self._control is not None, "this world has its catalog in a file"
        return self._control

    async def served(self, tenant_id: str) -> Tokens:
        """Return the tokens that the upstreams say they served to a tenant."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for tally in await self._tallies():
            for name, kinds in tally["tenants"].get(tenant_id, {}).items():
                provider, _, model = name.partition("/")
                for kind, meter in METERS.items():
                    counts[provider, model, meter] += kinds.get(kind, 0)
        return Tokens(dict(+counts))

    async def served_calls(self, tenant_id: str) -> int:
        """Return how many of a tenant's requests reached the upstreams."""
        return sum(tally["calls"].get(tenant_id, 0) for tally in await self._tallies())

    async def ledger_tokens(self, tenant_id: str) -> Tokens:
        """Return the tokens that the ledger has for a tenant."""
        rows = self._rows(
            "SELECT provider, model, meter, SUM(quantity_micros) FROM charge"
            " WHERE tenant_id = ? AND meter LIKE 'llm.%' GROUP BY provider, model, meter",
            tenant_id,
        )
        return Tokens({(p, m, meter): micros // 1_000_000 for p, m, meter, micros in rows})

    async def calls(self, tenant_id: str) -> int:
        """Return the calls that the ledger has for a tenant."""
        ((micros,),) = self._rows(
            "SELECT COALESCE(SUM(quantity_micros), 0) FROM charge"
            " WHERE tenant_id = ? AND meter = 'api.calls'",
            tenant_id,
        )
        return int(micros) // 1_000_000

    async def calls_of(self, tenants: Iterable[str]) -> dict[str, int]:
        return {tenant_id: await self.calls(tenant_id) for tenant_id in tenants}

    async def margin(self, tenant_id: str) -> margin_pb2.Margin:
        """Return what the next decision will be made with."""
        with redis.Redis.from_url(self.stack.redis.url) as client:
            value = client.get(f"aforo:v1:{{{tenant_id}}}:margin")
        return margin_pb2.Margin.FromString(value or b"")

    async def reckoned_cogs(self, tenant_id: str) -> int:
        """Reckon a tenant's COGS from what the upstreams served, apart from all our own code.

        In nanos, by genai-prices' own calculation; bytes cost nothing in this catalog.
        """
        cogs = Decimal(0)
        for tally in await self._tallies():
            cogs += tally["calls"].get(tenant_id, 0) * CALL_COST_NANOS
            for name, kinds in tally["tenants"].get(tenant_id, {}).items():
                provider, _, model = name.partition("/")
                for kind, thousand in THOUSAND_TOKENS.items():
                    cogs += kinds.get(kind, 0) * price_nanos(thousand, provider, model) / 1000
        check(cogs == int(cogs), "a whole number of nanos", cogs)
        return int(cogs)

    async def alerts(self, tenant_id: str) -> list[dict[str, Any]]:
        """Return a tenant's changes of level as they arrived, each signature verified."""
        async with HttpClient(self.webhooks) as client:
            received = (await client.get("/lab/messages")).json()
        key = parse_secret(WEBHOOK_SECRET)
        messages = []
        for message in received:
            body = message["body"].encode()
            verify(key, headers=message["headers"], payload=body, now_s=message["received_s"])
            messages.append(json.loads(body))
        return [
            message
            for message in messages
            if message["type"] == LEVEL_CHANGED and message["data"]["tenant"] == tenant_id
        ]

    async def last_headers(self, upstream: str) -> dict[str, str]:
        """Return the headers of the last request that an upstream saw."""
        async with HttpClient(upstream) as client:
            seen = (await client.get("/lab/last")).json()
        if not seen:
            raise StepFailedError("expected a request at the upstream; saw none")
        return dict(seen[-1]["headers"])

    async def hits(self) -> int:
        """Return how many requests reached any upstream."""
        return sum(int(tally["hits"]["total"]) for tally in await self._tallies())

    async def _tallies(self) -> list[dict[str, Any]]:
        tallies = []
        for upstream in (self.upstream, self.economy):
            async with HttpClient(upstream) as client:
                tallies.append((await client.get("/lab/tally")).json())
        return tallies

    def _rows(self, query: str, *values: str) -> list[Any]:
        address = f"file:{self.stack.ledger_path}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=5)) as connection:
            return connection.execute(query, values).fetchall()


def price_nanos(usage: Usage, provider: str, model: str) -> Decimal:
    """Return what genai-prices asks for a usage today."""
    price = calc_price(
        usage, model, provider_id=provider, genai_request_timestamp=datetime.now(UTC)
    )
    return price.total_price * NANOS


def dollars(nanos: int) -> str:
    return f"${Decimal(nanos) / NANOS:,.6f}"
