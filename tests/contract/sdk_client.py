"""An application that uses one of the published SDKs, as it is: `python -m … SDK URL KEY TENANT N`.

It records N events, ends as applications do, and prints how many its SDK gave up.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

FLUSH_COUNT = 30
INSTALLATION = "inst-1"


@dataclass(frozen=True)
class Application:
    url: str
    key: str
    tenant: str
    count: int

    @property
    def options(self) -> dict[str, Any]:
        return {
            "tenant_id": INSTALLATION,
            "product_id": "prod-1",
            "api_key": self.key,
            "ingestor_url": self.url,
            "flush_count": FLUSH_COUNT,
        }


def base(app: Application) -> int:
    from aforo import AforoClient  # noqa: PLC0415 - one SDK in a process.

    client = AforoClient(app.key, base_url=app.url, flush_count=FLUSH_COUNT)
    client.start_session(f"session-of-{app.tenant}")
    for number in range(app.count):
        client.track(
            app.tenant,
            "api_calls",
            execution_status="SUCCESS",
            extra_fields={"endpointPath": f"/v1/users/{number}", "httpMethod": "GET"},
        )
    client.end_session()
    client.shutdown()
    return int(client.dropped_count)


async def agent(app: Application) -> int:
    from aforo_agent_metering import AforoAgentClient  # noqa: PLC0415

    client = AforoAgentClient(**app.options, default_customer_id=app.tenant)
    await client.start()
    for number in range(app.count):
        if number % 2:
            client.record_step("agent-1", "session-1", "THOUGHT", input_tokens=10, output_tokens=1)
        else:
            client.record_capability("search", "agent-1", session_id="session-1")
    await client.shutdown()
    await others()
    return int(client.dropped_count)


async def mcp(app: Application) -> int:
    from aforo_mcp_metering import AforoMcpBilling  # noqa: PLC0415

    billing = AforoMcpBilling(**app.options)
    await billing.start()
    await billing.start_session("session-1")

    async def search(name: str, arguments: object = None, **_: object) -> str:
        return f"{name} {arguments}"

    tool: Any = billing.wrap_tool_handler(search)
    for number in range(app.count):
        # This SDK knows no customer: who pays is the agent.
        await tool("search", {"n": number}, agent_id=app.tenant, session_id="session-1")
    await billing.end_session()
    await billing.shutdown()
    await others()
    return int(billing.dropped_count)


def grpc(app: Application) -> int:
    from aforo_grpc_metering import AforoGrpcBilling  # noqa: PLC0415

    billing = AforoGrpcBilling(**app.options, service_name="pkg.Service")
    for _ in range(app.count):
        billing.record("Get", "UNARY", app.tenant, "OK", 1, 5, data_bytes=10)
    billing.shutdown()
    return given_up(billing)


def graphql(app: Application) -> int:
    from aforo_graphql_metering import AforoGraphQlBilling  # noqa: PLC0415

    billing = AforoGraphQlBilling(**app.options)
    for _ in range(app.count):
        billing.record(app.tenant, "query Me { me { name } }", "Me", 5, has_errors=False)
    billing.shutdown()
    return given_up(billing)


def ws(app: Application) -> int:
    from aforo_ws_metering import AforoWsBilling  # noqa: PLC0415

    billing = AforoWsBilling(**app.options)
    for _ in range(app.count):
        billing.push({"customerId": app.tenant, "wsConnectionId": "connection-1", "dataBytes": 7})
    billing.shutdown()
    return given_up(billing)


def mqtt(app: Application) -> int:
    from aforo_mqtt_metering import AforoMqttBilling  # noqa: PLC0415

    billing = AforoMqttBilling(**app.options)
    for _ in range(app.count):
        billing.push(
            customer_id=app.tenant,
            topic="sensors/1",
            qos=1,
            retained=False,
            event_type="PUBLISH",
            client_id="device-1",
        )
    billing.shutdown()
    return given_up(billing)


def given_up(billing: Any) -> int:  # noqa: ANN401 - of an SDK without types
    """Wait for the threads that still send, which are daemons, and return what was dropped."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()
    return int(billing.dropped_count)


async def others() -> None:
    """Wait for what an SDK has started and forgotten."""
    while waiting := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.gather(*waiting, return_exceptions=True)


SDKS: dict[str, Callable[[Application], int | Awaitable[int]]] = {
    "base": base,
    "agent": agent,
    "mcp": mcp,
    "grpc": grpc,
    "graphql": graphql,
    "ws": ws,
    "mqtt": mqtt,
}


async def _result(told: Awaitable[int]) -> int:
    return await told


def main() -> None:
    sdk, url, key, tenant, count = sys.argv[1:]
    told = SDKS[sdk](Application(url, key, tenant, int(count)))
    dropped = told if isinstance(told, int) else asyncio.run(_result(told))
    print(json.dumps({"dropped": dropped}))  # noqa: T201 - its answer.


if __name__ == "__main__":
    main()
