"""aforo-admin doctor at a whole installation: well first, then each part broken and mended."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aforo_admin import settings
from aforo_admin.doctor.examine import Places, examine
from aforo_admin.domain.diagnosis import Finding, Severity
from lab.ports import free_port
from lab.servers import ROOT, Program, RedisServer, ask_tcp, eventually
from lab.stack import READY, Options, Stack, run_aforo, stopped
from tests.contract.doctor_lab import doctor, document_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PROCESSES = ("authz", "ship-a", "ship-b", "consume", "ingest", "deliver", "sync")
CATALOG: dict[str, str] = {}  # Where the catalog's database is.


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    server = RedisServer()
    server.command += ["--maxmemory", str(1 << 30)]  # Also after a restart.
    with Stack(Options(catalog=ROOT / "catalog.example.yaml", redis=server)) as started:
        url = f"sqlite:///{tmp_path_factory.mktemp('doctor') / 'control.db'}"
        env = {"AFORO_ADMIN_DATABASE_URL": url}
        run_aforo("aforo_admin", "migrate", env=env)
        run_aforo("aforo_admin", "apply", str(ROOT / "catalog.example.yaml"), env=env)
        CATALOG.update(env)
        yield started


def examined(stack: Stack, **addresses: str) -> dict[str, Finding]:
    """Return what is not well, by its part and words."""
    parts = examine(
        Places(
            chosen=settings.DoctorSettings(
                redis_url=stack.redis.url,
                kafka_bootstrap=stack.kafka.bootstrap,
                ledger_url=stack.ledger_url,
            ),
            envoys=[f"127.0.0.1:{stack.envoy.admin_port}"],
            processes={
                **{name: f"127.0.0.1:{stack.ports[name]}" for name in PROCESSES},
                **addresses,
            },
        )
    )
    bad = [
        finding
        for part in parts
        for finding in part.findings
        if finding.severity in {Severity.WARNING, Severity.FAULT}
    ]
    assert all(finding.means and finding.do for finding in bad)
    return {f"{finding.part}: {finding.what}": finding for finding in bad}


def as_process(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return doctor(
        *("--envoy", f"127.0.0.1:{stack.envoy.admin_port}"),
        *(f"--process={name}=127.0.0.1:{stack.ports[name]}" for name in PROCESSES),
        *arguments,
        env={
            "AFORO_ADMIN_REDIS_URL": stack.redis.url,
            "AFORO_ADMIN_KAFKA_BOOTSTRAP": stack.kafka.bootstrap,
            "AFORO_ADMIN_LEDGER_URL": stack.ledger_url,
            **CATALOG,
        },
    )


async def test_a_well_installation_has_no_fault_and_every_part_tells_its_version(
    stack: Stack,
) -> None:
    # One that has just begun, or whose part a test before took away, is not yet found well.
    await eventually(
        lambda: all("needs no password" in one for one in examined(stack)), every_s=0.5
    )
    done = as_process(stack, "--json", "--timeout-s", "60")
    document = document_of(done)

    assert done.returncode == 0
    bad = [each for each in document["findings"] if each["severity"] in {"warning", "fault"}]
    # The lab's Redis asks for no password. Nothing else is said of it.
    assert [each["part"] for each in bad] == ["redis"]
    assert "needs no password" in bad[0]["what"]
    assert set(document["builds"]) == set(PROCESSES)
    assert set(document["versions"]) == {"redis", "envoy"}
    parts = {each["part"] for each in document["findings"]}
    assert parts == {"redis", "kafka", "ledger", "catalog", "envoy", "together", *PROCESSES}


async def test_an_authz_that_is_away_shows_at_its_address_and_in_envoy(stack: Stack) -> None:
    with stopped([stack.authz]):
        await eventually(lambda: not stack.envoy.sees_healthy("aforo_authz"))
        bad = examined(stack)

    assert any(name.startswith("authz: nobody answers at") for name in bad)
    assert any(name.startswith("envoy: cluster aforo_authz: 1 of 1") for name in bad)


async def test_a_ship_that_is_away_is_a_warning_of_envoys_as_the_other_does_its_work(
    stack: Stack,
) -> None:
    with stopped([stack.ships[0]]):
        await eventually(lambda: not stack.envoy.sees_healthy("aforo_als"))
        bad = examined(stack)

    # Beside it, authz may not be well again yet: the test before stopped it.
    ill = "envoy: cluster aforo_als: 1 of 2 endpoints are ill"
    found = {name: one.severity for name, one in bad.items() if name.startswith("envoy: ")}
    assert Severity.WARNING in [found[name] for name in found if name.startswith(ill)], found


def test_a_process_that_hangs_is_told_of_in_time_and_hides_no_other(stack: Stack) -> None:
    stack.consume.freeze()
    try:
        bad = examined(stack)
    finally:
        stack.consume.thaw()

    assert any(name.startswith("consume: nobody answers") for name in bad)
    assert not any(name.startswith("deliver:") for name in bad)


def test_addresses_that_were_mixed_up_are_noticed(stack: Stack) -> None:
    bad = examined(stack, authz=f"127.0.0.1:{stack.ports['consume']}")

    assert "authz: what answers there is consume, not authz" in bad


def test_a_frozen_broker_costs_no_more_than_its_time_and_the_exit_code_says_it(
    stack: Stack,
) -> None:
    stack.kafka.freeze()
    try:
        done = as_process(stack)
    finally:
        stack.kafka.thaw()

    assert done.returncode == 1
    assert done.stderr == ""
    assert "FAULT   kafka       brokers at" in done.stdout


async def test_without_redis_every_part_says_so_and_none_tells_its_password(stack: Stack) -> None:
    with stopped([stack.redis]):
        bad = examined(stack)

    assert any(name.startswith("redis: Redis at ") for name in bad)
    assert any(name.startswith("authz: aforo_authz_cache_stale is 1") for name in bad)


def test_a_clock_that_is_wrong_is_told_with_both_names(stack: Stack, tmp_path: Path) -> None:
    """A process of ours whose machine's clock is ten minutes ahead."""
    wrong = tmp_path / "wrong_clock.py"
    wrong.write_text(
        "import email.utils, sys, time\n"
        "real = email.utils.formatdate\n"
        "email.utils.formatdate = lambda **more: real(time.time() + 600, **more)\n"
        "from aforo_meter.__main__ import main\n"
        "sys.exit(main(['deliver']))\n"
    )
    port = free_port()
    with Program(
        "wrong-clock",
        [sys.executable, str(wrong)],
        env={**stack.deliver.env, "AFORO_METER_DELIVER_METRICS_LISTEN": f"127.0.0.1:{port}"},
        ready=lambda: b" 200 " in ask_tcp(port, READY, bytes_max=64),
    ):
        bad = examined(stack, **{"deliver-b": f"127.0.0.1:{port}"})

    assert any(
        name.startswith("together: the clocks of this machine and deliver-b") for name in bad
    )
    assert not any("authz and" in name for name in bad if "deliver-b" not in name)


def test_what_is_no_part_of_aforo_is_told_of(stack: Stack) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    try:
        bad = examined(stack, authz=address)
        done = doctor("--envoy", address, env={})
    finally:
        server.shutdown()
        server.server_close()

    assert "authz: what answers there is no process of Aforo, not authz" in bad
    assert "is no Envoy's admin" in done.stdout


class Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_: object) -> None:
        pass
