"""Rules about who is there when a pod, a node or a zone goes; as those of `semantics.py`."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from tests.deploy.operated import operated
from tests.deploy.rendering import PROBES, Document, containers_of, pod_of, pods, title

# CoreDNS keeps an answer for 5 s, Envoy asks every 5 s, endpoints are written in about 2; and more.
ADDRESS_KNOWN_S: Final = 20
NODE: Final = "kubernetes.io/hostname"
ZONE: Final = "topology.kubernetes.io/zone"
# Settings that say how long a process goes on after SIGTERM, in seconds.
DRAINS: Final = re.compile(r"AFORO_[A-Z_]*DRAIN(_NOTICE)?_S")


def spread(documents: Sequence[Document]) -> Iterator[str]:
    """Who is there more than once is on several nodes and in several zones; brokers always are."""
    for name, pod, must in _many(documents):
        nodes, zones = set(), set()
        for term, obliges in _apart(pod["spec"]):
            wanted = term["labelSelector"]["matchLabels"].items()
            if not wanted or not wanted <= pod["metadata"]["labels"].items():
                yield f"{name}: spreads other pods than its own"
            elif term["topologyKey"] == NODE:
                nodes.add(obliges)
            elif term["topologyKey"] == ZONE:
                zones.add(obliges)
        if not nodes or (must and True not in nodes):
            yield f"{name}: may all be on one node"
        if not zones:
            yield f"{name}: may all be in one zone"


def _many(documents: Sequence[Document]) -> Iterator[tuple[str, Document, bool]]:
    """Yield pods of which there is more than one, and whether two on a node would be a fault."""
    scaled = {
        document["spec"]["scaleTargetRef"]["name"]: document["spec"].get(key, 1)
        for kind, key in (
            ("HorizontalPodAutoscaler", "maxReplicas"),
            ("ScaledObject", "maxReplicaCount"),
        )
        for document in documents
        if document["kind"] == kind
    }
    for document in documents:
        if document["kind"] in {"Deployment", "StatefulSet"}:
            own = document["spec"].get("replicas", scaled.get(document["metadata"]["name"], 1))
            if own > 1:
                yield title(document), document["spec"]["template"], False
    pools = [d["spec"]["replicas"] for d in documents if d["kind"] == "KafkaNodePool"]
    for name, pod, _ in operated(documents):
        if pod["metadata"]["labels"]["app.kubernetes.io/name"] == "kafka" and sum(pools) > 1:
            yield name, pod, True  # Of three copies a write needs two.


def _apart(spec: Document) -> Iterator[tuple[Document, bool]]:
    """Yield what keeps a pod away from its like, and whether it waits where that can't be."""
    for constraint in spec.get("topologySpreadConstraints", ()):
        yield constraint, constraint["whenUnsatisfiable"] == "DoNotSchedule"
    away = spec.get("affinity", {}).get("podAntiAffinity", {})
    for term in away.get("requiredDuringSchedulingIgnoredDuringExecution", ()):
        yield term, True


def scaling(documents: Sequence[Document]) -> Iterator[str]:
    """Each autoscaler has its Deployment, alone, and the Deployment names no number itself."""
    seen: set[str] = set()
    deployments = {d["metadata"]["name"]: d for d in documents if d["kind"] == "Deployment"}
    for document in documents:
        if document["kind"] not in {"HorizontalPodAutoscaler", "ScaledObject"}:
            continue
        target = document["spec"]["scaleTargetRef"]["name"]
        if target not in deployments:
            yield f"{title(document)}: scales {target}, which is not there"
        elif "replicas" in deployments[target]["spec"]:
            yield f"{title(document)}: {target} has a number of replicas of its own"
        if target in seen:
            yield f"{title(document)}: {target} is scaled twice"
        seen.add(target)
        inside = [
            container["name"]
            for container in (
                containers_of(deployments[target]["spec"]["template"])
                if target in deployments
                else ()
            )
        ]
        for metric in document["spec"].get("metrics", ()):
            container = metric.get("containerResource", {}).get("container")
            if container and container not in inside:
                yield f"{title(document)}: no container {container}"


def probes(documents: Sequence[Document]) -> Iterator[str]:
    for document in documents:
        pod = pod_of(document)
        if pod is None or document["kind"] == "Job":
            continue
        for container in running(pod):
            missing = [probe for probe in PROBES if probe not in container]
            if missing:
                yield f"{title(document)}: {container['name']} lacks {missing}"
            if container.get("livenessProbe", {}).get("httpGet", {}).get("path") == "/readyz":
                yield f"{title(document)}: an outage of others would restart {container['name']}"


def graces(documents: Sequence[Document]) -> Iterator[str]:
    """Kubernetes waits for longer than preStop and draining take."""
    for name, pod in pods(documents):
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        for container in running(pod):
            wait = _pre_stop_s(container)
            drain = sum(
                float(variable["value"])
                for variable in container.get("env", ())
                if DRAINS.fullmatch(variable["name"])
            )
            if grace <= wait + drain:
                yield f"{name}: {container['name']} needs {wait + drain} s, and is given {grace}"


def _pre_stop_s(container: Document) -> int:
    hook = container.get("lifecycle", {}).get("preStop", {})
    wait: int = hook.get("sleep", {}).get("seconds", 0)
    for word in hook.get("exec", {}).get("command", ()):
        wait += sum(int(s) for s in re.findall(r"sleep\((\d+)\)", word))
    return wait


def budgets(documents: Sequence[Document]) -> Iterator[str]:
    for document in documents:
        if document["kind"] == "PodDisruptionBudget" and (
            document["spec"].get("maxUnavailable") != 1
            or document["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow"
        ):
            yield f"{title(document)}: could keep a node from being drained"


def successions(documents: Sequence[Document]) -> Iterator[str]:
    """The next pod ends only once all who ask DNS know the new one's address.

    In a rollout minReadySeconds sees to that. Who drains nodes evicts the next pod as soon as the
    new one is ready; then its own preStop does.
    """
    services = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "Service"}
    for document in documents:
        if document["kind"] == "StatefulSet":
            spec = document["spec"]
            told = services.get(spec["serviceName"], {}).get("publishNotReadyAddresses") is True
            if not told or spec.get("minReadySeconds", 0) < ADDRESS_KNOWN_S:
                yield f"{title(document)}: the next pod ends before all know the new one's address"
            for container in running(spec["template"]):
                if _pre_stop_s(container) < ADDRESS_KNOWN_S:
                    yield (
                        f"{title(document)}: {container['name']}, evicted, ends before all know"
                        " the other one's address"
                    )


def running(pod: Document) -> Iterator[Document]:
    """Yield the containers that serve: not those that only prepare, nor those of jobs."""
    for container in containers_of(pod):
        if container not in pod["spec"].get("initContainers", ()) or "restartPolicy" in container:
            yield container
