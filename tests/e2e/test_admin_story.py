"""The whole installation, worked by people at the admin: what they click counts at the gateway."""

import asyncio
import sys
import time
from collections.abc import Iterator

import pytest

from aforo_admin.mint import sha256_of_key
from demo.checks import until
from demo.live import ledger_lines
from demo.story import CHAT, completion
from demo.tenants import TENANTS
from lab.browser import Browser, opened
from lab.http_client import Answer, HttpClient
from lab.servers import HANG_S, ROOT, ServerStartError
from tests.e2e.admin_lab import Installation, Person, installed
from tests.missing import missing

# Ten people sign in one after another, on cores that others use too.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

TENANT = "wonka"
DOLLAR_OF_OUTPUT = 100_000  # Tokens of gpt-4o, at $10 a million.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with opened() as found:
            yield found
    except (ImportError, ServerStartError) as error:
        missing(error)


@pytest.fixture(scope="module")
def installation(browser: Browser) -> Iterator[Installation]:
    with installed(browser) as running:
        yield running


async def test_people_sell_price_refuse_let_through_and_revoke(installation: Installation) -> None:
    """A fee of 2.00 and one call of 1.0025: a margin of 49.9 %, below a raised floor of 60 %.

    How soon the gateway decides by a save is printed (`-s`), and held to its bounds by the demo:
    here other tests have the same cores.
    """
    installation.as_role("product", make_plan)
    installation.as_role("product", make_tenant)
    installation.as_role("product", make_deal)
    key = installation.as_role("developer", mint_key)

    async with HttpClient(installation.stack.url, api_key=key) as client:
        await _until(client, 200, "the new key is known")
        assert (await client.post(CHAT, completion(DOLLAR_OF_OUTPUT))).status == 200
        installation.as_role("finance", sees_the_margin)

        installation.as_role("finance", raise_floors)
        refused = await _until(client, 429, "the raised floor blocks")
        assert refused.json()["code"] == "SERVICE_RESTRICTED_MARGIN"

        installation.as_role("finance", grant_override)
        await _until(client, 200, "the override lets through")

        installation.as_role("developer", revoke_key)
        await _until(client, 401, "the revoked key is refused")

    await _an_alert_arrives_again_with_the_same_id(installation)
    installation.as_role("finance", play_what_if)
    installation.as_role("viewer", finds_nothing_to_save)


def make_plan(person: Person) -> None:
    person.open("Plans")
    person.add()
    person.type("Plan", "starter")
    person.type("Title", "Starter")
    person.type("Committed fee", "10.00")
    person.type("Features", "chat, api")
    person.add_part("Plan quota")
    person.type_in("quotas-0-quota_id", "spend")
    person.type_in("quotas-0-meter", "money.cogs")
    person.type_in("quotas-0-limit_units", "50.00")
    person.choose_in("quotas-0-window", "day")
    person.type("Reason for this change", "for small firms")
    person.press("Save")
    person.follow("starter")
    assert person.value_in("quotas-0-limit_units") == "50"
    person.follow("Publish …")
    person.press("Publish")
    person.reads("in force from now on")


def make_tenant(person: Person) -> None:
    person.open("Tenants")
    person.add()
    person.type("Tenant id", TENANT)
    person.type("Name", "Wonka & Daughters")
    person.type_in("subscription-0-subscription_id", "wonka-2026")
    person.choose_in("subscription-0-plan", "starter")
    person.date_in("subscription-0-started_at", "2026-01-01")
    person.press("Save")
    person.reads("was added successfully")


def make_deal(person: Person) -> None:
    person.open("Tenants")
    person.follow(TENANT)
    person.follow("Add a deal")
    person.type("Deal id", "first-year")
    person.date_in("effective_from", "2026-01-01")
    person.type("Committed fee", "2.00")
    person.press("Save")
    person.reads("was added successfully")


def mint_key(person: Person) -> str:
    person.open("Tenants")
    person.follow(TENANT)
    person.follow("Make a key")
    person.type("Credential id", "main")
    person.choose("Kind", "api_key")
    person.press("Save")
    key = str(person.page.locator("code.secret").inner_text())
    person.follow("I have kept it")
    assert key not in person.page.content()
    return key


def sees_the_margin(person: Person) -> None:
    person.open("Margins")
    person.page.wait_for_selector(f"#live a:has-text('{TENANT}')")
    person.follow(TENANT)
    person.reads("1.00")


def raise_floors(person: Person) -> None:
    person.open("Tenants")
    person.follow(TENANT)
    person.type("Warn below", "80%")
    person.type("Throttle below", "70%")
    person.type("Block below", "60%")
    person.press("Save")
    person.reads("floors change for a reason")
    person.type("Reason for this change", "the board wants 60 %")
    person.press("Save")
    person.reads("was changed successfully")


def grant_override(person: Person) -> None:
    person.open("Tenants")
    person.follow(TENANT)
    person.follow("Override the margin")
    person.choose("At worst", "warn")
    person.date_in("until", "2099-01-01")
    person.type("Reason", "they pay on Friday")
    person.press("Save")
    person.reads("was added successfully")


