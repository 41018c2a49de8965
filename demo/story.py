"""The story at the gateway, step by step: each is checked and says what was seen."""

import asyncio
import time

from demo.checks import check, until
from demo.observe import World, dollars
from demo.tenants import HARD_QUOTA_CALLS, INGEST_KEY, TENANTS
from lab.http_client import Answer, HttpClient

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


def completion(output: int, *, model: str = "gpt-4o", **more: object) -> dict[str, object]:
    """Return a chat request whose answer uses 1,000 input and `output` output tokens."""
    usage = {"input": 1000, "output": output}
    messages = [{"role": "user", "content": "What is left when the work is paid?"}]
    return {"model": model, "messages": messages, "x_lab_usage": usage, **more}


async def spend(client: HttpClient, output: int) -> Answer:
    answer = await client.post(CHAT, completion(output))
    check(answer.status == 200, "200", f"{answer.status} {answer.text[:200]}")
    return answer


async def allowed_at_first(world: World) -> str:
    async with world.client("acme") as client:
        answer = await client.post(CHAT, completion(10))
    decision = answer.header("x-aforo-decision")
    check((answer.status, decision) == (200, "allow"), "200, allow", (answer.status, decision))
    check("x-aforo-throttle" not in dict(answer.headers), "no throttle", answer.headers)
    return f"200, x-aforo-decision: {decision}, id {answer.header('x-aforo-decision-id')}"


async def usage_arrives_to_the_token(world: World) -> str:
    async with world.client("acme") as client:
        usage = {"input": 700, "cached": 300, "output": 80, "reasoning": 20}
        await client.post(CHAT, completion(0) | {"x_lab_usage": usage})
        creation = {"input": 500, "cached": 50, "cache_creation": 100, "output": 60}
        body = completion(0, model="claude-sonnet-4-5") | {"x_lab_usage": creation}
        await client.post(MESSAGES, body | {"max_tokens": 100})
    served = await world.served("acme")
    ledger, took_s = await until(
        lambda: world.ledger_tokens("acme"), lambda seen: seen == served, f"{served} in the ledger"
    )
    return f"{ledger.total()} tokens of {ledger.models()} after {took_s:.2f} s, each kind apart"


async def cogs_mount(world: World) -> str:
    before = await world.margin("acme")
    async with world.client("acme") as client:
        await spend(client, 700_000)
    expected = await world.reckoned_cogs("acme")
    margin, took_s = await until(
        lambda: world.margin("acme"),
        lambda seen: seen.cogs_nanos == expected,
        f"COGS of {dollars(expected)}",
    )
    check(expected > before.cogs_nanos, "COGS above " + dollars(before.cogs_nanos), expected)
    return (
        f"COGS {dollars(before.cogs_nanos)} → {dollars(margin.cogs_nanos)} of a contract of"
        f" {dollars(margin.revenue_nanos)} after {took_s:.2f} s"
    )


async def below_20_percent_one_webhook(world: World) -> str:
    async with world.client("acme") as client:
        await spend(client, 150_000)
        messages, took_s = await until(
            lambda: world.alerts("acme"), lambda seen: len(seen) > 0, "a webhook"
        )
        answer = await client.post(CHAT, completion(10))
    seen_headers = await world.last_headers(world.upstream)
    (message,) = messages
    check(message["data"]["to"] == "warn", "to: warn", message["data"])
    check(answer.header("x-aforo-decision") == "allow", "allow", answer.headers)
    check("x-aforo-throttle" not in seen_headers, "an untouched request", seen_headers)
    return (
        f"one webhook, signature valid, {message['data']['from']} → {message['data']['to']} at"
        f" a margin of {message['data']['gross_margin_ratio']}, after {took_s:.2f} s;"
        " the next request was untouched"
    )


async def below_10_percent_throttled_and_rerouted(world: World) -> str:
    async with world.client("acme") as client:
        await spend(client, 70_000)
        answer, took_s = await until(
            lambda: client.post(CHAT, completion(10)),
            lambda seen: seen.header("x-aforo-throttle") == "true",
            "X-Aforo-Throttle: true towards the client",
        )
    upstream = await world.last_headers(world.economy)
    check(upstream.get("x-aforo-throttle") == "true", "x-aforo-throttle at the upstream", upstream)
    model = answer.json()["model"]
    check(model.startswith("gpt-4o-mini"), "the cheaper upstream's model", model)
    return f"client and upstream saw X-Aforo-Throttle: true; {model} answered, {took_s:.2f} s later"


