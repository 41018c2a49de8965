"""The collector's configuration, in a real OpenTelemetry Collector: `make otelcol` builds one."""

import os
from pathlib import Path

import pytest
import yaml

from lab.ports import free_port
from lab.servers import ROOT, Program, accepts_tcp, eventually
from tests.e2e.authz_lab import fill, ready, running
from tests.otlp_receiver import Span, over_http

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONFIGURATION = ROOT / "ops" / "observability" / "otel" / "collector.yaml"
CALLS = 20


@pytest.fixture
def collector() -> Path:
    found = Path(os.environ.get("AFORO_TEST_OTELCOL", ROOT / "build" / "otelcol" / "otelcol"))
    if not found.exists():
        pytest.skip("no OpenTelemetry Collector: make otelcol (needs Go), or AFORO_TEST_OTELCOL")
    return found


@pytest.fixture
def ports(tmp_path: Path) -> tuple[int, Path]:
    """Ports of this test, in a file that is laid over the configuration; and nothing at 8888."""
    http, grpc = free_port(), free_port()
    over = {
        "receivers": {
            "otlp": {
                "protocols": {
                    "http": {"endpoint": f"127.0.0.1:{http}"},
                    "grpc": {"endpoint": f"127.0.0.1:{grpc}"},
                }
            }
        },
        "service": {"telemetry": {"metrics": {"level": "none"}}},
    }
    path = tmp_path / "ports.yaml"
    path.write_text(yaml.safe_dump(over))
    return http, path


async def test_what_was_blocked_reaches_the_store_without_the_tenants_name(
    collector: Path, ports: tuple[int, Path], redis_url: str, tmp_path: Path
) -> None:
    port, over = ports
    with over_http() as store:
        program = Program(
            "otelcol",
            [str(collector), "--config", str(CONFIGURATION), "--config", str(over)],
            env={"TRACES_ENDPOINT": store.url, "TRACES_AUTHORIZATION": "Bearer s3cret"},
            ready=lambda: accepts_tcp(port),
            log_dir=tmp_path,
        )
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        fill(redis_url, quota_limit=1).close()
        with program, running(redis_url, **settings) as (_, client):
            await ready(client)
            reasons = [client.reason() for _ in range(CALLS)]
            blocked = sum(reason != "allowed" for reason in reasons)
            assert blocked >= CALLS - 1
            await eventually(lambda: len(blocked_of(store.spans)) == blocked)

        spans = blocked_of(store.spans)
        assert all(span.service == "aforo-authz" for span in spans)
        assert not {"acme"} & {span.attributes["aforo.tenant"] for span in spans}
        assert b"acme" not in store.raw
        assert {each["authorization"] for each in store.requests} == {"Bearer s3cret"}
        assert "error" not in program.log_text()


def blocked_of(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.attributes.get("aforo.decision") == "block"]
