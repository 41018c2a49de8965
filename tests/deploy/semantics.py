"""What schemas never see: one function a rule; it returns what is wrong with documents."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from tests.deploy.availability import budgets, graces, probes, scaling, spread, successions
from tests.deploy.hooks import hooks
from tests.deploy.operated import admitted, connected, labelled
from tests.deploy.rendering import PROBES, Document, containers_of, pod_of, pods, title

Rule = Callable[[Sequence[Document]], Iterator[str]]

DNS_1123: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
PORT_NAME: Final = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
UNITS: Final = {"m": 0.001, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


def names(documents: Sequence[Document]) -> Iterator[str]:
    for document in documents:
        pattern = DNS_1035 if document["kind"] == "Service" else DNS_1123
        if not pattern.fullmatch(document["metadata"]["name"]):
            yield f"{title(document)}: no DNS name"


def once(documents: Sequence[Document]) -> Iterator[str]:
    """No two documents are the same object."""
    seen = set()
    for document in documents:
        key = (title(document), document["metadata"].get("namespace"))
        if key in seen:
            yield f"{title(document)}: twice"
        seen.add(key)


def own_selectors(documents: Sequence[Document]) -> Iterator[str]:
    for document in documents:
        if document["kind"] in {"Deployment", "StatefulSet"}:
            wanted = document["spec"]["selector"]["matchLabels"].items()
            if not wanted <= document["spec"]["template"]["metadata"]["labels"].items():
                yield f"{title(document)}: its selector does not match its own pods"


def _selected(document: Document) -> Any:
    spec = document["spec"]
    if document["kind"] == "Service":
        return spec.get("selector")
    if document["kind"] == "NetworkPolicy":
        return spec["podSelector"].get("matchLabels")  # None: every pod.
    return spec["selector"]["matchLabels"]


SELECTING: Final = {"Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"}


def looks_elsewhere(document: Document) -> bool:
    """Say whether it may select pods of other namespaces, which other overlays have."""
    return "namespaceSelector" in document["spec"]


def foreign_selectors(documents: Sequence[Document]) -> Iterator[str]:
    """What selects pods hits exactly the workload whose name it bears as a label."""
    for document in documents:
        if document["kind"] not in SELECTING or not (wanted := _selected(document)):
            continue
        ours = (pod["metadata"]["labels"] for _, pod in pods(documents))
        hit = {
            labels["app.kubernetes.io/name"]
            for labels in (*ours, *labelled(documents))
            if wanted.items() <= labels.items()
        }
        if not hit and looks_elsewhere(document):
            continue
        if hit != {document["metadata"].get("labels", {}).get("app.kubernetes.io/name")}:
            yield f"{title(document)}: selects pods of {sorted(hit) or 'nobody'}"


def ports(documents: Sequence[Document]) -> Iterator[str]:
    for name, pod in pods(documents):
        declared: set[object] = set()
        for container in containers_of(pod):
            for port in container.get("ports", ()):
                if not PORT_NAME.fullmatch(port["name"]):
                    yield f"{name}: port name {port['name']!r}"
                if not 1 <= port["containerPort"] <= 65535:
                    yield f"{name}: port {port['containerPort']}"
                if declared & {port["name"], port["containerPort"]}:
                    yield f"{name}: port {port['name']} twice"
                declared |= {port["name"], port["containerPort"]}
            yield from _probed_ports(name, container)


def _probed_ports(name: str, container: Document) -> Iterator[str]:
    own = {value for p in container.get("ports", ()) for value in (p["name"], p["containerPort"])}
    for probe in PROBES:
        for kind in ("httpGet", "tcpSocket", "grpc"):
            port = container.get(probe, {}).get(kind, {}).get("port")
            if port is not None and port not in own:
                yield f"{name}: {probe} asks port {port!r}, which {container['name']} has not"


def target_ports(documents: Sequence[Document]) -> Iterator[str]:
    """Ports that Services, PodMonitors and policies name are ports of the pods they select."""
    for document in documents:
        if document["kind"] not in SELECTING or not (wanted := _selected(document)):
            continue
        there = {
            value
            for _, pod in pods(documents)
            if wanted.items() <= pod["metadata"]["labels"].items()
            for container in containers_of(pod)
            for port in container.get("ports", ())
            for value in (port["name"], port["containerPort"])
        }
        if not there and looks_elsewhere(document):
            continue
        for port in _named_ports(document):
            if port not in there:
                yield f"{title(document)}: port {port!r} is none of its pods'"


def _named_ports(document: Document) -> Iterator[object]:
    spec = document["spec"]
    if document["kind"] == "Service":
        yield from (port["targetPort"] for port in spec["ports"])
    elif document["kind"] == "PodMonitor":
        yield from (endpoint["port"] for endpoint in spec["podMetricsEndpoints"])
    elif document["kind"] == "NetworkPolicy":
        for rule in spec.get("ingress", ()):
            yield from (port["port"] for port in rule.get("ports", ()))


def scraped(documents: Sequence[Document]) -> Iterator[str]:
    """Where Prometheus reads, a policy lets the namespace `monitoring` in."""
    for document in documents:
        if document["kind"] != "PodMonitor":
            continue
        wanted = {each["port"] for each in document["spec"]["podMetricsEndpoints"]}
        for name, pod in pods(documents):
            if _selected(document).items() <= pod["metadata"]["labels"].items():
                for port in sorted(wanted - _open_to_monitoring(documents, pod)):
                    yield f"{title(document)}: no policy of {name} lets it in at {port}"


def _open_to_monitoring(documents: Sequence[Document], pod: Document) -> set[object]:
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    return {
        port["port"]
        for policy in documents
        if policy["kind"] == "NetworkPolicy"
        and (wanted := _selected(policy))
        and wanted.items() <= pod["metadata"]["labels"].items()
        for rule in policy["spec"].get("ingress", ())
        if {"namespaceSelector": namespace} in rule.get("from", ())
        for port in rule.get("ports", ())
    }


def resources(documents: Sequence[Document]) -> Iterator[str]:
    """Requests are set and within limits; memory is bounded, CPU is not."""
    for name, pod in pods(documents):
        for container in containers_of(pod):
            given = container.get("resources", {})
            requests, limits = given.get("requests", {}), given.get("limits", {})
            if not {"cpu", "memory"} <= requests.keys() or "memory" not in limits:
                yield f"{name}: {container['name']} lacks requests, or a limit of memory"
            if "cpu" in limits:
                yield f"{name}: {container['name']} has a limit of CPU: it would be stopped at work"
            for kind in requests.keys() & limits.keys():
                if amount(requests[kind]) > amount(limits[kind]):
                    yield f"{name}: {container['name']} requests more {kind} than its limit"


def amount(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def references(documents: Sequence[Document]) -> Iterator[str]:
    """ConfigMaps, with the keys that are read, and ServiceAccounts exist."""
    there = {title(document): document for document in documents}
    there["ConfigMap aforo-ca"] = {}  # Whose authority it is, we can't know.
    for name, pod in pods(documents):
        account = pod["spec"].get("serviceAccountName")
        if account and f"ServiceAccount {account}" not in there:
            yield f"{name}: no ServiceAccount {account}"
        for volume in pod["spec"].get("volumes", ()):
            if "configMap" in volume and f"ConfigMap {volume['configMap']['name']}" not in there:
                yield f"{name}: no ConfigMap {volume['configMap']['name']}"
        yield from _unmade_secrets(name, pod, there)
        for variable in _variables(pod):
            wanted = variable.get("valueFrom", {}).get("configMapKeyRef")
            if wanted:
                data = there.get(f"ConfigMap {wanted['name']}", {}).get("data", {})
                if wanted["key"] not in data:
                    yield f"{name}: no {wanted['key']} in ConfigMap {wanted['name']}"


def _unmade_secrets(name: str, pod: Document, there: dict[str, Document]) -> Iterator[str]:
    """Secrets in volumes are those that Strimzi makes, of users and of its authority."""
    for volume in pod["spec"].get("volumes", ()):
        if secret := volume.get("secret", {}).get("secretName"):
            cluster = secret.removesuffix("-cluster-ca-cert")
            if f"KafkaUser {secret}" not in there and f"Kafka {cluster}" not in there:
                yield f"{name}: nobody makes Secret {secret}"


def _variables(pod: Document) -> Iterator[Document]:
    for container in containers_of(pod):
        yield from container.get("env", ())


def mounts(documents: Sequence[Document]) -> Iterator[str]:
    """What is mounted is a volume of the pod, and every volume is mounted."""
    for document in documents:
        if not (pod := pod_of(document)):
            continue
        claims = document["spec"].get("volumeClaimTemplates", ())
        volumes = {v["name"] for v in pod["spec"].get("volumes", ())}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        mounted = {m["name"] for c in containers_of(pod) for m in c.get("volumeMounts", ())}
        if volumes != mounted:
            yield f"{title(document)}: volumes {sorted(volumes ^ mounted)}"


def no_secrets(documents: Sequence[Document]) -> Iterator[str]:
    for document in documents:
        if document["kind"] == "Secret":
            yield f"{title(document)}: Secrets are the operator's to make"
    for name, pod in pods(documents):
        for variable in _variables(pod):
            secret = re.search(
                r"REDIS_URL|LEDGER_URL|DATABASE_URL|SECRET|PASSWORD", variable["name"]
            )
            if secret and "secretKeyRef" not in variable.get("valueFrom", {}):
                yield f"{name}: {variable['name']} is not from a Secret"


def images(documents: Sequence[Document]) -> Iterator[str]:
    for name, pod in pods(documents):
        for container in containers_of(pod):
            image = container["image"]
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and tag in {"", "latest"}:
                yield f"{name}: {image} may be another one tomorrow"


def confinement(documents: Sequence[Document]) -> Iterator[str]:
    """Nobody is root, writes to his image, has a capability, or may talk to Kubernetes."""
    for name, pod in pods(documents):
        shared = pod["spec"].get("securityContext", {})
        if pod["spec"].get("automountServiceAccountToken") is not False:
            yield f"{name}: has a token for Kubernetes"
        for container in containers_of(pod):
            own = {**shared, **container.get("securityContext", {})}
            complete = (
                own.get("runAsNonRoot") is True
                and own.get("runAsUser", 0) > 0
                and own.get("allowPrivilegeEscalation") is False
                and own.get("readOnlyRootFilesystem") is True
                and own.get("capabilities") == {"drop": ["ALL"]}
                and own.get("seccompProfile") == {"type": "RuntimeDefault"}
            )
            if not complete:
                yield f"{name}: {container['name']} is not confined: {own}"


def service_links(documents: Sequence[Document]) -> Iterator[str]:
    """Kubernetes adds no AFORO_… variables of its own: an unknown one stops the start."""
    for name, pod in pods(documents):
        if pod["spec"].get("enableServiceLinks") is not False:
            yield f"{name}: enableServiceLinks is not false"


def policies(documents: Sequence[Document]) -> Iterator[str]:
    """Every pod has a network policy of its own; so none is open by being forgotten."""
    selected = [_selected(d) for d in documents if d["kind"] == "NetworkPolicy"]
    for name, pod in pods(documents):
        labels = pod["metadata"]["labels"].items()
        if not any(wanted and wanted.items() <= labels for wanted in selected):
            yield f"{name}: no network policy selects it"


RULES: Final[tuple[Rule, ...]] = (
    *(names, once, own_selectors, foreign_selectors, spread, scaling, ports, target_ports),
    scraped,
    *(resources, references, mounts, no_secrets, images, confinement, probes, graces),
    *(service_links, budgets, successions, policies, admitted, connected, hooks),
)
