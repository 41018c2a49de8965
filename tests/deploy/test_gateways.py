"""The Envoy configurations that overlays lead to, in a real Envoy.

Of control planes: what their own code makes of our resources; see `control_planes.py`.
"""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.json_format import MessageToDict
from hyperframe.frame import DataFrame, SettingsFrame, WindowUpdateFrame

from aforo_authz.server import TcpAddress
from aforo_meter.access_log import Event, Reader, StreamReader
from aforo_meter.domain.metering import Applied, Metering, built_in_rules
from aforo_meter.domain.tokens import ReportedTokens
from aforo_meter.event_reading import EventReader
from aforo_meter.llm_metadata import llm_call
from aforo_proto.access_log_pb2 import Metadata
from aforo_proto.usage_pb2 import UsageEvent
from lab.envoy import envoy_binary
from lab.servers import eventually
from tests.contract.envoy_lab import EnvoyLab, authz_metadata, envoy_lab, http_filters
from tests.contract.http2_client import Http2Client
from tests.deploy.control_planes import (
    as_envoy_gateway,
    as_istio,
    mesh_config,
    translation,
)
from tests.deploy.patches import nodes, plain
from tests.deploy.rendering import ROOT, rendered

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

ROOM_BYTES = 16 * 1024 * 1024
COMPLETION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    return [document for document in rendered(overlay) if document["kind"] == kind]


@pytest.fixture(params=["istio", "envoy-gateway"])
def plane(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def made_by(plane: str, document: dict[str, Any]) -> None:
    if plane == "istio":
        as_istio(document)
    else:
        as_envoy_gateway(document)


@pytest_asyncio.fixture(loop_scope="module")
async def lab(plane: str) -> AsyncIterator[EnvoyLab]:
    async with envoy_lab(edit=lambda document: made_by(plane, document)) as running:
        yield running


@pytest.mark.parametrize("name", ["envoy-sidecar", "sidecar-plain"])
async def test_envoy_accepts_the_configuration_of_a_config_map(name: str, tmp_path: Path) -> None:
    texts = [
        d["data"]["envoy.yaml"] for d in of_kind(name, "ConfigMap") if "envoy.yaml" in d["data"]
    ]
    assert len(texts) == 1
    path = tmp_path / "envoy.yaml"
    path.write_text(texts[0])
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop.
        [str(envoy_binary()), "--mode", "validate", "-c", str(path), "--log-level", "error"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


async def test_what_prometheus_reads_of_envoy_gateways_proxies_is_a_port_of_theirs() -> None:
    (proxy,) = of_kind("envoy-gateway", "EnvoyProxy")
    patch = proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]["patch"]["value"]
    (beside,) = patch["spec"]["template"]["spec"]["initContainers"]
    (monitor,) = (
        d for d in of_kind("prod", "PodMonitor") if d["metadata"]["name"] == "envoy-gateway"
    )
    (gateway,) = of_kind("envoy-gateway", "Gateway")

    read = [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]]
    ours = [port["name"] for port in beside["ports"]]
    # Envoy Gateway gives its own container the port `metrics`.
    assert read == [*ours, "metrics"]
    assert gateway["metadata"]["name"] in monitor["spec"]["selector"]["matchLabels"].values()


async def test_what_selects_istios_gateway_is_where_its_pods_are_and_not_in_the_root() -> None:
    """In the root namespace it would be about pods of every namespace."""
    selecting = [d for d in rendered("istio") if d["kind"] != "DestinationRule"]
    selected = [
        d["spec"].get("selector", {}).get("matchLabels") or d["spec"]["workloadSelector"]["labels"]
        for d in selecting
    ]
    readme = (ROOT / "k8s" / "overlays" / "istio" / "README.md").read_text()

    (namespace,) = {d["metadata"]["namespace"] for d in selecting}
    assert len(selecting) == 2
    assert all(labels == selected[0] for labels in selected)
    assert namespace != "istio-system"
    assert f"kubectl label namespace {namespace} aforo/gateway=true" in readme


async def test_a_gateway_asks_and_the_log_has_the_decision_and_the_tokens(
    lab: EnvoyLab,
) -> None:
    path = lab.unique("/v1/chat/completions")
    answer = await lab.client.post(path, COMPLETION)

    assert answer.status == 200
    assert dict(answer.headers)["x-aforo-decision"] == "allow"
    # Receivers are asked by turns, as endpoints of one Service are.
    await eventually(lambda: lab.log.about(path) or lab.backup.about(path))
    (entry,) = lab.log.about(path) + lab.backup.about(path)
    # Under this name whatever the filter is called: ship looks there.
    assert authz_metadata(entry)["tenant"] == "acme"
    used = MessageToDict(entry.common_properties.metadata.filter_metadata["aforo.usage"])
    assert used["provider"] == "openai"
    assert used["input_tokens"] > 0
    assert used["output_tokens"] > 0


