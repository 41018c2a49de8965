"""The admin's pages in a real Chromium: what they load, how they renew themselves, by keyboard.

With AFORO_SCREENSHOTS=FOLDER pictures of them are kept there (`make screenshots`): docs/screens.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.test import override_settings
from playwright.sync_api import Page

from aforo_admin.screens.overview import OverviewView
from aforo_admin.screens.sessions import SessionsView
from lab.browser import VIEWPORT, Browser, Scheme, opened
from lab.pictures import keep
from lab.servers import ServerStartError
from tests.contract.screens_lab import World, empty_world, fill
from tests.missing import missing

pytestmark = [
    pytest.mark.contract,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # Two browsers' worth of pages, on cores that others use too.
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

PAGES = {
    "overview": "overview/",
    "margins": "margins/",
    "tenant": "margins/globex/",
    "interventions": "interventions/",
    "prices": "prices/?q=gpt-4o",
    "what-if": "what-if/",
    "what-if-prices": "what-if/prices/",
    "tester": "tester/?tenant=globex",
    "tenants": "control/tenant/",
    "tenant-form": "control/tenant/globex/change/",
    "deal-form": "control/deal/add/?tenant=globex",
    "plans": "control/planversion/",
    "plan-form": "control/planversion/add/",
    "plan-in-force": "control/planversion/2/change/",
    "features": "control/feature/",
    "price-book": "control/costprice/",
    "price-form": "control/costprice/add/",
    "exchange-rates": "control/exchangerate/",
    "overrides": "control/marginoverride/",
    "override-form": "control/marginoverride/add/?tenant=globex",
    "general": "control/general/1/change/",
    "routes": "control/route/",
    "meters": "control/meter/",
    "metering-rules": "control/meteringrule/",
    "credentials": "control/credential/",
    "credential-form": "control/credential/add/?tenant=globex",
    "ingest-keys": "control/ingestkey/",
    "webhooks": "control/webhookendpoint/",
    "webhook-form": "control/webhookendpoint/add/",
    "sessions": "sessions/",
    "alerts": "deliveries/",
    "dead-letters": "letters/",
    "audit": "audit/?tenant=globex",
    "users": "auth/user/",
    "user-form": "auth/user/add/",
}
PATIENCE_MS = 60_000
WRONG_CSV = b"""meter,price,per,from,model
llm.input_tokens,1.25,1M,2027-01-01,own-7b
llm.output_tokens,"2,50",1M,2027-13-01,own-7b
"""


def one_price(page: Page) -> None:
    page.locator("#live th a", has_text="openai gpt-4o").first.click()
    page.wait_for_selector("text=All prices")


def wrong_csv(page: Page) -> None:
    page.set_input_files(
        "[name=file]", {"name": "prices.csv", "mimeType": "text/csv", "buffer": WRONG_CSV}
    )
    page.get_by_role("button", name="Look at it").click()
    page.wait_for_selector("text=What is wrong")


def previewed_deal(page: Page) -> None:
    page.fill("[name=deal_id]", "renewal")
    page.fill("[name=effective_from_0]", "2026-12-01")
    page.fill("[name=effective_from_1]", "00:00:00")
    page.fill("[name=committed_fee_nanos]", "650")
    page.get_by_role("button", name="Preview").click()
    page.wait_for_selector("text=What it would have done")


def played_what_if(page: Page) -> None:
    page.get_by_role("button", name="Add openai=+20% to What providers cost").click()
    page.keyboard.type("+25%")  # The figure is selected, to be typed over.
    assert page.input_value("[name=provider_cost]") == "openai=+25%"
    page.fill("[name=provider_cost]", "openai=+20%")
    page.get_by_role("button", name="Play").click()
    page.wait_for_selector("text=Side by side")


def decided(page: Page) -> None:
    page.select_option("[name=method]", "POST")
    page.fill("[name=path]", "/v1/chat/completions")
    page.get_by_role("button", name="Decide").click()
    page.wait_for_selector("text=Told to the caller")


# Pages that show something once somebody has done something: from where, and what.
DONE: dict[str, tuple[str, Callable[[Page], None]]] = {
    "price": ("prices/?q=gpt-4o&whose=built-in", one_price),
    "price-import": ("prices/import/", wrong_csv),
    "deal-preview": ("control/deal/add/?tenant=globex", previewed_deal),
    "what-if-played": ("what-if/", played_what_if),
    "tester-decided": ("tester/?tenant=globex", decided),
}
# Tables that go on beyond what holds them, by their heads: in a window of 1280 px none does.
CUT_TABLES = """() => [...document.querySelectorAll("table.plain")]
    .filter((table) => table.getBoundingClientRect().right
        > table.parentElement.getBoundingClientRect().right + 1)
    .map((table) => table.tHead.innerText)"""
NARROW = 400
# How far the text of each heading of figures ends from the edge that its figures stand at.
HEADINGS_APART = """() => [...document.querySelectorAll("th.column-figure")].map((head) =>
    head.getBoundingClientRect().right - parseFloat(getComputedStyle(head).paddingRight)
        - head.querySelector("a, span").getBoundingClientRect().right)"""
HEIGHT_MAX = 2400  # Of a picture: lists go on as they began.


class Quiet(WSGIRequestHandler):  # type: ignore[misc] # Django has no types.
    def log_message(self, *_arguments: object) -> None:
        """Say nothing: a line for each request helps nobody here."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The pages at an address, and who looks at them."""

    world: World
    browser: Browser
    url: str

    def cookies(self) -> list[dict[str, str]]:
        value = self.world.client.cookies["sessionid"].value
        return [{"name": "sessionid", "value": value, "url": self.url}]

    def look(self, play: Any, scheme: Scheme = "light") -> Any:  # noqa: ANN401
        return self.browser.look(play, cookies=self.cookies(), scheme=scheme)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with opened() as found:
            yield found
    except (ImportError, ServerStartError) as error:
        missing(error)