async def below_0_percent_blocked(world: World) -> str:
    async with world.client("acme") as client:
        await spend(client, 1_600_000)  # A million output tokens of gpt-4o-mini cost $0.60.
        answer, took_s = await until(
            lambda: client.post(CHAT, completion(10)), lambda seen: seen.status == 429, "429"
        )
        hits = await world.hits()
        refusals = [await client.post(CHAT, completion(10)) for _ in range(5)]
    check(all(r.status == 429 for r in refusals), "429 each", [r.status for r in refusals])
    problem = answer.json()
    check(problem["title"] == "Margin Limit Exceeded", "Margin Limit Exceeded", problem)
    check(problem["code"] == "SERVICE_RESTRICTED_MARGIN", "its stable code", problem)
    check(answer.header("x-margin-guard-level") == "L3", "X-Margin-Guard-Level: L3", answer.headers)
    check(await world.hits() == hits, f"{hits} upstream hits still", await world.hits())
    return f"429 {problem['title']!r} after {took_s:.2f} s; upstream hits stayed at {hits}"


async def hard_quota_is_exact(world: World) -> str:
    before = await world.calls("globex")
    async with world.client("globex") as client:
        asked = HARD_QUOTA_CALLS * 3
        answers = await asyncio.gather(*(client.get("/echo") for _ in range(asked)))
    passed = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    check(len(passed) == HARD_QUOTA_CALLS, f"{HARD_QUOTA_CALLS} allowed", len(passed))
    check(len(passed) + len(refused) == asked, "200 or 429", {a.status for a in answers})
    told = refused[0]
    check(told.json()["code"] == "QUOTA_EXCEEDED", "QUOTA_EXCEEDED", told.text)
    check(int(told.header("retry-after") or 0) > 0, "Retry-After", told.headers)
    # Each is billed, and nothing of them comes into what later steps count.
    billed = before + len(passed)
    await until(lambda: world.calls("globex"), lambda seen: seen == billed, f"{billed} calls")
    return (
        f"{asked} calls at once: {len(passed)} allowed, {len(refused)} refused,"
        f" Retry-After: {told.header('retry-after')}, RateLimit: {told.header('ratelimit')}"
    )


async def streams_are_metered_to_the_token(world: World) -> str:
    async with world.client("umbrella") as client:
        streamed = completion(123, stream=True)
        answer = await client.post(CHAT, streamed)
        check(answer.status == 200, "200", answer.status)
        await client.post(MESSAGES, completion(77, model="claude-sonnet-4-5", stream=True))
    served = await world.served("umbrella")
    check(served.total() == 1000 + 123 + 1000 + 77, "2,200 tokens served", served)
    ledger, took_s = await until(
        lambda: world.ledger_tokens("umbrella"), lambda seen: seen == served, f"{served}"
    )
    return (
        f"two streams, OpenAI's without include_usage: {ledger.total()} tokens served,"
        f" {ledger.total()} in the ledger after {took_s:.2f} s"
    )


async def spoofing_changes_nothing(world: World) -> str:
    # What was served is billed, perhaps not yet all of it.
    before = {tenant: await world.served_calls(tenant) for tenant in TENANTS}
    lies = {
        "x-tenant-id": "umbrella",
        "x-customer-id": "umbrella",
        "x-aforo-tenant": "umbrella",
        "X-Aforo-Decision": "allow",
        "x-aforo-throttle": "true",
        "x-request-id": "00000000-0000-4000-8000-000000000000",
    }
    async with world.client("globex") as client:
        blocked = await client.get("/echo?tenant=umbrella", headers=lies)
    async with world.client("initech") as client:
        passed = [await client.get("/echo?tenant=umbrella", headers=lies) for _ in range(2)]
    async with HttpClient(world.url) as nobody:
        no_key = await nobody.get("/echo", headers=lies)
        wrong_key = await nobody.get("/echo", headers={**lies, "x-api-key": "umbrella-demo"})
    check(blocked.status == 429, "globex still over its quota", blocked.status)
    check((no_key.status, wrong_key.status) == (401, 401), "401 twice", (no_key, wrong_key))
    upstream = dict(passed[0].json()["headers"])
    check(upstream.get("x-aforo-tenant") == "initech", "tenant initech upstream", upstream)
    check("x-aforo-throttle" not in upstream, "no throttle upstream", upstream)
    expected = {**before, "initech": before["initech"] + 2}
    await until(
        lambda: world.calls_of(TENANTS), lambda seen: seen == expected, f"calls of {expected}"
    )
    return "six lies and two bad keys: 429 stayed 429, no key 401, and each call was billed once"


