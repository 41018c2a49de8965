"""Pods that Strimzi makes of our documents, as its documentation says: none of them is rendered."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tests.deploy.rendering import Document, title

# Names, so each of Strimzi's pods and containers, and where in a Kafka their templates are.
CONTAINERS: Final = {
    "kafka": {"kafka": "kafkaContainer"},
    "entityOperator": {
        "topic-operator": "topicOperatorContainer",
        "user-operator": "userOperatorContainer",
    },
}
NAMES: Final = {"kafka": "kafka", "entityOperator": "entity-operator"}
# Whom they must reach: controllers and replication; brokers, and Kubernetes.
REACHED: Final = {"kafka": {9090, 9091}, "entityOperator": {9091, 443, 6443}}


def operated(documents: Sequence[Document]) -> Iterator[tuple[str, Document, set[int]]]:
    """Yield each pod that Strimzi makes: its name, what it is, and the ports that it must reach."""
    for document in documents:
        if document["kind"] == "Kafka":
            cluster = document["metadata"]["name"]
            for part, containers in CONTAINERS.items():
                template = document["spec"][part].get("template", {})
                pod = {
                    "metadata": {"labels": _labels(cluster, NAMES[part])},
                    "spec": {
                        **template.get("pod", {}),
                        "containers": [
                            {"name": name, **template.get(key, {})}
                            for name, key in containers.items()
                        ],
                    },
                }
                yield f"{title(document)}, {NAMES[part]}", pod, REACHED[part]


def _labels(cluster: str, name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": f"strimzi-{cluster}",
        "strimzi.io/cluster": cluster,
        "strimzi.io/name": f"{cluster}-{name}",
    }


def labelled(documents: Sequence[Document]) -> Iterator[dict[str, Any]]:
    for _, pod, _ in operated(documents):
        yield pod["metadata"]["labels"]


def admitted(documents: Sequence[Document]) -> Iterator[str]:
    """What a namespace enforces, these pods are; Strimzi's own default is less."""
    enforced = {
        document["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        for document in documents
        if document["kind"] == "Namespace"
    }
    if "restricted" not in enforced:
        return
    for name, pod, _ in operated(documents):
        shared = pod["spec"].get("securityContext", {})
        for container in pod["spec"]["containers"]:
            own = {**shared, **container.get("securityContext", {})}
            restricted = (
                own.get("runAsNonRoot") is True
                and own.get("allowPrivilegeEscalation") is False
                and own.get("capabilities") == {"drop": ["ALL"]}
                and own.get("seccompProfile") == {"type": "RuntimeDefault"}
            )
            if not restricted:
                yield f"{name}: its namespace would not admit {container['name']}: {own}"


def connected(documents: Sequence[Document]) -> Iterator[str]:
    """Where nobody may go anywhere unsaid, they may go where they must."""
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    if not any(p["podSelector"] == {} and "Egress" in p["policyTypes"] for p in policies):
        return
    for name, pod, reached in operated(documents):
        labels = pod["metadata"]["labels"].items()
        allowed = {
            port["port"]
            for policy in policies
            if policy["podSelector"].get("matchLabels", {}).items() <= labels
            for rule in policy.get("egress", ())
            for port in rule.get("ports", ())
        }
        if lacking := {53, *reached} - allowed:
            yield f"{name}: may not reach {sorted(lacking)}"
