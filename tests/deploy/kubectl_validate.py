"""The rendered overlays, as Kubernetes validates them: its own code in kubectl-validate.

    make kubectl-validate

It needs Go. The definitions of custom resources are those of `crds/`.
"""

import gzip
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.rendering import RENDERED, rendered
from tests.deploy.vendor_crds import CRDS

OF_CLUSTERS = {"GatewayClass"}  # All other kinds of ours are in a namespace.


def main(arguments: Sequence[str]) -> int:
    (program,) = arguments
    with tempfile.TemporaryDirectory() as home:
        definitions, manifests = Path(home, "crds"), Path(home, "manifests")
        for folder in (definitions, manifests):
            folder.mkdir()
        for number, definition in enumerate(_definitions()):
            (definitions / f"{number}.yaml").write_text(yaml.safe_dump(definition))
        for name in RENDERED:
            file = manifests / f"{name.replace('/', '-')}.yaml"
            file.write_text(yaml.safe_dump_all(rendered(name)))
        done = subprocess.run(
            [program, str(manifests), "--local-crds", str(definitions)], check=False
        )
    return done.returncode


def _definitions() -> Iterator[dict[str, Any]]:
    """Make definitions of the schemas, which are kept without what surrounds them."""
    for file in sorted(CRDS.glob("*.json.gz")):
        for key, schema in json.loads(gzip.decompress(file.read_bytes())).items():
            found = re.fullmatch(r"([^/]+)/(\S+) (\w+)", key)
            assert found is not None, key
            group, version, kind = found.groups()
            plural = f"{kind.lower()}s"
            yield {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.{group}"},
                "spec": {
                    "group": group,
                    "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                    "scope": "Cluster" if kind in OF_CLUSTERS else "Namespaced",
                    "versions": [
                        {
                            "name": version,
                            "served": True,
                            "storage": True,
                            "schema": {"openAPIV3Schema": schema},
                        }
                    ],
                },
            }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
