"""Settings in manifests are settings in the code, and the code starts with them."""

import base64
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml

from aforo_meter.settings import ALL as METER_PROCESSES
from aforo_meter.topics import Wanted
from tests.deploy.envoy_config import SOURCE, TARGET, made_of
from tests.deploy.rendering import RENDERED, ROOT, Document, containers_of, pod_of, rendered
from tests.deploy.semantics import pods

POSTGRES = "postgresql://aforo:secret@postgres/aforo"
# What an operator's Secrets might hold, by key.
SECRETS = {
    "redis-url": "redis://:secret@redis:6379/0",
    "ledger-url": POSTGRES,
    "database-url": POSTGRES,
    "ledger-password": "secret",
    "password": "secret",
    "webhook-url": "https://hooks.example.com/aforo",
    "webhook-secret": "whsec_" + base64.b64encode(bytes(range(32))).decode(),
    "secret-key": "k" * 50,
    "issuer": "https://id.example.com",
    "client-id": "aforo",
    "client-secret": "secret",
    "roles": "staff=viewer",
}
DESCRIBE = "print(s.describe(s.load(s.ServeSettings, os.environ)))"
# The process that a command starts, and how it is asked for its settings.
CHECKS = {
    ("aforo-authz", "serve"): ["aforo-authz", "check-config"],
    # Its check-config is about sync.
    ("aforo-admin", "serve"): [
        "python",
        "-c",
        f"import os; from aforo_admin import settings as s; {DESCRIBE}",
    ],
    ("aforo-admin", "sync"): ["aforo-admin", "check-config"],
    **{("aforo-meter", name): ["aforo-meter", "check-config", name] for name in METER_PROCESSES},
}


