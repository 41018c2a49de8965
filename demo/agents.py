"""An agent of a tenant's at work with an MCP server: sessions to look at."""

import asyncio
import random
import secrets
from collections.abc import Mapping
from http import HTTPMethod, HTTPStatus
from itertools import count

import aiohttp

from demo.observe import World
from demo.tenants import Tenant
from lab.http_client import HttpClient

TENANT_ID = "umbrella"
MCP = "/mcp"
TOOLS = ("search_orders", "read_contract", "write_summary")
CALLS_PER_SESSION = (20, 60)
PAUSE_S = (0.5, 2.0)


async def work(world: World, tenant: Tenant) -> None:
    """Open a session, call some tools, close it, and so on until cancelled."""
    chance = random.Random(tenant.tenant_id)  # noqa: S311 - traffic, not secrets
    numbers = count(1)
    async with HttpClient(world.url, api_key=tenant.key) as client:
        while True:
            try:
                await _session(client, chance, numbers)
            except (OSError, TimeoutError, aiohttp.ClientError):
                await asyncio.sleep(PAUSE_S[1])


async def _session(client: HttpClient, chance: random.Random, numbers: "count[int]") -> None:
    wanted = {"x-lab-session": f"agent-{secrets.token_hex(4)}"}
    opened = await client.post(MCP, _request(next(numbers), "initialize"), headers=wanted)
    session_id = opened.header("mcp-session-id")
    if session_id is None:  # Blocked, or nobody decides.
        await asyncio.sleep(PAUSE_S[1])
        return
    in_session = {"mcp-session-id": session_id}
    for _ in range(chance.randint(*CALLS_PER_SESSION)):
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        tool = {"name": chance.choice(TOOLS), "_meta": {"agent_id": "order-desk"}}
        asked = _request(next(numbers), "tools/call", tool)
        answer = await client.post(MCP, asked, headers=in_session)
        if answer.status != HTTPStatus.OK:
            break
    await client.send(HTTPMethod.DELETE, MCP, headers=in_session)


def _request(
    number: int, method: str, params: Mapping[str, object] | None = None
) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}
