"""A headless Chromium that this machine has, driven from a thread of its own.

Playwright runs an event loop in the thread that drives it, in which nobody can wait for a database.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from lab.servers import HANG_S, ServerStartError

if TYPE_CHECKING:
    from playwright.sync_api import ViewportSize

T = TypeVar("T")
Scheme = Literal["light", "dark"]

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
VIEWPORT: "Final[ViewportSize]" = {"width": 1280, "height": 900}
# Root, as which containers run, has no sandbox; pages are our own.
ARGUMENTS: Final = ("--no-sandbox",)


def chromium() -> str:
    """Return the browser's path: AFORO_TEST_CHROMIUM, or the first that is installed.

    Raises:
        ServerStartError: There is none.
    """
    named = os.environ.get("AFORO_TEST_CHROMIUM") or ""
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise ServerStartError("no Chromium: apt-get install chromium, or AFORO_TEST_CHROMIUM")
    return found


class Browser:
    """Who looks at pages. Whatever it does is done in its own thread."""

    def __init__(self, browser: Any, thread: ThreadPoolExecutor) -> None:  # noqa: ANN401
        self._browser = browser
        self._thread = thread

    def look(
        self, play: Callable[[Any], T], *, cookies: list[dict[str, str]], scheme: Scheme = "light"
    ) -> T:
        """Do something with a fresh page, signed in by cookies; return what comes of it."""

        def played() -> T:
            context = self._browser.new_context(viewport=VIEWPORT, color_scheme=scheme)
            try:
                context.add_cookies(cookies)
                return play(context.new_page())
            finally:
                context.close()

        return self._thread.submit(played).result()


@contextmanager
def opened() -> Iterator[Browser]:
    """Start the browser.

    Raises:
        ServerStartError: There is none.
    """
    path = chromium()
    with ThreadPoolExecutor(1, thread_name_prefix="browser") as thread:
        driver = thread.submit(_driver).result()
        launch = driver.chromium.launch
        browser = thread.submit(
            launch, executable_path=path, args=list(ARGUMENTS), timeout=HANG_S * 1000
        ).result()
        try:
            yield Browser(browser, thread)
        finally:
            thread.submit(browser.close).result()
            thread.submit(driver.stop).result()


def _driver() -> Any:  # noqa: ANN401 - Playwright's.
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - for those who look.

    return sync_playwright().start()
