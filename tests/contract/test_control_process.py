"""The catalog's database as operators meet it: commands, sync from it, its pages."""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest
import redis

from aforo_admin.catalog_yaml import read_file
from aforo_proto.policy_pb2 import SUBSCRIPTION_STATE_PAUSED, Policy
from lab.ports import free_port
from lab.postgres import PostgresServer
from lab.servers import Program, accepts_tcp, eventually, python_module
from tests.contract.test_sync_process import EXAMPLE, aforo_admin, get

pytestmark = [pytest.mark.contract, pytest.mark.slow]

# What both databases do alike is tested on one: processes take long to start.
sqlite_only = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

ACME_KEY = "aforo:v1:{acme}:policy"
GLOBEX_KEY = "aforo:v1:{globex}:policy"
MAIN = "aforo:v1:cred:77de38e4b50e618a0ebb95db61e2f42697391659d82c064a5f81b9f48d85ccd5"

INITECH = """\
    subscription: {id: initech-trial, plan: free, state: trialing, started_at: 2026-11-02}
    credentials:
      - id: main
        sha256: 77de38e4b50e618a0ebb95db61e2f42697391659d82c064a5f81b9f48d85ccd5
"""
INITECH_PAUSED = """\
    subscription: {id: initech-trial, plan: free, state: paused, started_at: 2026-11-02}
"""


@pytest.fixture
def control(database: str, redis_url: str) -> Mapping[str, str]:
    """Settings of a database and a Redis, both empty."""
    return {"AFORO_ADMIN_DATABASE_URL": database, "AFORO_ADMIN_REDIS_URL": redis_url}


@pytest.fixture
def filled(control: Mapping[str, str]) -> Mapping[str, str]:
    """The same, with the example applied."""
    done = aforo_admin("apply", str(EXAMPLE), env=control)
    assert done.returncode == 0, done.stderr
    return control


def edited(tmp_path: Path, old: str, new: str) -> str:
    """Return the path of the example's copy with a change."""
    text = EXAMPLE.read_text()
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


