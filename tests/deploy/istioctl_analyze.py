"""What `istioctl analyze` says of the overlay and of its mesh.

    make istioctl-analyze

It needs Go. Warnings count as faults. Without a cluster Istio skips the analyzers that look for
pods and Services, and hardly looks at the mesh's configuration; what is left judges each resource.
So that its silence means something, each of `WRONG` is analyzed too, and must be complained of.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Final

import yaml

from tests.deploy.control_planes import mesh_config
from tests.deploy.rendering import Document, rendered

# Said of every EnvoyFilter: Istio may change what it patches. Record 27 says why there is one.
EXPECTED: Final = "IST0133=EnvoyFilter istio-ingress/aforo"

Edit = Callable[[dict[str, Document]], None]


def _no_provider(by_kind: dict[str, Document]) -> None:
    del by_kind["AuthorizationPolicy"]["spec"]["provider"]


def _no_such_patch(by_kind: dict[str, Document]) -> None:
    by_kind["EnvoyFilter"]["spec"]["configPatches"][0]["applyTo"] = "NOTHING"


def _no_value(by_kind: dict[str, Document]) -> None:
    del by_kind["EnvoyFilter"]["spec"]["configPatches"][0]["patch"]["value"]


def _no_host(by_kind: dict[str, Document]) -> None:
    by_kind["DestinationRule"]["spec"]["host"] = "*.*"


WRONG: Final[Mapping[str, Edit]] = {
    "a policy without its provider": _no_provider,
    "a patch of nothing": _no_such_patch,
    "a patch without its value": _no_value,
    "a rule for no host": _no_host,
}


def main(arguments: Sequence[str]) -> int:
    (program,) = arguments
    resources = rendered("istio")
    mesh = mesh_config()
    code, said = analyzed(program, resources, mesh)
    sys.stdout.write(said)
    for what, edit in WRONG.items():
        wrong = deepcopy(list(resources))
        edit({each["kind"]: each for each in wrong})
        if analyzed(program, wrong, mesh)[0] == 0:
            sys.stderr.write(f"{what}: Istio says nothing of it\n")
            code = 1
    return code


def analyzed(program: str, resources: Sequence[Document], settings: Document) -> tuple[int, str]:
    """Return the exit code, 0 for no fault, and what was said."""
    with tempfile.TemporaryDirectory() as home:
        manifests, mesh = Path(home, "manifests.yaml"), Path(home, "mesh.yaml")
        manifests.write_text(yaml.safe_dump_all(resources))
        mesh.write_text(yaml.safe_dump(settings))
        done = subprocess.run(
            [
                *(program, "analyze", "--use-kube=false", "--all-namespaces", "--color=false"),
                *("--suppress", EXPECTED, "--failure-threshold", "Warning"),
                *("--meshConfigFile", str(mesh), str(manifests)),
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
