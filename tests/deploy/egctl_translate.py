"""What Envoy Gateway's own translator makes of the overlay → `translated/envoy-gateway.json`.

    make egctl-translate

It needs Go. Each resource must be accepted, and each patch be applied, of an HTTPS listener too.
"""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

from tests.certificates import certificate
from tests.deploy.control_planes import TRANSLATED, snake, write
from tests.deploy.patches import unapplied
from tests.deploy.rendering import Document, rendered, title

GATEWAY: Final = "gateway/aforo"
# What a cluster gives a Service, and what somebody else's HTTPRoute leads to.
ADDRESS: Final = "10.96.0.1"
API: Final[Document] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"namespace": "gateway", "name": "api"},
    "spec": {"clusterIP": ADDRESS, "ports": [{"name": "http", "port": 8080}]},
}


def main(arguments: Sequence[str]) -> int:
    (program,) = arguments
    made = parts_of(translated(program, with_services(rendered("envoy-gateway"))))
    of_https = parts_of(translated(program, with_services(with_https(rendered("envoy-gateway")))))
    for name, each in (("HTTP", made), ("HTTPS", of_https)):
        for missing in unapplied("envoy-gateway", snake(each)):
            sys.stderr.write(f"{name}: not applied: {json.dumps(missing)[:300]}\n")
            return 1
    write("envoy-gateway", **made)
    sys.stdout.write(f"written: {TRANSLATED / 'envoy-gateway.json'}\n")
    return 0


def parts_of(told: Document) -> Document:
    """Return listeners, clusters and routes; end the program if a resource was not accepted."""
    faults = [*refusals(told)]
    if faults:
        sys.exit("\n".join(faults))
    (dump,) = (each["configs"] for name, each in told["xds"].items() if name == GATEWAY)
    return {
        "listeners": list(_resources(dump, "activeState", "listener")),
        "clusters": list(_resources(dump, "cluster")),
        "routes": list(_resources(dump, "routeConfig")),
    }


def with_https(documents: Sequence[Document]) -> list[Document]:
    """Give the listener TLS, whose filters Envoy Gateway puts at another place."""
    found = deepcopy([*documents])
    (gateway,) = (each for each in found if each["kind"] == "Gateway")
    (listener,) = gateway["spec"]["listeners"]
    listener |= {"protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "certificate"}]}}
    with tempfile.TemporaryDirectory() as home:
        chain, key = certificate(Path(home), "gateway", "DNS:gateway")
        data = {"tls.crt": chain.read_bytes(), "tls.key": key.read_bytes()}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": "gateway", "name": "certificate"},
        "type": "kubernetes.io/tls",
        "data": {name: base64.b64encode(text).decode() for name, text in data.items()},
    }
    return [*found, secret]


def with_services(documents: Sequence[Document]) -> list[Document]:
    """Add the Services that a cluster would have, with addresses."""
    (ship,) = (deepcopy(each) for each in rendered("prod") if title(each) == "Service ship")
    ship["spec"]["clusterIP"] = ADDRESS
    aforo = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "aforo"}}
    return [*documents, aforo, ship, API]


def translated(program: str, documents: Sequence[Document]) -> Document:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "resources.yaml")
        path.write_text(yaml.safe_dump_all(documents))
        done = subprocess.run(
            [
                *(program, "x", "translate", "--from", "gateway-api", "--to", "gateway-api,xds"),
                *("--output", "json", "--file", str(path)),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        sys.exit(f"egctl refused the overlay: {done.stderr}")
    found: Document = json.loads(done.stdout)
    return found


def refusals(told: Any) -> Iterator[str]:
    """Yield what any resource's status says that is not `True`."""
    if isinstance(told, list):
        for each in told:
            yield from refusals(each)
    elif isinstance(told, dict):
        for name, part in told.items():
            if name == "xds":
                continue
            if name == "status":
                about = f"{told.get('kind', '?')} {told.get('metadata', {}).get('name', '?')}"
                yield from (f"{about}: {each}" for each in _untrue(part))
            else:
                yield from refusals(part)


def _untrue(status: Any) -> Iterator[str]:
    if isinstance(status, list):
        for each in status:
            yield from _untrue(each)
    elif isinstance(status, dict):
        if "type" in status and status.get("status") not in {None, "True"}:
            yield f"{status['type']} is {status['status']}: {status.get('message', '')}"
        for part in status.values():
            yield from _untrue(part)


def _resources(dump: Sequence[Document], *path: str) -> Iterator[Document]:
    """Yield what lies under a path of names in any list of a dump of Envoy's configuration."""
    for config in dump:
        for entries in config.values():
            for each in entries if isinstance(entries, list) else ():
                if path[0] in each:
                    found = each
                    for name in path:
                        found = found[name]
                    yield {name: part for name, part in found.items() if name != "@type"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