def started() -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Return what our containers run, and with which variables, by overlay and name."""
    found = {}
    for name in RENDERED:
        documents = rendered(name)
        for document in documents:
            for container in containers_of(pod_of(document) or {"spec": {"containers": []}}):
                if container.get("command", [""])[0].startswith("aforo-"):
                    key = f"{name} {container['name']}"
                    found[key] = tuple(container["command"]), variables(container, documents)
    return found


def variables(container: Document, documents: tuple[Document, ...]) -> dict[str, str]:
    maps = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    found = {}
    for variable in container.get("env", ()):
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            found[variable["name"]] = SECRETS[source["secretKeyRef"]["key"]]
        elif "configMapKeyRef" in source:
            wanted = source["configMapKeyRef"]
            found[variable["name"]] = maps[wanted["name"]][wanted["key"]]
        else:
            found[variable["name"]] = variable["value"]
    return found


STARTED = started()
SERVING = {key: value for key, value in STARTED.items() if value[0][:2] in CHECKS}


@functools.cache
def checked(command: tuple[str, ...], given: tuple[tuple[str, str], ...]) -> tuple[int, str]:
    program = Path(sys.executable).parent / command[0]
    environment = {"PATH": os.environ["PATH"], **dict(given)}
    done = subprocess.run(
        [program, *command[1:]], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def mounted(value: str, folder: Path) -> str:
    """Return a setting whose files are there, as they are where their secrets are mounted."""
    if not value.startswith("kafkas://"):
        return value
    for path in re.findall(r"=(/[^&]+)", value):
        file = folder / Path(path).name
        authorities = Path(certifi.where()).read_text()
        file.write_text(authorities if file.suffix == ".crt" else "what a secret holds\n")
        value = value.replace(path, str(file))
    return value


@pytest.mark.parametrize("key", SERVING)
def test_a_process_takes_the_settings_of_its_manifest(key: str, tmp_path: Path) -> None:
    command, given = SERVING[key]
    given = {name: mounted(value, tmp_path) for name, value in given.items()}
    code, said = checked(tuple(CHECKS[command[0], command[1]]), tuple(sorted(given.items())))

    assert code == 0, said
    for name in given:
        assert f"{name}=" in said, f"{name}: no setting of {' '.join(command)}"


def test_a_misspelt_setting_in_a_manifest_would_be_found() -> None:
    command, given = SERVING["prod ship"]
    code, said = checked(
        tuple(CHECKS[command[0], command[1]]),
        tuple(sorted({**given, "AFORO_METER_SHIP_SPOOL_DIRS": "/tmp"}.items())),  # noqa: S108
    )

    assert code == 2
    assert "AFORO_METER_SHIP_SPOOL_DIRS" in said


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_every_process_of_the_code_has_a_workload(overlay: str) -> None:
    commands = {value[0][:2] for key, value in SERVING.items() if key.startswith(f"{overlay} ")}

    assert commands == set(CHECKS)


@pytest.mark.parametrize("key", SERVING)
def test_processes_listen_where_their_ports_are(key: str) -> None:
    overlay, _, name = key.partition(" ")
    ports = {
        port["containerPort"]
        for _, pod in pods(rendered(overlay))
        for container in containers_of(pod)
        if container["name"] == name
        for port in container["ports"]
    }
    listened = {
        int(value.rpartition(":")[2])
        for setting, value in SERVING[key][1].items()
        if setting.endswith("_LISTEN") and not value.startswith("unix:")
    }

    assert listened == ports


@pytest.mark.parametrize("key", [key for key in STARTED if key not in SERVING])
def test_jobs_run_commands_that_there_are(key: str) -> None:
    command, given = STARTED[key]
    expanded = [re.sub(r"\$\((\w+)\)", lambda m: given[m[1]], word) for word in command]
    code, said = checked((*expanded, "--help"), tuple(sorted(given.items())))

    assert code == 0, said
    for word in expanded[2:]:
        if word.startswith("--"):
            assert word.partition("=")[0] in said


def test_the_readme_lists_every_secret_with_its_keys() -> None:
    wanted: set[tuple[str, str]] = set()
    for name in RENDERED:
        for _, pod in pods(rendered(name)):
            for container in containers_of(pod):
                for variable in container.get("env", ()):
                    if source := variable.get("valueFrom", {}).get("secretKeyRef"):
                        wanted.add((source["name"], source["key"]))
    text = (ROOT / "k8s" / "README.md").read_text()
    rows: list[tuple[str, str]] = re.findall(r"^\| `([a-z-]+)` \| (`[^|]+`) \|", text, re.MULTILINE)
    listed = {(name, key) for name, keys in rows for key in re.findall(r"`([a-z-]+)`", keys)}

    assert listed == wanted


def test_strimzis_topics_are_as_our_command_makes_them() -> None:
    found = [d for d in rendered("strimzi") if d["kind"] == "KafkaTopic"]

    assert {d["metadata"]["name"] for d in found} == {"aforo.usage.v1", "aforo.usage.dlq.v1"}
    for document in found:
        spec = document["spec"]
        wanted = Wanted(partitions=spec["partitions"], replication=spec["replicas"])
        settings = wanted.settings(document["metadata"]["name"], replication=spec["replicas"])
        assert {key: str(value) for key, value in spec["config"].items()} == settings


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")])
def test_a_write_waits_for_two_copies_where_one_of_three_may_go(
    replication: int, in_sync: str
) -> None:
    settings = Wanted(partitions=1, replication=replication).settings("u", replication=replication)

    assert settings["min.insync.replicas"] == in_sync


def test_envoys_configuration_is_made_of_the_one_that_is_tested() -> None:
    assert TARGET.read_text() == made_of(SOURCE.read_text())


def test_the_catalog_of_dev_is_one() -> None:
    catalog = ROOT / "k8s" / "overlays" / "dev" / "catalog.yaml"
    code, said = checked(("aforo-admin", "check", str(catalog)), ())

    assert code == 0, said


def test_autoscaling_of_consume_stays_within_the_partitions_and_asks_for_a_metric_of_ours() -> None:
    from aforo_meter import consume_metrics  # noqa: PLC0415 - it registers metrics.

    scaled: list[Any] = [d for d in rendered("prod") if d["kind"] == "ScaledObject"]
    trigger = scaled[0]["spec"]["triggers"][0]["metadata"]
    source = Path(consume_metrics.__file__).read_text()

    assert re.findall(r"aforo_\w+", trigger["query"])
    assert all(f'"{name}"' in source for name in re.findall(r"aforo_\w+", trigger["query"]))


def test_kustomizations_are_yaml_that_names_files() -> None:
    for path in (ROOT / "k8s").rglob("kustomization.yaml"):
        for part in yaml.safe_load(path.read_text()).get("resources", ()):
            assert (path.parent / part).exists(), f"{path}: {part}"
