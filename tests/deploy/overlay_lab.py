"""The Envoy configuration that an overlay leads to, with every real process of Aforo around it.

Only what a machine without a cluster must change is changed: where each listens, and how long
is waited for an answer, since the cores here are shared. Settings come from the manifests.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.tenants import catalog
from lab.servers import ROOT, scratch_dir
from lab.stack import Options, Stack
from tests.deploy.control_planes import as_envoy_gateway, as_istio
from tests.deploy.rendering import Document, containers_of, pod_of, rendered

RECEIVERS = ("als-a", "als-b")
HERE = ("_LISTEN", "_SPOOL_DIR")  # Settings that name a place, which is another one here.


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """What differs between overlays, for a request."""

    name: str
    edit: Callable[[Document], None] = lambda _: None  # What a control plane makes of `source`.
    source: Callable[[Path], Path] = lambda _: ROOT / "envoy" / "aforo.yaml"
    authz: str = "aforo-authz"  # The container that decides.
    tcp: Collection[str] = RECEIVERS
    reroutes: bool = False  # A throttled call goes to another upstream.
    reads_streams: bool = False
    asks_for_usage: bool = False  # Of streams that would not tell it.


def shipped(name: str) -> Callable[[Path], Path]:
    """Return what writes the configuration of an overlay's ConfigMap into a folder."""

    def write(home: Path) -> Path:
        texts = [d["data"]["envoy.yaml"] for d in rendered(name) if "envoy.yaml" in data_of(d)]
        (text,) = texts
        path = home / "config-map.yaml"
        path.write_text(text)
        return path

    return write


def data_of(document: Document) -> Document:
    data: Document = document.get("data", {}) if document["kind"] == "ConfigMap" else {}
    return data


def sidecar(name: str) -> Overlay:
    return Overlay(
        name=name, source=shipped(name), reroutes=True, reads_streams=True, asks_for_usage=True
    )


OVERLAYS = (
    sidecar("envoy-sidecar"),
    sidecar("sidecar-plain"),
    Overlay(name="istio", edit=as_istio, authz="authz", tcp=("authz", *RECEIVERS)),
    Overlay(name="envoy-gateway", edit=as_envoy_gateway, reads_streams=True),
)


def leads_to_an_envoy(name: str) -> bool:
    """Say whether an overlay has something that configures an Envoy."""
    kinds = {"EnvoyFilter", "EnvoyProxy"}
    return any(d["kind"] in kinds or "envoy.yaml" in data_of(d) for d in rendered(name))


def stack_of(overlay: Overlay) -> Stack:
    """Return all of it, not yet started."""

    def edit(document: Document) -> None:
        without_stats(document)
        overlay.edit(document)

    home = scratch_dir("overlay")
    path = home / "catalog.yaml"
    path.write_text(catalog())
    return Stack(
        Options(
            catalog=path,
            home=home,
            control=True,
            envoy_config=overlay.source(home),
            envoy_edit=edit,
            patient=True,
            tcp=overlay.tcp,
            authz_env=settings_of(overlay.name, overlay.authz),
            ship_env=settings_of("prod", "ship"),
            consume_env=settings_of("prod", "consume"),
            deliver_env=settings_of("prod", "deliver"),
            sync_env=settings_of("prod", "sync"),
        )
    )


def settings_of(overlay: str, container: str) -> dict[str, str]:
    """Return the settings that a container's manifest spells out, but for places."""
    found = [each for each in _containers(overlay) if each["name"] == container]
    found = found or [each for each in _containers("prod") if each["name"] == container]
    (env,) = (each["env"] for each in found)
    return {
        each["name"]: each["value"]
        for each in env
        if "value" in each and not each["name"].endswith(HERE)
    }


def _containers(overlay: str) -> Iterator[Document]:
    for document in rendered(overlay):
        pod = pod_of(document)
        if document["kind"] == "EnvoyProxy":
            kubernetes = document["spec"]["provider"]["kubernetes"]
            pod = kubernetes["envoyDeployment"]["patch"]["value"]["spec"]["template"]
        if pod is not None:
            yield from containers_of(pod)


def listeners_of(document: Document) -> list[Document]:
    found: list[Document] = document["static_resources"]["listeners"]
    return found


def without_stats(document: Document) -> None:
    """Take out where Prometheus reads: its port is this machine's. test_envoy_stats reads it."""
    listeners = listeners_of(document)
    listeners[:] = [each for each in listeners if each["name"] != "stats"]