@pytest.fixture
def served(
    database: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    redis_url: str,
    browser: Browser,
) -> Iterator[Served]:
    with (
        empty_world(database, request, tmp_path, redis_url) as world,
        override_settings(ALLOWED_HOSTS=["127.0.0.1", "testserver"]),
        _server() as url,
    ):
        fill(world)
        yield Served(world=world, browser=browser, url=url)


@contextmanager
def _server() -> Iterator[str]:
    server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
    server.set_app(get_wsgi_application())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_load_nothing_from_elsewhere_break_no_policy_and_fit(
    served: Served, scheme: Scheme
) -> None:
    kept = os.environ.get("AFORO_SCREENSHOTS")

    def visit(page: Page) -> tuple[list[str], list[str], set[bool], list[str]]:
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(f"{said.text} {said.location['url']}"))
        page.set_default_timeout(PATIENCE_MS)
        dark: set[bool] = set()
        cut: list[str] = []
        pages = {name: (address, nothing) for name, address in PAGES.items()} | DONE
        for name, (address, do) in pages.items():
            page.goto(f"{served.url}/admin/{address}", wait_until="load")
            page.wait_for_selector(
                "#live, #changelist, form", state="attached", timeout=PATIENCE_MS
            )
            do(page)
            page.evaluate("document.fonts.ready")
            cut += [f"{name}: {table}" for table in page.evaluate(CUT_TABLES)]
            dark.add(bool(page.evaluate("document.documentElement.matches('.dark')")))
            if kept:
                keep(whole(page), Path(kept) / f"{name}-{scheme}.png")
        return asked, wrong, dark, cut

    asked, wrong, dark, cut = served.look(visit, scheme)

    assert [url for url in asked if not url.startswith((served.url, "data:"))] == []
    assert [line for line in wrong if not line.endswith("/favicon.ico") and not told(line)] == []
    assert dark == {scheme == "dark"}
    assert cut == []


@pytest.mark.parametrize("name", ["tenant-form", "plans", "alerts", "deal-form"])
def test_a_page_fits_a_narrow_window(served: Served, name: str) -> None:
    def visit(page: Page) -> int:
        page.set_viewport_size({"width": NARROW, "height": 800})
        page.goto(f"{served.url}/admin/{PAGES[name]}", wait_until="load")
        return int(page.evaluate("document.documentElement.scrollWidth"))

    assert served.look(visit) <= NARROW


def test_headings_of_figures_end_where_the_figures_end(served: Served) -> None:
    def visit(page: Page) -> list[float]:
        page.goto(f"{served.url}/admin/{PAGES['plans']}", wait_until="load")
        return list(page.evaluate(HEADINGS_APART))

    apart = served.look(visit)

    assert len(apart) > 0
    assert max(apart) < 2


def nothing(_page: Page) -> None:
    """Do nothing: the page shows what it has."""


def told(line: str) -> bool:
    """Is a line of the console no more than a remark? A key was pressed before the page stood."""
    return line.startswith("Autofocus processing was blocked")