def revoke_key(person: Person) -> None:
    person.open("Credentials")
    person.follow("main")
    person.follow("Revoke …")
    person.press("Revoke")
    person.reads("revoked")


def play_what_if(person: Person) -> None:
    person.open("What if")
    person.type("Tenants", TENANT)
    person.type("What providers cost", "openai=+20%")
    person.press("Play")
    person.reads("something changes for 1")
    person.reads("Side by side")


def finds_nothing_to_save(person: Person) -> None:
    person.open("Tenants")
    person.follow(TENANT)
    assert "Save" not in person.buttons()
    assert person.page.locator("#content input[type=text]:visible").count() == 0
    person.open("Plans")
    assert person.page.locator("#content a[href$='/add/']:visible").count() == 0


async def test_what_the_demo_prints_looks_into_the_ledger(installation: Installation) -> None:
    """As it stands there, in a shell that knows nothing of this environment."""
    lines = ledger_lines(installation.stack).splitlines()
    (command,) = [line.strip() for line in lines if line.startswith("  ")]
    process = await asyncio.create_subprocess_shell(
        command,
        env={"PATH": ""},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()

    assert process.returncode == 0, said
    assert b"acme" in said
    assert any(installation.stack.ledger_url in line for line in lines)


async def _an_alert_arrives_again_with_the_same_id(installation: Installation) -> None:
    url = f"http://127.0.0.1:{installation.stack.ports['webhooks']}"
    async with HttpClient(url) as receiver:

        async def heard() -> list[str]:
            received = (await receiver.get("/lab/messages")).json()
            return [one["headers"]["webhook-id"] for one in received if TENANT in one["body"]]

        ids, _ = await until(heard, bool, f"an alert of {TENANT}")
        installation.as_role("finance", resend_an_alert)
        again, _ = await until(heard, lambda found: len(found) > len(ids), "one more")
    assert set(again) == set(ids)
    assert len(again) == len(ids) + 1


def resend_an_alert(person: Person) -> None:
    person.open("Alerts")
    person.page.locator(f"#live tr:has-text('{TENANT}') th a").first.click()
    person.press("Resend")
    person.reads("It is due for")


async def _until(client: HttpClient, status: int, what: str) -> Answer:
    """Call until the gateway answers with a status, and say how long that took."""
    began_s = time.monotonic()
    while True:
        answer = await client.get("/echo")
        took_s = time.monotonic() - began_s
        if answer.status == status:
            sys.stdout.write(f"{took_s:.2f} s after the save {what}\n")
            return answer
        assert took_s < HANG_S, f"{answer.status} after {took_s:.0f} s: {answer.text}"
        await asyncio.sleep(0.05)


async def test_wrong_input_is_told_at_its_field_and_kept(installation: Installation) -> None:
    installation.as_role("finance", types_a_price_twice)
    installation.as_role("finance", types_a_floor_above_100_percent)
    installation.as_role("product", leaves_out_periods)
    installation.as_role("developer", gives_a_key_again)


def types_a_price_twice(person: Person) -> None:
    person.open("Price book")
    for _ in range(2):
        person.add()
        person.type("Meter", "llm.input_tokens")
        person.type("Model", "own-7b")
        person.type("Price", "1.25")
        person.type("Per units", "1000000")
        person.date_in("effective_from", "2026-01-01")
        person.press("Save")
    assert "overlaps the price of llm.input_tokens" in person.fault_at("effective_from")
    assert person.value_in("price_nanos") == "1.25"


def types_a_floor_above_100_percent(person: Person) -> None:
    person.open("Tenants")
    person.follow("globex")
    person.type("Block below", "101%")
    person.type("Reason for this change", "a slip")
    person.press("Save")
    assert "must be from -10000% to 100%, not 101%" in person.fault_at("block_below_bp")
    assert person.value_in("block_below_bp") == "101%"


def leaves_out_periods(person: Person) -> None:
    """A plan's own period can't be left out: there is nothing empty to choose."""
    person.open("Plans")
    person.add()
    assert person.choices("Cadence") == ["month", "year"]
    person.type("Plan", "hasty")
    person.type("Title", "Hasty")
    person.type("Committed fee", "10")
    person.add_part("Plan quota")
    person.type_in("quotas-0-quota_id", "calls")
    person.type_in("quotas-0-meter", "api.calls")
    person.type_in("quotas-0-limit_units", "5k")
    person.press("Save")
    assert "required" in person.fault_at("quotas-0-window")
    assert person.value_in("quotas-0-limit_units") == "5k"


def gives_a_key_again(person: Person) -> None:
    person.open("Tenants")
    person.follow("globex")
    person.follow("Make a key")
    person.type("Credential id", "copied")
    person.choose("Kind", "api_key")
    person.type("Identity", sha256_of_key(TENANTS["acme"].key))
    person.press("Save")
    assert "is the credential acme/acme-demo already" in person.fault_at("identity")
