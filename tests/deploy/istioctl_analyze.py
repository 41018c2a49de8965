"""What `istioctl analyze` says of the overlay, its mesh and the Services that it names.

    make istioctl-analyze

It needs Go. Warnings count as faults.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from tests.deploy.overlay_lab import MESH
from tests.deploy.rendering import Document, rendered, title

LABELS: Final = {"istio": "ingressgateway"}
# What a mesh has before us, as far as the overlay speaks of it.
THERE: Final[tuple[Document, ...]] = (
    *(
        # The gateway's namespace has no sidecars to inject, nor has Aforo's.
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"istio-injection": "disabled"}},
        }
        for name in ("istio-system", "aforo")
    ),
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "istio-system", "name": "gateway", "labels": LABELS},
        "spec": {"containers": [{"name": "istio-proxy", "image": "istio/proxyv2:1.31.0"}]},
    },
)


def main(arguments: Sequence[str]) -> int:
    (program,) = arguments
    named = [each for each in rendered("prod") if title(each) in {"Service authz", "Service ship"}]
    with tempfile.TemporaryDirectory() as home:
        manifests, mesh = Path(home, "manifests.yaml"), Path(home, "mesh.yaml")
        manifests.write_text(yaml.safe_dump_all([*THERE, *named, *rendered("istio")]))
        mesh.write_text(yaml.safe_dump(yaml.safe_load(MESH.read_text())["meshConfig"]))
        done = subprocess.run(
            [
                *(program, "analyze", "--use-kube=false", "--all-namespaces", "--color=false"),
                *("--failure-threshold", "Warning", "--meshConfigFile", str(mesh), str(manifests)),
            ],
            check=False,
        )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
