"""What Istio's own code makes of the overlay, for a gateway's Envoy → `translated/istio.json`.

    make istio-translate

It needs Go. Resources are parsed and applied as istiod does; it has no cluster, so that Services
are given to it as ServiceEntries.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from tests.deploy.control_planes import TRANSLATED, mesh_config, write
from tests.deploy.rendering import Document, rendered

NETWORKING: Final = "networking.istio.io/v1"
API: Final = "api.default.svc.cluster.local"
AUTHZ: Final = "authz.aforo.svc.cluster.local"
SHIP: Final = "ship.aforo.svc.cluster.local"
# What a mesh has before us: a gateway that leads to somebody's API.
THERE: Final[tuple[Document, ...]] = (
    {
        "apiVersion": NETWORKING,
        "kind": "Gateway",
        "metadata": {"namespace": "istio-ingress", "name": "http"},
        "spec": {
            "selector": {"istio": "ingressgateway"},
            "servers": [
                {"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
            ],
        },
    },
    {
        "apiVersion": NETWORKING,
        "kind": "VirtualService",
        "metadata": {"namespace": "istio-ingress", "name": "api"},
        "spec": {
            "hosts": ["*"],
            "gateways": ["http"],
            "http": [{"route": [{"destination": {"host": API, "port": {"number": 8080}}}]}],
        },
    },
)


def service(host: str, port: int, protocol: str) -> Document:
    return {
        "apiVersion": NETWORKING,
        "kind": "ServiceEntry",
        "metadata": {"namespace": host.split(".")[1], "name": host.split(".", maxsplit=1)[0]},
        "spec": {
            "hosts": [host],
            "ports": [{"number": port, "name": protocol.lower(), "protocol": protocol}],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "endpoints": [{"address": "127.0.0.1"}],
        },
    }


def main(arguments: Sequence[str]) -> int:
    (program,) = arguments
    ours = [service(AUTHZ, 9191, "GRPC"), service(SHIP, 9192, "GRPC")]
    resources = [*rendered("istio"), *THERE, service(API, 8080, "HTTP"), *ours]
    made = translated(program, resources)
    few = translated(program, resources, settings={"PILOT_FILTER_GATEWAY_CLUSTER_CONFIG": "true"})
    unsent = {AUTHZ, SHIP} - {each["name"].rpartition("|")[2] for each in few["clusters"]}
    if unsent:
        sys.exit(f"a mesh that sends gateways only the clusters they need leaves out {unsent}")
    write("istio", **made)
    sys.stdout.write(f"written: {TRANSLATED / 'istio.json'}\n")
    return 0


def translated(
    program: str, resources: Sequence[Document], *, settings: Mapping[str, str] | None = None
) -> Document:
    with tempfile.TemporaryDirectory() as home:
        given, mesh, out = (Path(home, name) for name in ("resources.yaml", "mesh.yaml", "out"))
        given.write_text(yaml.safe_dump_all(resources))
        mesh.write_text(yaml.safe_dump(mesh_config()))
        done = subprocess.run(
            [program, str(given), str(mesh), str(out)],
            env={**os.environ, **(settings or {})},
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(f"Istio refused the overlay: {done.stderr or done.stdout}")
        found: Document = json.loads(out.read_text())
        return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