def test_migrate_apply_export_is_the_same_catalog(tmp_path: Path) -> None:
    env = {"AFORO_ADMIN_DATABASE_URL": f"sqlite:///{tmp_path / 'new.db'}"}

    before = aforo_admin("export", env=env)
    migrated = aforo_admin("migrate", env=env)
    empty = aforo_admin("export", env=env)
    applied = aforo_admin("apply", str(EXAMPLE), "--reason", "first", env=env)
    exported = aforo_admin("export", str(tmp_path / "out.yaml"), env=env)

    assert (before.returncode, before.stdout) == (1, "")
    assert before.stderr.rstrip().endswith("aforo-admin migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert empty.returncode == 1
    assert "holds no catalog yet" in empty.stderr
    assert applied.returncode == 0, applied.stderr
    assert "+ tenants.acme.subscription.plan: enterprise" in applied.stdout
    assert exported.returncode == 0
    assert read_file(tmp_path / "out.yaml") == read_file(EXAMPLE)


@sqlite_only
def test_a_dry_run_says_what_apply_then_does_and_nothing_else(
    filled: Mapping[str, str], tmp_path: Path
) -> None:
    path = edited(tmp_path, "committed_fee: 500 USD", "committed_fee: 501 USD")

    dry = aforo_admin("apply", path, "--dry-run", env=filled)
    compared = aforo_admin("diff", path, "--exit-code", env=filled)
    done = aforo_admin(*dry.stdout.rpartition("aforo-admin ")[2].split(), env=filled)
    again = aforo_admin("apply", path, env=filled)
    late = aforo_admin(*dry.stdout.rpartition("aforo-admin ")[2].split(), env=filled)

    assert dry.stdout.startswith("~ plans.pro.committed_fee: 500 → 501\n1 difference; ")
    assert (compared.returncode, compared.stdout) == (
        1,
        "~ plans.pro.committed_fee: 500 → 501\n",
    )
    assert done.returncode == 0
    assert done.stdout.startswith("~ plans.pro.committed_fee: 500 → 501\n1 difference, ")
    assert (again.returncode, again.stdout) == (0, "nothing to do\n")
    assert late.returncode == 1
    assert "look at the differences again" in late.stderr


@sqlite_only
def test_apply_refuses_a_wrong_file_with_its_faults(
    filled: Mapping[str, str], tmp_path: Path
) -> None:
    path = edited(tmp_path, "plan: pro,", "plan: pr0,")

    done = aforo_admin("apply", path, env=filled)

    assert (done.returncode, done.stdout) == (2, "")
    assert 'tenants.globex.subscription.plan: no plan "pr0"; did you mean "pro"?' in done.stderr


@sqlite_only
def test_the_record_is_listed_and_verified(filled: Mapping[str, str], tmp_path: Path) -> None:
    path = edited(tmp_path, "name: Acme GmbH", "name: Acme Inc.")
    aforo_admin("apply", path, "--reason", "renamed", env=filled)

    listed = aforo_admin("audit", "list", "--tenant", "acme", "--limit", "1", env=filled)
    verified = aforo_admin("audit", "verify", env=filled)

    assert re.search(r"by yaml: changed tenant acme \(renamed\)", listed.stdout)
    assert '    name: "Acme GmbH" → "Acme Inc."' in listed.stdout
    assert verified.returncode == 0
    assert "each follows from the one before" in verified.stdout


def test_a_database_that_is_not_there_is_one_line_without_its_password() -> None:
    url = "postgresql://aforo:s3cr3t@127.0.0.1:1/control"
    env = {"AFORO_ADMIN_DATABASE_URL": url, "AFORO_ADMIN_REDIS_URL": "redis://127.0.0.1:1/0"}

    for arguments in (["export"], ["migrate"], ["sync", "--once"], ["audit", "verify"]):
        done = aforo_admin(*arguments, env=env)

        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "postgresql://(masked)@127.0.0.1:1/control (AFORO_ADMIN_DATABASE_URL)" in line
        assert "s3cr3t" not in done.stderr


@sqlite_only
def test_sync_check_tells_how_redis_differs(filled: Mapping[str, str], redis_url: str) -> None:
    before = aforo_admin("sync", "--check", env=filled)
    aforo_admin("sync", "--once", env=filled)
    equal = aforo_admin("sync", "--check", env=filled)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(ACME_KEY)
    drifted = aforo_admin("sync", "--check", env=filled)

    assert before.returncode == 1
    assert "+ tenant acme: plan enterprise" in before.stdout
    assert (equal.returncode, equal.stderr) == (0, "")
    assert drifted.returncode == 1
    assert "~ tenant acme" in drifted.stdout


def syncing(env: Mapping[str, str], log_dir: Path, name: str = "sync") -> tuple[Program, int]:
    port = free_port()
    program = python_module(
        name,
        "aforo_admin",
        "sync",
        # The full pass is far away: what is published meanwhile was published for its own sake.
        env={
            "AFORO_ADMIN_SYNC_INTERVAL_S": "3600",
            **env,
            "AFORO_ADMIN_METRICS_LISTEN": f"127.0.0.1:{port}",
        },
        ready=lambda: b" 200 OK" in get(port, "/readyz"),
        log_dir=log_dir,
    )
    return program, port


def events(program: Program) -> list[str]:
    return [json.loads(line)["event"] for line in program.log_text().splitlines()]


async def test_a_change_of_a_tenant_is_published_alone_and_at_once(
    filled: Mapping[str, str], redis_url: str, tmp_path: Path
) -> None:
    program, _ = syncing(filled, tmp_path)
    with program, redis.Redis.from_url(redis_url) as client:
        await eventually(lambda: client.exists(ACME_KEY))
        globex = client.get(GLOBEX_KEY)
        assert client.exists(MAIN)
        path = edited(tmp_path, INITECH, INITECH_PAUSED)

        aforo_admin("apply", path, env=filled)
        await eventually(lambda: not client.exists(MAIN))
        policy = Policy.FromString(client.get("aforo:v1:{initech}:policy"))

        assert client.get(GLOBEX_KEY) == globex
        assert policy.state == SUBSCRIPTION_STATE_PAUSED
        assert program.stop() == 0
    assert events(program) == [
        "following",
        "leading",
        "synced",
        "the catalog has changed",
        "published",
        "stopped",
    ]


async def test_a_change_that_concerns_all_reaches_all(
    filled: Mapping[str, str], redis_url: str, tmp_path: Path
) -> None:
    program, _ = syncing(filled, tmp_path)
    with program, redis.Redis.from_url(redis_url) as client:
        await eventually(lambda: client.exists(ACME_KEY))
        globex = client.get(GLOBEX_KEY)

        aforo_admin("apply", edited(tmp_path, "limit: 600,", "limit: 601,"), env=filled)

        await eventually(lambda: client.get(GLOBEX_KEY) != globex)


async def test_another_process_takes_over_when_the_leader_is_killed(
    filled: Mapping[str, str], redis_url: str, tmp_path: Path
) -> None:
    first, _ = syncing(filled, tmp_path, "first")
    second, _ = syncing(filled, tmp_path, "second")
    with first, redis.Redis.from_url(redis_url) as client:
        await eventually(lambda: client.exists(ACME_KEY))
        with second:
            await asyncio.sleep(1.5)  # The second has looked, and the first has renewed.
            assert "synced" not in events(second)
            first.kill()
            client.delete(ACME_KEY)

            await eventually(lambda: client.exists(ACME_KEY))
            assert "leading" in events(second)


async def test_a_leader_that_stops_makes_way_at_once(
    filled: Mapping[str, str], redis_url: str, tmp_path: Path
) -> None:
    first, _ = syncing(filled, tmp_path, "first")
    second, _ = syncing(filled, tmp_path, "second")
    with first, second, redis.Redis.from_url(redis_url) as client:
        await eventually(lambda: "leading" in [*events(first), *events(second)])
        leader = first if "leading" in events(first) else second
        other = second if leader is first else first
        assert leader.stop() == 0
        client.delete(ACME_KEY)

        await eventually(lambda: client.exists(ACME_KEY))
        assert "leading" in events(other)


async def test_sync_outlives_its_database(redis_url: str, tmp_path: Path) -> None:
    with PostgresServer(log_dir=tmp_path) as server, redis.Redis.from_url(redis_url) as client:
        env = {"AFORO_ADMIN_DATABASE_URL": server.url(), "AFORO_ADMIN_REDIS_URL": redis_url}
        for arguments in (["migrate"], ["apply", str(EXAMPLE)]):
            assert aforo_admin(*arguments, env=env).returncode == 0
        program, _ = syncing(env, tmp_path)
        with program:
            await eventually(lambda: client.exists(ACME_KEY))

            server.kill()
            await eventually(
                lambda: any("the catalog's database can't be read" in e for e in events(program))
            )
            assert client.exists(ACME_KEY)
            server.start()
            aforo_admin("apply", edited(tmp_path, INITECH, INITECH_PAUSED), env=env)

            await eventually(lambda: not client.exists(MAIN))
            assert program.stop() == 0


SECRET = "a secret of tests, of more than 32 characters"


@pytest.fixture
def pages(filled: Mapping[str, str], tmp_path: Path) -> tuple[Program, str]:
    port = free_port()
    made = aforo_admin(
        *("manage", "createsuperuser", "--noinput", "--username", "dana"),
        *("--email", "dana@example.com"),
        env={**filled, "DJANGO_SUPERUSER_PASSWORD": SECRET},
    )
    assert made.returncode == 0, made.stderr
    env = {
        "AFORO_ADMIN_DATABASE_URL": filled["AFORO_ADMIN_DATABASE_URL"],
        "AFORO_ADMIN_SECRET_KEY": SECRET,
        "AFORO_ADMIN_LISTEN": f"127.0.0.1:{port}",
    }
    program = python_module(
        "serve",
        "aforo_admin",
        "serve",
        env=env,
        ready=lambda: accepts_tcp(port),
        log_dir=tmp_path,
    )
    return program, f"http://127.0.0.1:{port}/admin/"


@contextlib.contextmanager
def logged_in(address: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=address, follow_redirects=True, timeout=60) as client:
        log_in(client)
        yield client


def log_in(client: httpx2.Client) -> None:
    form = {"username": "dana", "password": SECRET, "csrfmiddlewaretoken": token(client, "login/")}
    assert client.post("login/", data=form).status_code == 200


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
        if "name" in each and each["type"] != "submit"
    }


