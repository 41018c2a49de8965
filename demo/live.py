"""The live demo: traffic for every tenant, and a table that shows what becomes of it."""

import asyncio
import random
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal

import aiohttp
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aforo_admin.control.roles import Role
from aforo_proto import margin_pb2
from demo import agents, history
from demo.observe import World, dollars
from demo.people import WHAT_THEY_DO
from demo.story import CHAT, MESSAGES, completion
from demo.tenants import INGEST_KEY, TENANTS, Tenant
from lab.http_client import HttpClient
from lab.stack import Stack

REFRESH_S = 0.5
LAST_SHOWN = 24
MARKS = {"allow": ("·", "green"), "throttle": ("t", "yellow"), "block": ("x", "red")}
LEVELS = {
    margin_pb2.LEVEL_NONE: ("none", "green"),
    margin_pb2.LEVEL_WARN: ("warn", "yellow"),
    margin_pb2.LEVEL_THROTTLE: ("throttle", "dark_orange"),
    margin_pb2.LEVEL_BLOCK: ("block", "red"),
}


LEGEND = Text(
    "· allowed   t throttled   x blocked   ? no decision\n"
    + "\n".join(f"  {tenant.name}: {tenant.role}" for tenant in TENANTS.values()),
    style="dim",
)


class Seen:
    """What the demo's own clients were answered."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.last: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LAST_SHOWN))

    def note(self, tenant_id: str, decision: str) -> None:
        self.calls[tenant_id] += 1
        self.last[tenant_id].append(decision)


async def show(world: World, console: Console) -> None:
    """Send traffic and redraw the table until cancelled."""
    seen = Seen()
    count = await history.tell(world, now=datetime.now(UTC))
    print(f"the past {history.DAYS} days: {count} reports of usage over HTTP\n", flush=True)
    # Above the table, and whole: to be copied.
    told = (admin_lines(world), curl_lines(world), ledger_lines(world.stack))
    print("\n\n".join([*told, "Ctrl-C ends everything.\n"]), flush=True)
    async with asyncio.TaskGroup() as tasks:
        for tenant in TENANTS.values():
            tasks.create_task(_traffic(world, tenant, seen))
        tasks.create_task(agents.work(world, TENANTS[agents.TENANT_ID]))
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(Group(await _table(world, seen), LEGEND), refresh=True)
                await asyncio.sleep(REFRESH_S)


def admin_lines(world: World) -> str:
    """Return where the admin is, who may sign in, and what to watch and to try there."""
    admin = f"{world.control.url}/admin"
    people = world.control.people
    return "\n".join(
        [
            f"The admin: {admin}/",
            f"  sign in with the password  {people.password}  as",
            *(f"    {role:9}  {what}" for role, what in WHAT_THEY_DO.items()),
            "Watch: these pages renew themselves",
            f"  {admin}/overview/      tenants by level, revenue, COGS, months, movers",
            f"  {admin}/margins/acme/      Acme's margin, as it melts",
            f"  {admin}/sessions/      an agent of Umbrella's at work; developer: end its session",
            "Change: the gateway follows within 2 s",
            f"  {admin}/control/deal/add/?tenant=acme      product: a committed fee of 30 frees it",
            f"  {admin}/control/marginoverride/add/?tenant=acme      finance: let it pass",
            f"  {admin}/control/tenant/umbrella/change/      finance: a floor above its margin",
            f"  {admin}/control/credential/      developer: revoke a key, and see 401",
        ]
    )


def curl_lines(world: World) -> str:
    """Return commands to try by hand."""
    body = '{"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}'
    event = (
        '{"specversion": "1.0", "id": "1", "source": "/by-hand", "type": "api_calls",'
        ' "subject": "umbrella", "data": {"quantity": 100}}'
    )
    usage = (
        f"curl -i {world.stack.ingest_url}/v1/events -H 'x-api-key: {INGEST_KEY}'"
        f" -H 'content-type: application/cloudevents+json' -d '{event}'"
    )
    viewer = world.control.people.tokens[Role.VIEWER]
    acme, globex = TENANTS["acme"].key, TENANTS["globex"].key
    return "\n".join(
        [
            "Try by hand, in another terminal:",
            f"  curl -i {world.url}{CHAT} -H 'x-api-key: {acme}' -d '{body}'",
            f"  curl -i {world.url}/echo -H 'x-api-key: {globex}'      # a hard quota",
            f"  curl -i {world.url}/echo -H 'x-api-key: wrong' -H 'x-tenant-id: acme'",
            f"  {usage}      # usage over HTTP",
            f"  curl {world.control.url}/api/v1/margins -H 'authorization: Bearer {viewer}'",
            f"  export AFORO_ADMIN_DATABASE_URL={world.stack.control_url}",
            "  aforo-admin export my.yaml; $EDITOR my.yaml; aforo-admin apply my.yaml --dry-run",
            f"  logs: {world.stack.home}",
        ]
    )


def ledger_lines(stack: Stack) -> str:
    """Return where the ledger is, and a command that looks into it while it is written."""
    places = f"--ledger-url {stack.ledger_url} --redis-url {stack.redis.url}"
    return "\n".join(
        [
            f"The ledger: {stack.ledger_url}",
            f"  {sys.executable} -m aforo_meter explain acme {places}      # its level, and why",
        ]
    )


async def _traffic(world: World, tenant: Tenant, seen: Seen) -> None:
    chance = random.Random(tenant.tenant_id)  # noqa: S311 - traffic, not secrets
    send = _talker(tenant, chance)
    async with HttpClient(world.url, api_key=tenant.key) as client:
        while True:
            try:
                decision = await send(client)
            except (OSError, TimeoutError, aiohttp.ClientError):
                decision = "error"
            seen.note(tenant.tenant_id, decision)
            await asyncio.sleep(chance.uniform(0.2, 0.8))


def _talker(tenant: Tenant, chance: random.Random) -> Callable[[HttpClient], Awaitable[str]]:
    # acme burns through its contract in about a minute; the others take their time.
    output_max = {"acme": 30_000, "hooli": 20_000, "initech": 1_500}.get(tenant.tenant_id, 2_000)

    async def send(client: HttpClient) -> str:
        if tenant.tenant_id == "globex" or chance.random() < 0.2:
            answer = await client.get("/echo")
        elif chance.random() < 0.3:
            body = completion(chance.randint(10, output_max), model="claude-sonnet-4-5")
            answer = await client.post(MESSAGES, body)
        else:
            streamed = chance.random() < 0.5
            body = completion(chance.randint(10, output_max), stream=streamed)
            answer = await client.post(CHAT, body)
        return answer.header("x-aforo-decision") or str(answer.status)

    return send


async def _table(world: World, seen: Seen) -> Table:
    table = Table(title=f"Aforo at {world.url}", title_justify="left")
    for heading in ("tenant", "plan"):
        table.add_column(heading)
    for heading in ("calls", "tokens", "COGS", "revenue", "margin"):
        table.add_column(heading, justify="right")
    table.add_column("level")
    table.add_column("last decisions", min_width=LAST_SHOWN)
    for tenant in TENANTS.values():
        margin = await world.margin(tenant.tenant_id)
        tokens = await world.ledger_tokens(tenant.tenant_id)
        name, colour = LEVELS[margin.level]
        table.add_row(
            tenant.name,
            tenant.plan,
            f"{seen.calls[tenant.tenant_id]:,}",
            f"{tokens.total():,}",
            dollars(margin.cogs_nanos),
            dollars(margin.revenue_nanos),
            ratio(margin),
            Text(name, style=colour),
            _marks(seen.last[tenant.tenant_id]),
        )
    return table


def ratio(margin: margin_pb2.Margin) -> str:
    """Return the gross margin for people. At zero revenue it is undefined, never 0 %."""
    if margin.state != margin_pb2.MARGIN_STATE_DEFINED:
        return "undefined"
    left = Decimal(margin.revenue_nanos - margin.cogs_nanos)
    return f"{left / margin.revenue_nanos:.1%}"


def _marks(decisions: deque[str]) -> Text:
    text = Text()
    for decision in decisions:
        mark, colour = MARKS.get(decision, ("?", "magenta"))
        text.append(mark, style=colour)
    return text