# As each provider can tell it: OpenAI has no count of what was put into a cache, Anthropic none of
# reasoning, Gemini's thoughts stand beside its output.
USED = {"input": 11, "cached": 40, "cache_creation": 7, "output": 20, "reasoning": 5}
OF_OPENAI = ReportedTokens(
    input_tokens=58, cached_input_tokens=40, output_tokens=25, reasoning_tokens=5
)
OF_ANTHROPIC = ReportedTokens(
    input_tokens=58, cached_input_tokens=40, cache_creation_tokens=7, output_tokens=25
)
CALLS = {
    "/v1/chat/completions": ("openai", OF_OPENAI),
    "/v1/responses": ("openai", OF_OPENAI),
    "/v1/messages": ("anthropic", OF_ANTHROPIC),
    "/v1beta/models/gemini-2.5-pro:generateContent": ("google", OF_OPENAI),
    "/v1beta/models/gemini-2.5-pro:streamGenerateContent": ("google", OF_OPENAI),
}


# Gemini says in the path whether it streams. Istio's build of Envoy has nothing that reads streams.
READ = [
    (plane, call, stream)
    for call in CALLS
    for stream in ([call.endswith(":streamGenerateContent")] if ":" in call else [False, True])
    for plane in (["envoy-gateway"] if stream else ["istio", "envoy-gateway"])
]


@pytest.mark.parametrize(("plane", "call", "stream"), READ)
async def test_ship_reads_the_tokens_of_every_provider(
    lab: EnvoyLab, call: str, *, stream: bool
) -> None:
    provider, expected = CALLS[call]
    path = lab.unique(call)
    body = COMPLETION | {"x_lab_usage": USED, "stream": stream}
    answer = await lab.client.post(path, body | {"stream_options": {"include_usage": True}})
    assert answer.status == 200
    await eventually(lambda: lab.log.about(path) or lab.backup.about(path))
    (entry,) = lab.log.about(path) + lab.backup.about(path)

    found = llm_call(Metadata.FromString(entry.common_properties.metadata.SerializeToString()))

    assert (found.provider, found.tokens) == (provider, expected)
    assert found.model


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON ;charset=x"])
async def test_tokens_are_read_of_an_answer_that_names_its_charset(
    lab: EnvoyLab, kind: str
) -> None:
    path = lab.unique("/v1/chat/completions")
    body = COMPLETION | {"x_lab_usage": USED, "x_lab_headers": {"content-type": kind}}
    answer = await lab.client.post(path, body)
    assert answer.header("content-type") == kind
    await eventually(lambda: lab.log.about(path) or lab.backup.about(path))
    (entry,) = lab.log.about(path) + lab.backup.about(path)

    found = llm_call(Metadata.FromString(entry.common_properties.metadata.SerializeToString()))

    assert found.tokens == OF_OPENAI


async def test_a_long_answer_comes_whole_to_a_caller_of_http_2(lab: EnvoyLab) -> None:
    """A filter holds it back, in no more than a stream of the listener may have."""
    call = json.dumps(COMPLETION | {"x_lab_words": 200_000}).encode()
    client = await Http2Client.connect(TcpAddress("127.0.0.1", lab.envoy.port("ingress")))
    client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: ROOM_BYTES}))
    client.send(WindowUpdateFrame(0, window_increment=ROOM_BYTES))
    names = (":method", ":scheme", ":path", ":authority", "x-api-key")
    values = ("POST", "http", "/v1/chat/completions", "aforo", "key")
    headers = client.headers_frame(list(zip(names, values, strict=True)))
    client.send(headers, DataFrame(headers.stream_id, data=call, flags=["END_STREAM"]))
    answer = await client.answer(headers.stream_id)
    await client.close()

    assert answer.headers[":status"] == "200"
    assert len(answer.body) > 900_000
    assert json.loads(answer.body)["usage"]


@pytest.mark.parametrize("count", [0.5, -100, 1e30])
async def test_who_has_an_api_say_tokens_that_are_none_is_charged_the_call(
    lab: EnvoyLab, count: float
) -> None:
    path = lab.unique("/mirror")
    written = {"usage": {"prompt_tokens": count, "completion_tokens": 1}}
    answer = await lab.client.post(path, written)
    assert answer.json() == written
    await eventually(lambda: lab.log.about(path) or lab.backup.about(path))
    (entry,) = lab.log.about(path) + lab.backup.about(path)
    rules = built_in_rules(unmetered_paths=frozenset(), unmetered_statuses=frozenset())
    reader = StreamReader(Reader(EventReader(Applied(Metering(rules=rules)))))
    told = StreamAccessLogsMessage()
    told.http_logs.log_entry.append(entry)

    (reading,) = reader.read(told.SerializeToString())

    assert isinstance(reading, Event)
    meters = {one.meter for one in UsageEvent.FromString(reading.value).measures}
    assert meters == {"api.calls", "bytes.request", "bytes.response"}
    assert reader.counts["tokens_unreadable", ""] == 1