def draft_of(client: httpx2.Client) -> dict[str, str]:
    """Return a form of a draft of the plan "pro", at another fee."""
    form = {
        **form_of(client, "control/planversion/add/"),
        "plan": "pro",
        "number": "2",
        "title": "Pro",
        "committed_fee_nanos": "750.50",
        "cadence": "month",
        "billing": "anniversary",
        "basis": "period",
        "features": "chat, embeddings",
    }
    # A browser sends no box that is not ticked.
    return {name: form[name] for name in form.keys() - {"shadow", "stale_margin_blocks"}}


@sqlite_only
def test_a_form_s_change_is_checked_recorded_and_somebody_s(
    pages: tuple[Program, str], filled: Mapping[str, str]
) -> None:
    program, address = pages
    with program, logged_in(address) as client:
        path = "control/feature/chat/change/"
        saved = client.post(path, data={**form_of(client, path), "title": "Chatting"})
        refused = client.post(path, data={**form_of(client, path), "title": "x" * 200 + " "})
        deleted = client.post(
            "control/feature/chat/delete/",
            data={"post": "yes", "csrfmiddlewaretoken": token(client, path)},
        )
        client.post("control/planversion/add/", data=draft_of(client))
        action = {"action": "publish", "_selected_action": "6"}
        listing = "control/planversion/"
        action["csrfmiddlewaretoken"] = token(client, listing)
        client.post(listing, data=action)
        anonymous = httpx2.get(address + path)
        static = httpx2.get(address.replace("/admin/", "/static/admin/css/base.css"))

    assert "was changed successfully" in saved.text
    assert refused.status_code == 200
    assert "Nothing was saved: catalog: routes[0].features[0]: no feature" in deleted.text
    assert anonymous.status_code == 302
    assert static.status_code == 200
    listed = aforo_admin("audit", "list", "--limit", "5", env=filled)
    assert "dana by ui: changed feature chat" in listed.stdout
    assert "dana by ui: changed plan version pro/2" in listed.stdout
    exported = aforo_admin("export", env=filled)
    assert "committed_fee: 750.5\n" in exported.stdout


@sqlite_only
def test_every_table_has_a_list_and_a_form(pages: tuple[Program, str]) -> None:
    program, address = pages
    with program, logged_in(address) as client:
        index = client.get("").text
        tables = sorted(set(re.findall(r'href="/admin/control/(\w+)/"', index)))
        answers = {name: client.get(f"control/{name}/").status_code for name in tables}
        forms = {name: client.get(f"control/{name}/add/").status_code for name in tables}
        tenant = client.get("control/tenant/acme/change/").text

    assert len(tables) > 20
    assert set(answers.values()) == {200}
    assert {name for name, status in forms.items() if status != 200} == {"auditentry"}  # Read only.
    assert "acme-renewal" in tenant


@sqlite_only
def test_serve_refuses_to_start_without_a_secret_key(control: Mapping[str, str]) -> None:
    env = {"AFORO_ADMIN_DATABASE_URL": control["AFORO_ADMIN_DATABASE_URL"]}

    done = aforo_admin("serve", env=env)

    assert done.returncode == 2
    assert "AFORO_ADMIN_SECRET_KEY: not set." in done.stderr