async def usage_over_http_counts_once(world: World) -> str:
    calls, tokens = await world.calls("initech"), await world.ledger_tokens("initech")
    event = {"customerId": "initech", "metricName": "api_calls", "occurredAt": int(time.time())}
    model = {"provider": "openai", "model": "gpt-4o", "inputTokens": 900, "outputTokens": 100}
    batch = {
        "events": [
            {**event, "quantity": 5, "idempotencyKey": "nightly-report"},
            {**event, "quantity": 1, "idempotencyKey": "off-line-chat", "metadata": model},
        ]
    }
    async with HttpClient(world.stack.ingest_url, api_key=INGEST_KEY) as client:
        first, again = [await client.post("/v1/ingest/batch", batch) for _ in range(2)]
    check((first.status, again.status) == (202, 202), "202 twice", (first, again))
    told, repeated = first.json()["data"], again.json()["data"]
    check(told["accepted"] == 2, "2 accepted", told)
    check(repeated["duplicates"] == 2, "2 duplicates", repeated)
    expected = (calls + 6, tokens.total() + 1000)

    async def seen() -> tuple[int, int]:
        return await world.calls("initech"), (await world.ledger_tokens("initech")).total()

    _, took_s = await until(seen, lambda found: found == expected, f"calls, tokens: {expected}")
    return (
        f"a batch sent twice, 202 each: {told['accepted']} accepted, then"
        f" {repeated['duplicates']} duplicates; 6 calls and 1,000 tokens more in the ledger after"
        f" {took_s:.2f} s"
    )


async def redis_stopped_and_back(world: World) -> str:
    async with world.client("umbrella") as client:
        await client.get("/echo")
        world.stack.redis.kill()
        answers = [await client.get("/echo") for _ in range(20)]
        world.stack.redis.start()
        check(all(a.status == 200 for a in answers), "200 each", [a.status for a in answers])
        decided = [a.header("x-aforo-decision") for a in answers]
        check(set(decided) == {"allow"}, "decided each time, by us", decided)
        stale = dict(answers[-1].json()["headers"]).get("x-aforo-stale")
        check(stale == "true", "x-aforo-stale: true", stale)
        _, took_s = await until(
            lambda: client.get("/echo"),
            lambda seen: "x-aforo-stale" not in dict(seen.json()["headers"]),
            "decisions that are not stale",
        )
    async with world.client("globex") as client:
        answer, _ = await until(
            lambda: client.get("/echo"), lambda seen: seen.status == 429, "globex at its quota"
        )
    return (
        f"20 decisions without Redis, marked stale; fresh {took_s:.2f} s after it came back empty;"
        f" globex's quota is still used up ({answer.header('ratelimit')})"
    )


async def consumer_killed_in_mid_batch(world: World) -> str:
    requests, at_once = 300, 10
    calls_before = await world.served_calls("umbrella")
    await until(
        lambda: world.calls("umbrella"), lambda calls: calls == calls_before, "all calls so far"
    )
    async with world.client("umbrella") as client:

        async def send(number: int) -> None:
            path, model = (CHAT, "gpt-4o") if number % 2 else (MESSAGES, "claude-sonnet-4-5")
            body = completion(100 + number, model=model, stream=number % 3 == 0)
            answer = await client.post(path, body)
            check(answer.status == 200, "200", answer.status)

        async def kill_midway() -> int:
            """Kill the consumer once a part of the calls is in the ledger; return how many."""
            await until(
                lambda: world.calls("umbrella"),
                lambda calls: calls >= calls_before + requests // 4,
                f"{requests // 4} of the calls in the ledger",
            )
            world.stack.consume.kill()
            return await world.calls("umbrella") - calls_before

        killing = asyncio.create_task(kill_midway())
        sent, was_killed = 0, False
        while sent < requests or not was_killed:  # One wave at least comes after the kill.
            was_killed = killing.done()
            await asyncio.gather(*(send(sent + offset) for offset in range(at_once)))
            sent += at_once
            await asyncio.sleep(0.05)
        posted = await killing
    check(posted < sent, f"fewer than {sent} calls in the ledger at the kill", posted)
    world.stack.consume.start(wait=False)
    served = await world.served("umbrella")
    ledger, took_s = await until(
        lambda: world.ledger_tokens("umbrella"),
        lambda seen: seen == served,
        f"{served}",
    )
    expected = await world.reckoned_cogs("umbrella")
    margin, _ = await until(
        lambda: world.margin("umbrella"),
        lambda seen: seen.cogs_nanos == expected,
        f"COGS of {dollars(expected)}",
    )
    return (
        f"SIGKILL with {posted} of {sent} calls in the ledger; {took_s:.1f} s after the restart"
        f" {ledger.total():,} tokens served and in the ledger, COGS {dollars(margin.cogs_nanos)}"
        " to the nano"
    )
