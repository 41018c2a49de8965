"""The steps of the story in which people use the admin, and the gateway follows."""

import statistics
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus

from aforo_admin.control.roles import Role
from demo.checks import check, until
from demo.observe import World
from demo.story import CHAT, completion
from lab.http_client import Answer, HttpClient

BIGGER_FEE = Decimal("30.00")
FLOORS = {"warn_below": "95%", "throttle_below": "93%", "block_below": "90%"}
CHANGE_S_MAX = 2.0  # From the answer to a change to the first call that is decided by it.
REVOKED_S_MAX = 1.0
LATE_S_MAX = 10.0  # No kind of change takes so long, though cores may stand still for a second.


async def watched_in_the_admin(world: World) -> str:
    cookies = await world.control.sign_in(Role.VIEWER)

    async def look() -> tuple[str, str]:
        return (
            await world.control.words("/admin/overview/", cookies),
            await world.control.words("/admin/margins/acme/", cookies),
        )

    def shows(pages: tuple[str, str]) -> bool:
        overview, tenant = pages
        return "block L3 1 " in overview and "Level block L3 " in tenant

    _, took_s = await until(look, shows, "one tenant at block in Overview, and Acme's page saying")
    floors = "/tenants/acme/thresholds"
    refused = await world.control.change(
        Role.VIEWER, "PUT", floors, FLOORS, reason="a viewer tries"
    )
    check(refused.status == HTTPStatus.FORBIDDEN, "403 for a viewer's change", refused.status)
    return (
        f"signed in as viewer: Overview counts one tenant at block, Acme's page says block, after"
        f" {took_s:.2f} s; a viewer's change of its floors: {refused.status}"
    )


async def bigger_contract_frees(world: World) -> str:
    deal = {"id": "bigger-contract", "from": "2026-01-01", "committed_fee": str(BIGGER_FEE)}
    await changed(world, Role.PRODUCT, "POST", "/tenants/acme/deals", deal, "they grow")
    took_s = await felt_by_acme(world, is_allowed, "200, allow")
    return f"a deal of {BIGGER_FEE}, made by product; allowed again after {took_s:.2f} s"


async def raised_floor_blocks(world: World) -> str:
    await changed(world, Role.FINANCE, "PUT", "/tenants/acme/thresholds", FLOORS, "new floors")
    took_s = await felt_by_acme(world, is_refused, "429")
    floor = FLOORS["block_below"]
    return f"Acme's floor raised to {floor} by finance; blocked after {took_s:.2f} s"


async def override_lets_pass(world: World) -> str:
    override = {
        "level_max": "none",
        "until": (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds"),
        "reason": "they pay on Friday",
    }
    path = "/tenants/acme/margin_override"
    await changed(world, Role.FINANCE, "PUT", path, override, override["reason"])
    took_s = await felt_by_acme(world, is_allowed, "200, allow")
    middle_s = statistics.median(world.felt_s)
    check(middle_s < CHANGE_S_MAX, f"changes felt within {CHANGE_S_MAX:.0f} s", world.felt_s)
    check(max(world.felt_s) < LATE_S_MAX, f"none after {LATE_S_MAX:.0f} s", world.felt_s)
    return f"an override for an hour by finance, below the same floor; passes after {took_s:.2f} s"


async def revoked_key_is_refused(world: World) -> str:
    path = "/tenants/acme/credentials"
    took_s = []
    for name in ("laptop", "tablet", "telephone"):
        made = await changed(world, Role.DEVELOPER, "POST", path, {"id": name}, f"a new {name}")
        async with HttpClient(world.url, api_key=made.json()["secret"]) as client:
            known_s = await felt(client, is_allowed, "200 with the new key")
            await changed(
                world, Role.DEVELOPER, "POST", f"{path}/{name}/revoke", None, "it is lost"
            )
            gone_s = await felt(client, is_unknown, "401 with the revoked key")
        took_s.append((gone_s, known_s))
    gone_s, known_s = (statistics.median(each) for each in zip(*took_s, strict=True))
    check(known_s < CHANGE_S_MAX, f"200 within {CHANGE_S_MAX:.0f} s, of three the middle", took_s)
    check(gone_s < REVOKED_S_MAX, f"401 within {REVOKED_S_MAX:.0f} s, of three the middle", took_s)
    return (
        f"a key made by developer, thrice: 200 after {known_s:.2f} s; revoked: 401 after"
        f" {gone_s:.2f} s, of three the middle"
    )


async def changed(
    world: World, role: Role, method: str, path: str, value: object, reason: str
) -> Answer:
    answer = await world.control.change(role, method, path, value, reason=reason)
    check(answer.status < HTTPStatus.BAD_REQUEST, f"{method} {path} done", answer.text[:300])
    return answer


async def felt_by_acme(world: World, good: Callable[[Answer], object], expected: str) -> float:
    async with world.client("acme") as client:
        took_s = await felt(client, good, expected)
    world.felt_s.append(took_s)
    return took_s


async def felt(client: HttpClient, good: Callable[[Answer], object], expected: str) -> float:
    """Call until a change is felt; return the seconds that it took.

    How soon is judged by the middle of several: one says more of the machine than of us.
    """
    _, took_s = await until(lambda: client.post(CHAT, completion(10)), good, expected)
    return took_s


def is_unknown(answer: Answer) -> bool:
    return answer.status == HTTPStatus.UNAUTHORIZED


def is_refused(answer: Answer) -> bool:
    return answer.status == HTTPStatus.TOO_MANY_REQUESTS


def is_allowed(answer: Answer) -> bool:
    return (answer.status, answer.header("x-aforo-decision")) == (HTTPStatus.OK, "allow")
