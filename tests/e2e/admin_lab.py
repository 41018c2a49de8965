"""A whole installation with its admin, and people who click and type in it."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from playwright.sync_api import Page

from demo.tenants import catalog
from lab.browser import Browser
from lab.ports import free_port
from lab.servers import ROOT, ask_tcp, python_module, scratch_dir
from lab.stack import Options, Stack, run_aforo

T = TypeVar("T")
PASSWORD: Final = "only-for-tests-0123"
ROLES: Final = ("viewer", "product", "developer", "finance")
PATIENCE_MS: Final = 60_000
LOGIN: Final = b"GET /admin/login/ HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Everything that runs, and where people reach the admin."""

    stack: Stack
    admin_url: str
    browser: Browser

    def as_role(self, role: str, play: Callable[["Person"], T]) -> T:
        """Let somebody of a role sign in and do something; their name is their role."""

        def played(page: Page) -> T:
            page.set_default_timeout(PATIENCE_MS)
            person = Person(page, self.admin_url)
            person.sign_in(role)
            return play(person)

        return self.browser.look(played, cookies=[])


class Person:
    """Somebody at the admin: they see labels, links and buttons, and know no addresses."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url

    def sign_in(self, name: str) -> None:
        self.page.goto(f"{self._url}/admin/")
        self.type("Username", name)
        self.type("Password", PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url("**/admin/overview/")

    def open(self, title: str) -> None:
        """Choose a line of the sidebar."""
        self.page.locator("#nav-sidebar").get_by_role("link", name=title).last.click()
        self.page.wait_for_load_state()

    def add(self) -> None:
        """Ask for an empty form."""
        self.page.locator("a[href$='/add/']:visible").first.click()
        self.page.wait_for_load_state()

    def add_part(self, what: str) -> None:
        """Ask for one more row of what belongs to the form's."""
        self.page.get_by_text(f"Add another {what}").locator("visible=true").first.click()

    def follow(self, name: str) -> None:
        self.page.locator("#content").get_by_role("link", name=name, exact=True).first.click()
        self.page.wait_for_load_state()

    def type(self, label: str, text: str) -> None:
        self._field(label).fill(text)

    def choose(self, label: str, choice: str) -> None:
        self._field(label).select_option(choice)

    def type_in(self, name: str, text: str) -> None:
        """Type where a table's head says what is meant, or two fields have one label."""
        self.page.locator(f"[name='{name}']").fill(text)

    def choose_in(self, name: str, choice: str) -> None:
        self.page.locator(f"[name='{name}']").select_option(choice)

    def date_in(self, name: str, day: str) -> None:
        self.type_in(f"{name}_0", day)
        self.type_in(f"{name}_1", "00:00:00")

    def value_in(self, name: str) -> str:
        return str(self.page.locator(f"[name='{name}']").input_value())

    def choices(self, label: str) -> list[str]:
        """Return what there is to choose from."""
        return [one.strip() for one in self._field(label).locator("option").all_inner_texts()]

    def fault_at(self, name: str) -> str:
        """Return what is told at a field, with the field's own words."""
        field = self.page.locator(f"[name='{name}'], [name='{name}_0']").first
        marked = "contains(@class, 'errorlist') or contains(@class, 'text-red-6')"
        return str(field.locator(f"xpath=ancestor::*[.//*[{marked}]][1]").inner_text())

    def _field(self, label: str) -> Any:  # noqa: ANN401 - Playwright's.
        named = self.page.get_by_label(re.compile(rf"^\s*{re.escape(label)}\W*$"))
        return named.locator("visible=true").first

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()
        self.page.wait_for_load_state()

    def reads(self, text: str) -> None:
        """Wait until a text can be seen."""
        self.page.get_by_text(text).locator("visible=true").first.wait_for()

    def buttons(self) -> list[str]:
        """Return what can be pressed below a form."""
        found = self.page.locator("#content").get_by_role("button").all_inner_texts()
        return [name.strip() for name in found]


@contextmanager
def installed(browser: Browser) -> Iterator[Installation]:
    """Start every process, with a user for each role, named after it."""
    home = scratch_dir("admin")
    path = home / "catalog.yaml"
    path.write_text(catalog())
    database = {"AFORO_ADMIN_DATABASE_URL": f"sqlite:///{home / 'control.db'}"}
    run_aforo("aforo_admin", "migrate", env=database)
    run_aforo("aforo_admin", "apply", str(path), env=database)
    for role in ROLES:
        _add_user(role, database)
    stack = Stack(Options(catalog=path, home=home, sync_env=database, patient=True))
    port = free_port()
    serve = python_module(
        "serve",
        "aforo_admin",
        "serve",
        env={
            **database,
            "AFORO_ADMIN_SECRET_KEY": secrets.token_hex(32),
            "AFORO_ADMIN_LISTEN": f"127.0.0.1:{port}",
            "AFORO_ADMIN_LEDGER_URL": stack.ledger_url,
            "AFORO_ADMIN_REDIS_URL": stack.redis.url,
            "AFORO_ADMIN_KAFKA_BOOTSTRAP": stack.kafka.bootstrap,
        },
        ready=lambda: b" 200 " in ask_tcp(port, LOGIN, bytes_max=64),
        log_dir=home,
    )
    with stack, serve:
        yield Installation(stack=stack, admin_url=f"http://127.0.0.1:{port}", browser=browser)


def _add_user(role: str, database: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "aforo_admin", "user", "add", role, "--role", role],
        input=f"{PASSWORD}\n",
        env={**os.environ, **database},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
