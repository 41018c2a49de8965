"""The pages as `aforo-admin serve` serves them: who comes in, and what browsers are told."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest
from django.db import connections

from aforo_admin.control import users
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from lab.ports import free_port
from lab.servers import Program, accepts_tcp, python_module
from tests.contract.test_control_process import (  # noqa: F401 - fixtures.
    control,
    filled,
    sqlite_only,
)
from tests.contract.test_sync_process import aforo_admin

pytestmark = [pytest.mark.contract, pytest.mark.slow]

SECRET = "a secret of tests that has more than the fifty characters that it needs"
PASSWORD = "correct horse battery"
Pages = tuple[Program, str]


@pytest.fixture
def settings(filled: Mapping[str, str]) -> dict[str, str]:  # noqa: F811 - the fixture.
    """Settings of a process that serves, with a finance user in its database."""
    users.add("dana", Role.OWNER, PASSWORD, actor="tests", source=Source.SHELL, reason="")
    connections.close_all()
    return {
        "AFORO_ADMIN_DATABASE_URL": filled["AFORO_ADMIN_DATABASE_URL"],
        "AFORO_ADMIN_SECRET_KEY": SECRET,
    }


@contextlib.contextmanager
def serving(settings: Mapping[str, str], tmp_path: Path) -> Iterator[tuple[str, Program]]:
    port = free_port()
    with python_module(
        "serve",
        "aforo_admin",
        "serve",
        env={**settings, "AFORO_ADMIN_LISTEN": f"127.0.0.1:{port}"},
        ready=lambda: accepts_tcp(port),
        log_dir=tmp_path,
    ) as program:
        yield f"http://127.0.0.1:{port}/admin/", program


@pytest.fixture
def address(settings: Mapping[str, str], tmp_path: Path) -> Iterator[str]:
    with serving(settings, tmp_path) as (where, _):
        yield where


def browser(address: str) -> httpx2.Client:
    return httpx2.Client(base_url=address, follow_redirects=True, timeout=60)


def at(address: str, link: str) -> str:
    """Return where a link of a page leads."""
    return str(httpx2.URL(address).join(link))


def log_in(client: httpx2.Client, password: str = PASSWORD) -> httpx2.Response:
    return client.post(
        "login/?next=/admin/",
        data={
            "username": "dana",
            "password": password,
            "csrfmiddlewaretoken": token(client, "login/"),
        },
    )


def token(client: httpx2.Client, path: str) -> str:
    (found,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get(path).text)[:1]
    return str(found)


def form_of(client: httpx2.Client, path: str) -> dict[str, str]:
    """Return what a browser would send if nothing was edited: of a form of texts and numbers."""
    tags = re.findall(r"<input [^>]*>", client.get(path).text)
    inputs = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in tags]
    return {
        each["name"]: each.get("value", "")
        for each in inputs
        if "name" in each and each["type"] not in {"submit", "checkbox"}
    }


@sqlite_only
def test_a_form_s_change_is_recorded_and_somebody_s(
    address: str,
    filled: Mapping[str, str],  # noqa: F811 - the fixture.
) -> None:
    with browser(address) as client:
        assert log_in(client).status_code == 200
        path = "control/feature/chat/change/"
        saved = client.post(
            path, data={**form_of(client, path), "title": "Chatting", "change_reason": "clearer"}
        )

    assert "was changed successfully" in saved.text
    listed = aforo_admin("audit", "list", "--limit", "1", env=filled)
    assert "dana via admin page: changed feature chat (clearer)" in listed.stdout


@sqlite_only
def test_the_second_of_two_browsers_is_told_of_the_first(
    address: str,
    filled: Mapping[str, str],  # noqa: F811 - the fixture.
) -> None:
    path = "control/feature/chat/change/"
    with browser(address) as one, browser(address) as other:
        log_in(one)
        log_in(other)
        of_one, of_other = form_of(one, path), form_of(other, path)
        first = one.post(path, data={**of_one, "title": "First", "change_reason": "mine"})
        second = other.post(path, data={**of_other, "title": "Second", "change_reason": "mine"})

    assert "was changed successfully" in first.text
    assert "dana changed chat on 20" in second.text
    assert 'value="Second"' in second.text
    exported = aforo_admin("export", env=filled).stdout
    assert "First" in exported
    assert "Second" not in exported


@sqlite_only
def test_every_line_of_the_sidebar_leads_to_a_page(address: str) -> None:
    with browser(address) as client:
        log_in(client)
        links = sorted(set(re.findall(r'href="(/admin/\w+/(?:\w+/)?)"', client.get("").text)))
        answers = {link: client.get(at(address, link)) for link in links}

    assert len(links) > 15
    assert {answer.status_code for answer in answers.values()} == {200}


@sqlite_only
def test_pages_load_nothing_from_elsewhere_and_hold_no_script_or_style(address: str) -> None:
    with browser(address) as client:
        pages = [client.get("login/"), log_in(client)]
        pages += [client.get(path) for path in ("control/tenant/", "control/tenant/acme/change/")]
        loaded = {
            link
            for page in pages
            for link in re.findall(r'(?:src|href)="([^"?]+\.\w+)"', page.text)
        }
        static = {link: client.get(at(address, link)) for link in loaded}

    for page in pages:
        policy = page.headers["content-security-policy"]
        assert "script-src 'self' 'unsafe-eval';" in policy
        assert "unsafe-inline" not in policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not re.findall(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=", page.text)
    assert len(loaded) > 10
    assert not [link for link in loaded if not link.startswith("/")]
    assert {answer.status_code for answer in static.values()} == {200}
    assert not [link for link, answer in static.items() if "url(http" in answer.text]


@sqlite_only
def test_a_static_file_is_answered_whole_or_in_part_and_nothing_is_complained_of(
    settings: Mapping[str, str], tmp_path: Path
) -> None:
    link = "/static/control/aforo.css"
    with serving(settings, tmp_path) as (address, program), browser(address) as client:
        whole = client.get(at(address, link))
        part = client.get(at(address, link), headers={"range": "bytes=10-19"})
        known = client.get(at(address, link), headers={"if-none-match": whole.headers["etag"]})
        head = client.head(at(address, link))
        log_in(client)

    assert whole.headers["content-type"].startswith("text/css")
    assert int(whole.headers["content-length"]) == len(whole.content) > 1000
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert (known.status_code, known.content) == (304, b"")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert "Warning" not in program.log_text()


@sqlite_only
def test_who_fails_too_often_is_locked_out_with_that_name(address: str) -> None:
    with browser(address) as client:
        refused = [log_in(client, "wrong").status_code for _ in range(4)]
        locked = log_in(client, "wrong")
        late = log_in(client)

    assert refused == [200] * 4
    assert (locked.status_code, late.status_code) == (429, 429)
    assert "Too many failed sign-ins" in late.text


@sqlite_only
def test_over_tls_cookies_are_secure_and_browsers_remember_it(
    settings: Mapping[str, str], tmp_path: Path
) -> None:
    secure = {**settings, "AFORO_ADMIN_HTTPS": "true"}
    with serving(secure, tmp_path) as (address, _), httpx2.Client(base_url=address) as client:
        plain = client.get("login/")
        forwarded = client.get("login/", headers={"X-Forwarded-Proto": "https"})
    checked = aforo_admin("manage", "check", "--deploy", "--fail-level", "WARNING", env=secure)
    unsafe = aforo_admin("manage", "check", "--deploy", "--fail-level", "WARNING", env=settings)

    assert plain.status_code == 301
    assert plain.headers["location"].startswith("https://")
    assert "max-age=31536000" in forwarded.headers["strict-transport-security"]
    assert "Secure" in forwarded.headers["set-cookie"]
    assert checked.returncode == 0, checked.stderr
    assert unsafe.returncode == 1


CLAIMS = [
    {"sub": "u1", "preferred_username": "erin", "groups": ["aforo-finance", "staff"]},
    {"sub": "u2", "preferred_username": "mallory", "groups": ["visitors"]},
]


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    users = [word for claims in CLAIMS for word in ("--user-claims", json.dumps(claims))]
    with python_module(
        "provider",
        "oidc_provider_mock",
        *("--port", str(port), *users),
        env={},
        ready=lambda: accepts_tcp(port),
        log_dir=tmp_path,
    ):
        yield f"http://localhost:{port}"


def sign_on(client: httpx2.Client, subject: str) -> httpx2.Response:
    """Follow the link of the login page, and choose somebody at the provider."""
    (link,) = re.findall(r'href="(/sso/[^"]+)"', client.get("login/").text)
    asked = client.get(at(str(client.base_url), link))
    assert asked.url.params["redirect_uri"].endswith("/sso/oidc/login/callback/")
    return client.post(str(asked.url), data={"sub": subject})


def by_provider(settings: Mapping[str, str], issuer: str, groups: str) -> dict[str, str]:
    """Return settings with which a provider's groups mean these roles."""
    return {
        **settings,
        "AFORO_ADMIN_OIDC_ISSUER": issuer,
        "AFORO_ADMIN_OIDC_CLIENT_ID": "aforo",
        "AFORO_ADMIN_OIDC_CLIENT_SECRET": "a client's secret",
        "AFORO_ADMIN_OIDC_ROLES": groups,
    }