async def test_no_client_speaks_with_aforos_voice(lab: EnvoyLab) -> None:
    headers = [("X-Aforo-Tenant", "other"), ("x-envoy-auth-failure-mode-allowed", "true")]
    answer = await lab.client.send("GET", "/echo", headers=headers)

    seen = dict(answer.json()["headers"])
    assert seen["x-aforo-tenant"] == "acme"
    (check,) = lab.authz.requests
    asked = check.attributes.request.http.headers
    assert not [name for name in asked if name.startswith(("x-aforo-", "x-envoy-auth-"))]
    refused = await lab.client.get("/a%2Fb")
    assert refused.status == 400


async def test_a_connection_that_no_request_comes_of_is_no_usage() -> None:
    """Envoy Gateway logs at the listener too, and of connections that no filter chain took."""

    def for_one_name_alone(document: dict[str, Any]) -> None:
        made_by("envoy-gateway", document)
        (listener,) = document["static_resources"]["listeners"]
        (chain,) = listener["filter_chains"]
        chain["filter_chain_match"] = {"server_names": ["a.example"]}
        inspector = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
        listener["listener_filters"] = [
            {
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": {"@type": f"type.googleapis.com/{inspector}"},
            }
        ]

    async with envoy_lab(edit=for_one_name_alone) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.envoy.port("ingress"))
        writer.write(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
        await eventually(lambda: running.log.entries or running.backup.entries)
        (entry,) = running.log.entries + running.backup.entries
        writer.close()

    assert entry.response.response_code_details == "filter_chain_not_found"
    reader = StreamReader(Reader(EventReader(Applied(Metering(rules=())))))
    told = StreamAccessLogsMessage()
    told.http_logs.log_entry.append(entry)
    assert reader.read(told.SerializeToString()) == []


async def test_a_gateway_passes_what_nobody_decides(lab: EnvoyLab) -> None:
    answer = await lab.client.get("/echo", headers={"x-lab-outcome": "abort"})

    assert answer.status == 200


async def test_a_refusal_reaches_the_caller(lab: EnvoyLab) -> None:
    answer = await lab.client.get("/echo", headers={"x-lab-outcome": "deny"})

    assert answer.status == 429
    assert "Margin Limit Exceeded" in answer.text


# As a value to merge, or as one to add at a path. No translation has it, since false is nothing.
SHADOW_MODE = re.compile(r'"shadow_mode": (\w+)|"path": "/shadow_mode", "value": (\w+)')


async def test_one_word_lets_everybody_pass_while_all_is_asked_and_logged(plane: str) -> None:
    def shadow(document: dict[str, Any]) -> None:
        made_by(plane, document)
        (check,) = (
            each["typed_config"]
            for each in http_filters(document)
            if each["name"].startswith("envoy.filters.http.ext_authz")
        )
        check["shadow_mode"] = True

    ((merged, added),) = SHADOW_MODE.findall(json.dumps(rendered(plane)))
    assert (merged or added) == "false", "what a README says to change"
    async with envoy_lab(edit=shadow) as running:
        path = running.unique("/echo")
        answer = await running.client.get(path, headers={"x-lab-outcome": "deny"})

        assert answer.status == 200
        assert len(running.authz.requests) == 1
        await eventually(lambda: running.log.about(path) or running.backup.about(path))


async def test_istios_policy_names_the_provider_of_its_mesh_and_a_service_that_is_there() -> None:
    (policy,) = of_kind("istio", "AuthorizationPolicy")
    (provider,) = mesh_config()["extensionProviders"]
    asked = provider["envoyExtAuthzGrpc"]

    assert policy["spec"]["provider"]["name"] == provider["name"]
    assert_serves(asked["service"].split(".")[0], asked["port"])
    assert asked["service"].endswith(".aforo.svc.cluster.local")
    assert "timeout" in asked  # Istio's own is ten minutes.


async def test_istios_gateway_logs_to_a_service_that_is_there_and_is_sent() -> None:
    """A mesh may send a gateway only the clusters that its routes, or an annotation, name."""
    (envoy_filter,) = of_kind("istio", "EnvoyFilter")
    sent = envoy_filter["metadata"]["annotations"]["envoyfilter.istio.io/referenced-services"]
    named = istios_log()["common_config"]["grpc_service"]["envoy_grpc"]
    _, port, _, host = named["cluster_name"].split("|")

    assert_serves(host.split(".")[0], int(port))
    assert named["authority"] == host
    assert sent == f"aforo/{host}"


async def test_istios_rules_for_destinations_are_about_what_is_asked_and_logged_to() -> None:
    hosts = {rule["spec"]["host"] for rule in of_kind("istio", "DestinationRule")}
    (provider,) = mesh_config()["extensionProviders"]
    receiver = istios_log()["common_config"]["grpc_service"]["envoy_grpc"]["authority"]

    assert hosts == {provider["envoyExtAuthzGrpc"]["service"], receiver}


def istios_log() -> Any:
    (envoy_filter,) = of_kind("istio", "EnvoyFilter")
    values = [each["patch"]["value"] for each in envoy_filter["spec"]["configPatches"]]
    (log,) = (
        log["typed_config"]
        for value in values
        for log in value.get("typed_config", {}).get("access_log", ())
    )
    return log


async def test_envoy_gateway_sends_its_log_to_a_service_that_is_there_and_may_be_named() -> None:
    (proxy,) = of_kind("envoy-gateway", "EnvoyProxy")
    (grant,) = of_kind("envoy-gateway", "ReferenceGrant")
    (gateway,) = of_kind("envoy-gateway", "Gateway")
    sink = proxy["spec"]["telemetry"]["accessLog"]["settings"][0]["sinks"][0]["als"]
    (backend,) = sink["backendRefs"]

    assert_serves(backend["name"], backend["port"])
    assert grant["metadata"]["namespace"] == backend["namespace"] == "aforo"
    assert [each["name"] for each in grant["spec"]["to"]] == [backend["name"]]
    assert grant["spec"]["from"][0]["namespace"] == proxy["metadata"]["namespace"]
    assert gateway["spec"]["infrastructure"]["parametersRef"]["name"] == proxy["metadata"]["name"]


async def test_the_sidecar_of_envoy_gateway_is_the_component_at_the_backends_socket() -> None:
    (proxy,) = of_kind("envoy-gateway", "EnvoyProxy")
    (backend,) = of_kind("envoy-gateway", "Backend")
    patch = proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]["patch"]["value"]
    pod = patch["spec"]["template"]["spec"]
    (ours,) = pod["initContainers"]
    (deployment,) = of_kind("envoy-sidecar", "Deployment")
    (component,) = deployment["spec"]["template"]["spec"]["initContainers"]

    assert ours == component
    listened = {each["name"]: each.get("value") for each in ours["env"]}["AFORO_AUTHZ_LISTEN"]
    assert listened == f"unix:{backend['spec']['endpoints'][0]['unix']['path']}"
    assert pod["enableServiceLinks"] is False