def whole(page: Page) -> bytes:
    """Return a picture of all of a page, in a window of its height: bars stand at its edges."""
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": VIEWPORT["width"], "height": min(height, HEIGHT_MAX)})
    # Colours that are on their way to dark are nobody's: pictures show where they arrive.
    picture: bytes = page.screenshot(animations="disabled")
    page.set_viewport_size(VIEWPORT)
    return picture


def test_figures_renew_themselves_where_the_page_stands(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OverviewView, "refresh_s", 1)

    def watch(page: Page) -> str:
        page.goto(f"{served.url}/admin/overview/")
        page.evaluate("window.mark = 'the same page'")
        served.world.ledger.execute(
            "UPDATE margin_state SET cogs_nanos = cogs_nanos + 1000000000000"
            " WHERE tenant_id = 'acme' AND in_force = 1"
        )
        page.wait_for_selector("text=1,842.40", timeout=PATIENCE_MS)
        return str(page.evaluate("window.mark"))

    assert served.look(watch) == "the same page"


def test_a_session_is_killed_by_keyboard_and_nothing_renews_under_the_hand(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionsView, "refresh_s", 1)

    def kill(page: Page) -> tuple[bool, str]:
        page.goto(f"{served.url}/admin/sessions/")
        page.focus("details.confirm summary")
        page.keyboard.press("Enter")
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(2500)  # Twice as long as a renewal takes.
        is_open = page.is_visible("text=Kill it for good")
        page.focus("details.confirm summary")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Session s-1 of globex is killed", timeout=PATIENCE_MS)
        return is_open, page.url

    is_open, url = served.look(kill)

    assert is_open
    assert url.startswith(f"{served.url}/admin/sessions/")
    assert served.world.ledger.row("session", "session_id = 's-1'")["ended_by"] == "killed"


def test_who_was_signed_out_is_told_that_nothing_is_renewed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OverviewView, "refresh_s", 1)

    def watch(page: Page) -> str:
        page.goto(f"{served.url}/admin/overview/")
        page.context.clear_cookies()
        page.wait_for_selector("text=no longer renewed", timeout=PATIENCE_MS)
        return str(page.get_attribute(".renewing", "aria-live"))

    assert served.look(watch) == "polite"


NO_CLIPBOARD = "Object.defineProperty(Navigator.prototype, 'clipboard', {value: undefined})"


@pytest.mark.parametrize("clipboard", [True, False], ids=["secure", "plain-http"])
def test_a_key_that_is_shown_once_is_copied_by_keyboard(served: Served, *, clipboard: bool) -> None:
    def copy(page: Page) -> tuple[str, str, list[str]]:
        wrong: list[str] = []
        page.on("console", lambda said: wrong.append(said.text))
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        if not clipboard:
            page.add_init_script(NO_CLIPBOARD)
        key = made_key(page, served.url)
        page.get_by_role("button", name="Copy").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=status]:text-is('Copied')")
        page.goto(f"{served.url}/admin/{PAGES['tester']}")
        page.focus("[name=path]")
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.press("ControlOrMeta+V")
        return key, page.input_value("[name=path]"), wrong

    key, pasted, wrong = served.look(copy)

    assert pasted == key
    assert [line for line in wrong if not told(line)] == []


def test_a_key_has_no_button_that_does_nothing(served: Served) -> None:
    """As where its script does not arrive."""

    def make(page: Page) -> tuple[str, bool]:
        page.route("**/copy.js", lambda route: route.abort())
        key = made_key(page, served.url)
        return key, page.get_by_role("button", name="Copy").is_visible()

    key, has_button = served.look(make)

    assert key.startswith("aforo_")
    assert not has_button


def made_key(page: Page, url: str) -> str:
    """Make a credential, and return its key as the page shows it."""
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{url}/admin/{PAGES['credential-form']}")
    page.fill("[name=credential_id]", "copied")
    page.select_option("[name=kind]", "api_key")
    page.locator("[name=_save]").click()
    return str(page.locator("code.secret").inner_text())


def test_the_tester_is_asked_and_answers_without_the_key(served: Served) -> None:
    def decide(page: Page) -> tuple[str, str, str]:
        page.goto(f"{served.url}/admin/tester/")
        page.select_option("[name=by]", "api_key")
        page.fill("[name=proof]", "a-key-that-nobody-knows")
        page.fill("[name=path]", "/v1/chat/completions")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=unknown_credential", timeout=PATIENCE_MS)
        return page.url, page.content(), page.input_value("[name=proof]")

    url, content, typed = served.look(decide)

    assert url == f"{served.url}/admin/tester/"
    assert "a-key-that-nobody-knows" not in content
    assert typed == ""