@sqlite_only
def test_single_sign_on_lets_in_who_has_a_role_there(
    settings: Mapping[str, str],
    issuer: str,
    tmp_path: Path,
    filled: Mapping[str, str],  # noqa: F811 - the fixture.
) -> None:
    signing_on = by_provider(settings, issuer, "staff=viewer,aforo-finance=finance")
    with serving(signing_on, tmp_path) as (address, program):
        with browser(address) as client:
            entered = sign_on(client, "u1")
            may = client.get("control/marginoverride/add/").status_code
            may_not = client.get("control/credential/add/").status_code
        with browser(address) as client:
            refused = sign_on(client, "u2")
            still_out = client.get("overview/")
        log = program.log_text()

    assert entered.url.path == "/admin/overview/"
    assert (may, may_not) == (200, 403)
    assert refused.status_code == 403
    assert "You have no role here" in refused.text
    assert still_out.url.path == "/admin/login/"
    assert "a client's secret" not in log
    listed = aforo_admin("user", "list", env=filled)
    assert "erin: finance" in listed.stdout
    assert "mallory" not in listed.stdout
    recorded = aforo_admin("audit", "list", "--limit", "1", env=filled)
    assert "single sign-on via admin page: added user erin (erin signed on)" in recorded.stdout


@sqlite_only
def test_single_sign_on_leaves_the_last_owner_the_role(
    settings: Mapping[str, str],
    issuer: str,
    tmp_path: Path,
    filled: Mapping[str, str],  # noqa: F811 - the fixture.
) -> None:
    def command(*words: str, stdin: str = "") -> str:
        done = aforo_admin(*words, env=filled, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def signed_on(address: str) -> str:
        with browser(address) as client:
            assert sign_on(client, "u1").url.path == "/admin/overview/"
        return command("user", "list")

    with serving(by_provider(settings, issuer, "aforo-finance=owner"), tmp_path) as (address, _):
        assert "erin: owner" in signed_on(address)
    command("user", "deactivate", "dana")
    renamed = by_provider(settings, issuer, "aforo-finance=finance,owners=owner")
    with serving(renamed, tmp_path) as (address, program):
        alone = signed_on(address)
        recorded = command("audit", "list", "--limit", "1")
        log = program.log_text()
        command("user", "add", "olga", "--role", "owner", stdin=PASSWORD)
        not_alone = signed_on(address)

    assert "erin: owner" in alone
    assert "changed user erin (erin signed on)" in recorded
    assert "role finance, by the provider: –" in recorded
    assert "first give another user the role owner" in recorded
    assert "the last owner keeps the role, against the provider" in log
    assert "give another user the role owner" in log
    assert "erin: finance" in not_alone


@sqlite_only
def test_serve_refuses_settings_that_are_not_whole(
    control: Mapping[str, str],  # noqa: F811 - the fixture.
) -> None:
    env = {"AFORO_ADMIN_DATABASE_URL": control["AFORO_ADMIN_DATABASE_URL"]}
    half = {
        **env,
        "AFORO_ADMIN_SECRET_KEY": SECRET,
        "AFORO_ADMIN_OIDC_ISSUER": "https://id.example.com",
        "AFORO_ADMIN_OIDC_ROLES": "staff=viewer",
    }

    keyless = aforo_admin("serve", env=env)
    done = aforo_admin("serve", env=half)
    role = aforo_admin("serve", env={**half, "AFORO_ADMIN_OIDC_ROLES": "staff=boss"})

    assert (keyless.returncode, done.returncode, role.returncode) == (2, 2, 2)
    assert "AFORO_ADMIN_SECRET_KEY: not set." in keyless.stderr
    assert "AFORO_ADMIN_OIDC_CLIENT_ID, AFORO_ADMIN_OIDC_CLIENT_SECRET" in done.stderr
    assert "'staff=boss': expected GROUP=ROLE, with one of viewer, product" in role.stderr


@sqlite_only
def test_who_is_told_to_end_ends_well_though_a_browser_stays_connected(
    settings: Mapping[str, str], tmp_path: Path
) -> None:
    with serving(settings, tmp_path) as (address, program), browser(address) as client:
        assert client.get("login/").status_code == 200

        assert program.stop() == 0
        assert "Traceback" not in program.log_text()
