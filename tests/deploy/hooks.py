"""Argo CD's order: what its hooks need is there before them, and what needs them comes after."""

from collections.abc import Iterator, Sequence
from typing import Final

from tests.deploy.rendering import Document, containers_of, pod_of, title

PHASES: Final = {"PreSync": 0, "Sync": 1, "PostSync": 2}
HOOK: Final = "argocd.argoproj.io/hook"
WAVE: Final = "argocd.argoproj.io/sync-wave"


def hooks(documents: Sequence[Document]) -> Iterator[str]:
    for job in documents:
        pod = pod_of(job)
        if pod is None or HOOK not in _annotations(job):
            continue
        needed = {f"ServiceAccount {pod['spec'].get('serviceAccountName')}", *_config_maps(pod)}
        labels, turn = pod["metadata"]["labels"], _turn(job)
        for document in documents:
            needs = title(document) in needed or _lets_out(document, labels)
            if needs and not _turn(document) < turn:
                yield f"{title(job)}: Argo CD makes {title(document)} too late for it"
            serves = document["kind"] in {"Deployment", "StatefulSet"}
            if serves and not _turn(document) > turn:
                yield f"{title(document)}: Argo CD would not wait for {title(job)}"


def _annotations(document: Document) -> dict[str, str]:
    found: dict[str, str] = document["metadata"].get("annotations", {})
    return found


def _turn(document: Document) -> tuple[int, int]:
    annotations = _annotations(document)
    return PHASES[annotations.get(HOOK, "Sync")], int(annotations.get(WAVE, "0"))


def _config_maps(pod: Document) -> Iterator[str]:
    for volume in pod["spec"].get("volumes", ()):
        if "configMap" in volume:
            yield f"ConfigMap {volume['configMap']['name']}"
    for container in containers_of(pod):
        for variable in container.get("env", ()):
            if wanted := variable.get("valueFrom", {}).get("configMapKeyRef"):
                yield f"ConfigMap {wanted['name']}"


def _lets_out(document: Document, labels: dict[str, str]) -> bool:
    """Without it the pod could go nowhere, where another policy denies all."""
    if document["kind"] != "NetworkPolicy" or not document["spec"].get("egress"):
        return False
    wanted: dict[str, str] = document["spec"]["podSelector"].get("matchLabels", {})
    return wanted.items() <= labels.items()
