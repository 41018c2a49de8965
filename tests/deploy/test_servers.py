"""Servers that processes are told of: they may be reached, and by whom, and are believed."""

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.deploy.rendering import RENDERED, ROOT, Document, containers_of, pods, rendered
from tests.deploy.test_settings import command_of, variables

DEFAULT_PORTS = {"postgresql": 5432, "redis": 6379, "rediss": 6379, "https": 443, "kafkas": 9093}
ADDRESS = re.compile(r"[\w.-]+\.?[\w-]*:(\d+)")
AUTHORITY = "/etc/aforo-ca/ca.crt"


def ports_of(text: str) -> Iterator[int]:
    """Yield the ports that a URL, or a list of host:port, leads to."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in DEFAULT_PORTS:
        hosts = urlsplit(text).netloc.rpartition("@")[2] if rest else ""
        for host in hosts.split(","):
            yield int(host.partition(":")[2] or DEFAULT_PORTS[scheme])
    else:
        for host in text.split(","):
            if found := ADDRESS.fullmatch(host):
                yield int(found[1])


def let_out(documents: tuple[Document, ...], labels: dict[str, str]) -> set[int] | None:
    """Return the ports that a pod may reach; None: all, as no policy is about that.

    Args:
        documents: Of the pod's namespace.
        labels: The pod's.
    """
    mine = [
        document["spec"]
        for document in documents
        if document["kind"] == "NetworkPolicy"
        and "Egress" in document["spec"]["policyTypes"]
        and document["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
    ]
    rules = [rule for policy in mine for rule in policy.get("egress", ())]
    return {port["port"] for rule in rules for port in rule["ports"]} if mine else None


def beside(documents: tuple[Document, ...], one: Document) -> tuple[Document, ...]:
    """Return what is in a document's namespace."""
    place = one["metadata"].get("namespace")
    return tuple(d for d in documents if d["metadata"].get("namespace") == place)


@pytest.mark.parametrize("name", RENDERED)
def test_what_settings_name_can_be_reached(name: str) -> None:
    documents = rendered(name)
    for document, (workload, pod) in ((d, each) for d in documents for each in pods([d])):
        allowed = let_out(beside(documents, document), pod["metadata"]["labels"])
        if allowed is None:
            continue
        for container in containers_of(pod):
            named = {
                key: value
                for key, value in variables(container, documents).items()
                if key.startswith("AFORO_") and not key.endswith("_LISTEN")
            }
            named |= {word: word for word in command_of(container)}
            for key, value in named.items():
                for port in ports_of(value):
                    assert port in allowed, f"{workload}: {key} is closed"


def test_a_port_that_no_policy_opens_would_be_found() -> None:
    assert list(ports_of("kafkas://aforo-ship@k1,k2:9094?password_file=/x")) == [9093, 9094]
    assert list(ports_of("kafka-0.example:9092,kafka-1.example:9092")) == [9092, 9092]
    assert list(ports_of("postgresql://aforo:pw@postgres/aforo")) == [5432]
    assert let_out(rendered("prod"), {"app.kubernetes.io/name": "authz"}) == {53, 5353, 6379}


@pytest.mark.parametrize(
    ("process", "ports"),
    [
        ("authz", {26379, 4317, 4318}),
        ("ship", {26379, 9093}),
        ("ingest", {26379, 9093}),
        ("consume", {26379, 9093}),
        ("sync", {26379}),
        ("admin", {26379, 9093, 443}),
        ("migrate", {9093}),
    ],
)
def test_components_open_what_prod_does_not(process: str, ports: set[int]) -> None:
    labels = {"app.kubernetes.io/name": process}
    before, after = (let_out(rendered(name), labels) for name in ("prod", "outside"))

    assert before is not None
    assert after is not None
    assert after - before == ports


def test_people_reach_sentinels_where_processes_do() -> None:
    labels = {"app.kubernetes.io/name": "tools"}
    before, after = (let_out(rendered(name), labels) for name in ("strimzi-tools", "tools-outside"))

    assert before == {53, 5353, 5432, 6379, 9093}
    assert after == before | {26379}


@pytest.mark.parametrize("name", ["outside", "sidecar-ca", "tools-outside"])
def test_an_authority_of_ones_own_is_in_every_process_and_job(name: str) -> None:
    assert AUTHORITY in (ROOT / "k8s" / "README.md").read_text()
    folder, _, file = AUTHORITY.rpartition("/")
    assert file == "ca.crt"
    for workload, pod in pods(rendered(name)):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in containers_of(pod):
            if "aforo:" in container["image"]:
                mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
                assert folder in mounts, workload
                assert volumes[mounts[folder]]["configMap"] == {"name": "aforo-ca"}


def test_every_pod_of_ours_may_pull_and_is_outside_the_mesh() -> None:
    documents = rendered("mesh-and-registry")
    accounts = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ServiceAccount"}
    for workload, pod in pods(documents):
        account = accounts[pod["spec"]["serviceAccountName"]]
        labels = pod["metadata"]["labels"]

        assert account["imagePullSecrets"] == [{"name": "aforo-registry"}], workload
        assert labels["sidecar.istio.io/inject"] == "false", workload
        assert labels["istio.io/dataplane-mode"] == "none", workload
    # What can't be changed of a StatefulSet that is there is as without them.
    (before,), (after,) = (
        [d["spec"]["volumeClaimTemplates"] for d in rendered(name) if d["kind"] == "StatefulSet"]
        for name in ("strimzi-tools", "mesh-and-registry")
    )
    assert after == before


Right = tuple[str, str, str, str]


def test_strimzis_users_may_what_those_of_ops_may(tmp_path: Path) -> None:
    """Describe aside, which Read and Write imply; the admin has a user of its own here."""
    ours = {right for right in _of_acls(tmp_path) if right[3] != "Describe"}
    strimzis = {right for right in _of_users() if right[3] != "Describe"}
    admins = {right for right in strimzis if right[0] == "admin"}

    assert strimzis - admins == ours
    assert {("tools", *right[1:]) for right in admins} <= ours
    assert not any(right[3] == "Write" for right in admins)


def _of_users() -> Iterator[Right]:
    for document in rendered("strimzi"):
        if document["kind"] == "KafkaUser":
            user = document["metadata"]["name"].removeprefix("aforo-kafka-")
            for acl in document["spec"]["authorization"]["acls"]:
                for operation in acl["operations"]:
                    yield user, acl["resource"]["type"], acl["resource"]["name"], operation


def _of_acls(folder: Path) -> Iterator[Right]:
    """Have the script call us in the place of kafka-acls.sh."""
    called = folder / "called"
    program = folder / "kafka-acls.sh"
    program.write_text(f'#!/bin/sh\necho "$@" >>{called}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    script = ROOT / "ops" / "kafka" / "acls.sh"
    subprocess.run(
        ["sh", script], env={"PATH": os.environ["PATH"], "KAFKA_ACLS": str(program)}, check=True
    )
    for line in called.read_text().splitlines():
        options = re.findall(r"--([a-z-]+) ([^-\s]\S*)", line)
        users = [value.removeprefix("User:aforo-") for key, value in options if "principal" in key]
        for user in users:
            for kind, name in options:
                if kind in {"topic", "group"}:
                    for _, operation in (each for each in options if each[0] == "operation"):
                        yield user, kind, name, operation