async def test_gateways_log_what_our_own_configuration_logs_and_as_soon() -> None:
    source = yaml.safe_load((ROOT / "envoy" / "aforo.yaml").read_text())
    hcm = source["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    own = hcm["typed_config"]["access_log"][0]["typed_config"]
    istio = istios_log()
    (proxy,) = of_kind("envoy-gateway", "EnvoyProxy")
    http = proxy["spec"]["telemetry"]["accessLog"]["settings"][0]["sinks"][0]["als"]["http"]

    assert own["additional_request_headers_to_log"] == http["requestHeaders"]
    assert own["additional_response_headers_to_log"] == http["responseHeaders"]
    assert own["additional_response_trailers_to_log"] == http["responseTrailers"]
    for name in (
        "additional_request_headers_to_log",
        "additional_response_headers_to_log",
        "additional_response_trailers_to_log",
    ):
        assert istio[name] == own[name]
    for plane in ("istio", "envoy-gateway"):
        for name in ("buffer_flush_interval", "buffer_size_bytes"):
            assert translated_logs(plane)[name] == own["common_config"][name]


def translated_logs(plane: str) -> Any:
    found = [
        node["common_config"]
        for node in nodes(plain(translation(plane)))
        if isinstance(node, dict) and "common_config" in node
    ]
    assert found
    assert all(each == found[0] for each in found)
    return found[0]


async def test_kafka_of_strimzi_has_room_for_every_consumer_and_copies_enough() -> None:
    topics = {each["metadata"]["name"]: each["spec"] for each in of_kind("strimzi", "KafkaTopic")}
    (scaled,) = of_kind("strimzi", "ScaledObject")
    (pool,) = of_kind("strimzi", "KafkaNodePool")

    assert scaled["spec"]["maxReplicaCount"] <= topics["aforo.usage.v1"]["partitions"]
    for topic in topics.values():
        assert (
            topic["config"]["min.insync.replicas"] < topic["replicas"] <= pool["spec"]["replicas"]
        )


def assert_serves(name: str, port: int) -> None:
    services = {d["metadata"]["name"]: d["spec"]["ports"] for d in of_kind("prod", "Service")}
    assert port in [each["port"] for each in services[name]], f"{name}:{port}"
