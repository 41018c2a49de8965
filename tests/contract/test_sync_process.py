"""aforo-admin as operators run it: exit codes, messages, readiness, and a clean end."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import redis

from lab.ports import free_port
from lab.servers import ROOT, ask_tcp, eventually, python_module, scratch_dir

pytestmark = pytest.mark.contract

EXAMPLE = ROOT / "catalog.example.yaml"
CLOSED_PORT_URL = "redis://user:s3cr3t@127.0.0.1:1/0"


def aforo_admin(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "AFORO_" not in name}
    return subprocess.run(
        [sys.executable, "-m", "aforo_admin", *arguments],
        env={**clean, **(env or {})},
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.yaml"
    path.write_text(EXAMPLE.read_text().replace("plan: pro,", "plan: pr0,"))
    return path


def get(port: int, path: str) -> bytes:
    request = f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode()
    return ask_tcp(port, request, bytes_max=100_000)


def test_check_prints_a_summary_of_a_good_catalog() -> None:
    done = aforo_admin("check", str(EXAMPLE))

    assert (done.returncode, done.stderr) == (0, "")
    assert "enterprise      24,000 USD a year" in done.stdout
    assert "acme      enterprise  active    2026-01-15  production, ci, mesh" in done.stdout
    assert "3 features, 6 routes, 5 plans, 4 tenants, 6 credentials" in done.stdout


def test_check_fails_with_every_fault_of_a_wrong_catalog(wrong: Path) -> None:
    done = aforo_admin("check", str(wrong))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{wrong}:")
    assert 'tenants.globex.subscription.plan: no plan "pr0"; did you mean "pro"?' in done.stderr
    assert done.stderr.endswith("aforo-admin: 1 fault\n")


def test_diff_sync_diff_is_all_then_nothing(redis_url: str) -> None:
    env = {"AFORO_ADMIN_REDIS_URL": redis_url, "AFORO_ADMIN_CATALOG": str(EXAMPLE)}

    before = aforo_admin("diff", "--exit-code", env=env)
    synced = aforo_admin("sync", "--once", env=env)
    after = aforo_admin("diff", str(EXAMPLE), "--exit-code", env=env)
    shown = aforo_admin("show", "acme", env=env)

    assert before.returncode == 1
    assert "+ tenant acme: plan enterprise, 36,000 USD a year" in before.stdout
    assert synced.returncode == 0
    (line,) = synced.stderr.splitlines()
    assert json.loads(line)["event"] == "synced"
    assert json.loads(line)["written"] == 18
    assert after.returncode == 0
    assert after.stdout.startswith("nothing to do")
    assert shown.returncode == 0
    assert "enterprise" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["sync", "--once"], 1), (["diff"], 2), (["show", "acme"], 1)],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_redis_that_is_not_there_is_one_line_without_its_password(
    arguments: list[str], code: int
) -> None:
    env = {"AFORO_ADMIN_REDIS_URL": CLOSED_PORT_URL, "AFORO_ADMIN_CATALOG": str(EXAMPLE)}

    done = aforo_admin(*arguments, env=env)

    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "aforo-admin: Redis at redis://(masked)@127.0.0.1:1/0 (AFORO_ADMIN_REDIS_URL) can't be used"
    )


@pytest.mark.parametrize("arguments", [["sync"], ["sync", "--once"], ["diff"]])
def test_a_start_with_a_wrong_catalog_ends_with_its_faults(
    arguments: list[str], wrong: Path, redis_url: str
) -> None:
    env = {"AFORO_ADMIN_REDIS_URL": redis_url, "AFORO_ADMIN_CATALOG": str(wrong)}

    done = aforo_admin(*arguments, env=env)

    assert done.returncode == 2
    assert 'no plan "pr0"' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_setting_stops_the_start() -> None:
    done = aforo_admin("check-config", env={"AFORO_ADMIN_CATALOGUE": "x"})

    assert done.returncode == 2
    assert (
        "AFORO_ADMIN_CATALOGUE: no such setting; did you mean AFORO_ADMIN_CATALOG?" in done.stderr
    )


def test_missing_and_wrong_settings_are_told_together() -> None:
    done = aforo_admin(
        "sync",
        env={
            "AFORO_ADMIN_REDIS_URL": "localhost:6379",
            "AFORO_ADMIN_SYNC_INTERVAL_S": "0",
            "AFORO_ADMIN_METRICS_LISTEN": "9100",
        },
    )

    assert done.returncode == 2
    assert "AFORO_ADMIN_REDIS_URL: expected redis://host:port/db" in done.stderr
    assert "AFORO_ADMIN_CATALOG: not set." in done.stderr
    assert "AFORO_ADMIN_SYNC_INTERVAL_S: '0': expected more than 0" in done.stderr
    assert "AFORO_ADMIN_METRICS_LISTEN: '9100': expected host:port" in done.stderr


def test_check_config_prints_what_is_in_force_without_the_password() -> None:
    env = {"AFORO_ADMIN_REDIS_URL": CLOSED_PORT_URL, "AFORO_ADMIN_CATALOG": "c.yaml"}

    done = aforo_admin("check-config", env=env)

    assert done.returncode == 0
    assert "AFORO_ADMIN_REDIS_URL=redis://(masked)@127.0.0.1:1/0  #" in done.stdout
    assert "AFORO_ADMIN_SYNC_INTERVAL_S=30.0  #" in done.stdout
    assert "s3cr3t" not in done.stdout


def test_a_port_in_use_is_one_line_that_names_the_setting(redis_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = aforo_admin(
            "sync",
            env={
                "AFORO_ADMIN_REDIS_URL": redis_url,
                "AFORO_ADMIN_CATALOG": str(EXAMPLE),
                "AFORO_ADMIN_METRICS_LISTEN": f"127.0.0.1:{port}",
            },
        )

    assert done.returncode == 2
    assert done.stderr == (
        f"aforo-admin: 127.0.0.1:{port} is already in use: stop what listens there, or change "
        "AFORO_ADMIN_METRICS_LISTEN\n"
    )


async def test_a_running_sync_is_ready_measured_and_ends_on_sigterm(
    redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(EXAMPLE.read_text())
    port = free_port()
    program = python_module(
        "sync",
        "aforo_admin",
        "sync",
        env={
            "AFORO_ADMIN_REDIS_URL": redis_url,
            "AFORO_ADMIN_CATALOG": str(path),
            "AFORO_ADMIN_METRICS_LISTEN": f"127.0.0.1:{port}",
        },
        ready=lambda: b" 200 OK" in get(port, "/readyz"),
        log_dir=scratch_dir("test-sync"),
    )
    with program, redis.Redis.from_url(redis_url) as client:
        assert b" 200 OK" in get(port, "/livez")
        assert b" 404 " in get(port, "/nothing")
        metrics = get(port, "/metrics").decode()
        assert 'aforo_sync_passes_total{result="ok"} 1.0' in metrics
        assert 'aforo_sync_values_total{action="written"} 18.0' in metrics
        assert "aforo_sync_last_success_timestamp_seconds 1." in metrics
        assert client.exists("aforo:v1:sync")

        path.write_text("version: 1\n\tcurrency: USD\n")
        answer = (await eventually(lambda: unready(port))).decode()
        assert "the catalog's file has 1 fault, see the log" in answer
        assert "aforo_sync_catalog_faults 1.0" in get(port, "/metrics").decode()
        assert client.exists("aforo:v1:{acme}:policy")

        assert program.stop() == 0
    events = [json.loads(line)["event"] for line in program.log_lines()]
    assert events == [
        "following",
        "synced",
        "catalog fault",
        "the catalog's file is wrong: the last good catalog stays in force",
        "stopped",
    ]


def unready(port: int) -> bytes:
    answer = get(port, "/readyz")
    return answer if b" 503 " in answer else b""
