"""Keep what tests need of projects' custom resource definitions: `crds/README.md`.

python -m tests.deploy.vendor_crds istio customresourcedefinitions.gen.yaml
"""

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

CRDS: Final = Path(__file__).parent / "crds"
KINDS: Final = frozenset(
    {
        *("AuthorizationPolicy", "DestinationRule", "EnvoyFilter", "ServiceEntry"),
        *(
            "Backend",
            "BackendTrafficPolicy",
            "ClientTrafficPolicy",
            "EnvoyPatchPolicy",
            "EnvoyProxy",
            "SecurityPolicy",
        ),
        *("Gateway", "GatewayClass", "HTTPRoute", "ReferenceGrant"),
        *("Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser"),
        *("ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"),
    }
)


def main(arguments: Sequence[str]) -> None:
    project, *files = arguments
    found = {key: schema for file in files for key, schema in _schemas(Path(file))}
    # A fixed time: the same definitions make the same bytes.
    packed = gzip.compress(json.dumps(found, sort_keys=True).encode(), mtime=0)
    (CRDS / f"{project}.json.gz").write_bytes(packed)


def _schemas(file: Path) -> Iterator[tuple[str, Any]]:
    for document in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader):
        if not document or document.get("kind") != "CustomResourceDefinition":
            continue
        spec = document["spec"]
        if spec["names"]["kind"] not in KINDS:
            continue
        for version in spec["versions"]:
            if version["served"]:
                key = f"{spec['group']}/{version['name']} {spec['names']['kind']}"
                yield key, _undescribed(version["schema"]["openAPIV3Schema"])


def _undescribed(schema: Any) -> Any:
    """Return a schema without its prose; a property named `description` stays."""
    if isinstance(schema, list):
        return [_undescribed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: {key: _undescribed(each) for key, each in part.items()}
        if name == "properties"
        else _undescribed(part)
        for name, part in schema.items()
        if not (name == "description" and isinstance(part, str))
    }


if __name__ == "__main__":
    main(sys.argv[1:])
