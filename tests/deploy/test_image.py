"""The image: what its recipe says; and, where one was built, that it runs confined.

`AFORO_TEST_IMAGE` names the root of a built image, unpacked (tests/deploy/README.md says how).
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.envoy import EnvoyServer
from lab.http_client import HttpClient
from lab.patience import PATIENT_AUTHZ, patient
from lab.ports import free_port
from lab.servers import Program, RedisServer, ask_tcp, eventually, scratch_dir
from lab.upstream import FakeLlm
from tests.deploy.rendering import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
KEY = "aforo_a-key-of-the-image's-test"
IMAGE = os.environ.get("AFORO_TEST_IMAGE")


def instructions() -> list[tuple[str, str]]:
    """Return the recipe's instructions with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word, rest.strip())
        for line in text.splitlines()
        if line.strip()
        for word, _, rest in [line.partition(" ")]
    ]


def test_the_recipe_has_no_faults_that_hadolint_knows() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout


def test_the_image_is_nobodys_and_needs_no_shell() -> None:
    last = instructions()
    last = last[max(i for i, (word, _) in enumerate(last) if word == "FROM") :]
    by_word = dict(last)

    assert by_word["USER"] == "65532:65532"
    assert by_word["CMD"].startswith("[")
    assert "ENTRYPOINT" not in by_word
    assert "RUN" not in by_word, "what is built is built in the other stage"
    assert [rest for word, rest in last if word == "COPY"] == ["--from=build /opt/aforo /opt/aforo"]


def test_every_install_is_held_to_the_constraints() -> None:
    installs = re.findall(r"pip [^&]*install[^&]*", " ".join(rest for _, rest in instructions()))

    assert len(installs) == 3
    for install in installs:
        assert "--constraint constraints.txt" in install or "--no-index" in install


def test_constraints_hold_what_the_image_is_built_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["otel"],
        *project["build-system"]["requires"],
    ]
    held = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    names = {re.match(r"[A-Za-z0-9_-]+", each)[0].lower() for each in wanted}  # type: ignore[index]

    assert names <= held


def test_what_the_recipe_copies_is_not_ignored_and_nothing_else_is_sent() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    lines = [line for line in ignored if line and not line.startswith("#")]
    copied = {
        name
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }

    assert lines[0] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied


# --- A built image ---------------------------------------------------------------------------


def confined(home: Path, *command: str, **variables: str) -> list[str]:
    """Return a command in the image: another user, read-only, without any capability."""
    line = ["bwrap", "--ro-bind", str(IMAGE), "/", "--proc", "/proc", "--dev", "/dev"]
    line += ["--tmpfs", "/tmp", "--tmpfs", "/run", "--bind", str(home), "/run/aforo"]  # noqa: S108
    line += ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--as-pid-1", "--uid", "65532"]
    line += ["--gid", "65532", "--cap-drop", "ALL", "--clearenv", "--die-with-parent"]
    line += ["--setenv", "PATH", "/opt/aforo/bin"]
    for name, value in variables.items():
        line += ["--setenv", name, value]
    return [*line, *command]


@pytest.fixture
def home() -> Path:
    if IMAGE is None or shutil.which("bwrap") is None:
        pytest.skip("no built image in AFORO_TEST_IMAGE, or no bwrap to run it confined")
    found = scratch_dir("image")
    catalog = (ROOT / "catalog.example.yaml").read_text()
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    catalog, changed = re.subn(r"(- id: production\n\s+sha256: )\w+", rf"\g<1>{digest}", catalog)
    assert changed == 1
    (found / "catalog.yaml").write_text(catalog)
    return found


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def test_the_image_decides_for_a_real_envoy_and_ends_when_told(
    home: Path, redis: RedisServer
) -> None:
    port = free_port()
    sync = confined(
        home,
        *("aforo-admin", "sync", "--once"),
        AFORO_ADMIN_CATALOG="/run/aforo/catalog.yaml",
        AFORO_ADMIN_REDIS_URL=redis.url,
    )
    subprocess.run(sync, check=True, capture_output=True)  # noqa: ASYNC221 - nothing else runs.
    serve = confined(
        home,
        *("aforo-authz", "serve"),
        AFORO_AUTHZ_LISTEN="unix:/run/aforo/authz.sock",
        AFORO_AUTHZ_METRICS_LISTEN=f"127.0.0.1:{port}",
        AFORO_AUTHZ_REDIS_URL=redis.url,
        **PATIENT_AUTHZ,
    )
    ready = b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n"
    authz = Program("authz", serve, ready=lambda: b" 200 OK" in ask_tcp(port, ready, bytes_max=64))
    with authz:
        async with FakeLlm() as api:
            envoy = EnvoyServer(
                ROOT / "envoy" / "aforo.yaml",
                listeners={"ingress": free_port()},
                clusters={"api": [api.port], "aforo_authz": [home / "authz.sock"]},
                edit=patient,
            )
            with envoy:
                await eventually(lambda: envoy.sees_healthy("aforo_authz"))
                async with HttpClient(f"http://127.0.0.1:{envoy.port('ingress')}") as client:
                    allowed = await client.get("/v1/models", headers={"x-api-key": KEY})
                    refused = await client.get("/v1/models", headers={"x-api-key": "nobody's"})
        inside = processes_in(authz)
        for process in inside:
            os.kill(process, signal.SIGTERM)
        code = authz.wait(30.0)

    assert dict(allowed.headers)["x-aforo-decision"] == "allow"
    assert refused.status == 401
    assert inside
    assert code == 0


def processes_in(program: Program) -> list[int]:
    """Return aforo-authz' own pid, seen from outside: what Kubernetes would signal."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            parents = (path.parent / "status").read_text()
        except OSError:
            continue
        if len(words) > 1 and words[1].endswith(b"/aforo-authz"):
            parent = int(re.search(r"PPid:\s+(\d+)", parents)[1])  # type: ignore[index]
            if is_below(parent, program.pid):
                found.append(int(path.parent.name))
    return found


def is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(re.search(r"PPid:\s+(\d+)", status)[1])  # type: ignore[index]
    return False


def test_the_image_has_what_a_reader_of_its_recipe_expects(home: Path) -> None:
    say = "import os, sys; print(os.getuid(), sys.prefix, os.access('/opt', os.W_OK))"
    done = subprocess.run(
        confined(home, "python", "-c", say), capture_output=True, text=True, check=True
    )
    commands = {path.name for path in (Path(str(IMAGE)) / "opt/aforo/bin").glob("aforo-*")}

    assert done.stdout.split() == ["65532", "/opt/aforo", "False"]
    assert commands == {"aforo-authz", "aforo-meter", "aforo-admin"}
    assert not (Path(str(IMAGE)) / "opt/aforo/bin/pip").exists()
