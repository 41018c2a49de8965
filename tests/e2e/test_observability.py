"""What dashboards, alerts and the log's schema say, held against processes that run."""

import asyncio
import json
import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterator

import fastjsonschema
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.http_client import HttpClient
from lab.servers import ROOT, ask_tcp, eventually
from lab.stack import Options, Stack
from tests.unit.test_observability import queries, rules

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PROCESSES = ("authz", "ship-a", "ship-b", "consume", "ingest", "deliver", "sync")
SCRAPED = {"instance", "job"}  # Labels that Prometheus adds.
Exported = dict[str, set[str] | None]  # A metric → its labels; None: it has no value yet.


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(Options(catalog=ROOT / "catalog.example.yaml")) as started:
        yield started


async def test_every_metric_and_label_that_is_asked_for_is_exported(stack: Stack) -> None:
    async with HttpClient(stack.url, api_key="nobody's") as client:
        await client.get("/v1/anything")  # A refusal: it is counted, and logged.
    await eventually(lambda: b"aforo_consume_lag_records{" in page(stack, "consume"), every_s=0.5)
    exported: Exported = {}
    for process in PROCESSES:
        exported |= metrics_of(page(stack, process).decode())
    exported |= await asyncio.to_thread(exported_by_envoy, stack)

    for query in [*queries(), *(rule["expr"] for rule in rules())]:
        for name, labels in asked_by(query).items():
            assert name in exported, f"nobody exports {name}: {query}"
            known = exported[name]
            assert known is None or labels <= known | SCRAPED, f"{name} has {known}: {query}"


def test_each_process_says_who_it_is_and_what_time_it_has(stack: Stack) -> None:
    for process in PROCESSES:
        text = page(stack, process).decode()
        kind = process.partition("-")[0]
        assert re.search(rf'^aforo_build_info{{process="{kind}",version=', text, re.MULTILINE)
        assert re.search(r"^date: \w+, \d\d \w+ \d{4} [\d:]{8} GMT\r$", text, re.MULTILINE)


def test_every_line_of_every_process_is_of_the_one_schema(stack: Stack) -> None:
    valid = fastjsonschema.compile(json.loads((ROOT / "docs" / "log.schema.json").read_text()))
    ours = [program for program in stack.programs if program.name in PROCESSES]
    kinds: dict[str, set[str]] = defaultdict(set)

    assert len(ours) == len(PROCESSES)
    for program in ours:
        lines = program.log_text().splitlines()
        assert lines, program.name
        for line in lines:
            for field, value in valid(json.loads(line)).items():
                kinds[field].add(type(value).__name__)
    assert kinds["event"] == kinds["timestamp"] == {"str"}


def page(stack: Stack, process: str) -> bytes:
    request = b"GET /metrics HTTP/1.0\r\n\r\n"
    return ask_tcp(stack.ports[process], request, bytes_max=1 << 20)


def exported_by_envoy(stack: Stack) -> Exported:
    """By hand: Prometheus' own parser for Python calls counters `…_total`, and Envoy does not."""
    url = f"http://127.0.0.1:{stack.envoy.admin_port}/stats/prometheus"
    with urllib.request.urlopen(url) as answer:
        text = answer.read().decode()
    found: Exported = {}
    for name, labels in re.findall(r"^(envoy_\w+){(.*)} \S+$", text, re.MULTILINE):
        found[name] = (found.get(name) or set()) | set(re.findall(r'(\w+)="', labels))
    return found


def metrics_of(text: str) -> Exported:
    found: Exported = {}
    for family in text_string_to_metric_families(text.partition("\r\n\r\n")[2]):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        for suffix in suffixes.get(family.type, [""]):
            found.setdefault(family.name + suffix, None)
        for sample in family.samples:
            found[sample.name] = (found.get(sample.name) or set()) | set(sample.labels)
    return found


def asked_by(query: str) -> dict[str, set[str]]:
    """Return a query's metrics, and the labels that it matches or sums by; of a query with several
    metrics those that it sums by are asked of each where it stands."""
    parts = re.split(r"\b(?:or|and|unless)\b|[-+/*]", query)
    asked: dict[str, set[str]] = {}
    for part in parts:
        by = {
            name.strip()
            for group in re.findall(r"\bby \(([^)]*)\)", part)
            for name in group.split(",")
        }
        for name in re.findall(r"\b(?:aforo|envoy)_\w+", part):
            asked.setdefault(name, set()).update(by)
        for name, matchers in re.findall(r"\b((?:aforo|envoy)_\w+){([^}]*)}", part):
            asked[name] |= set(re.findall(r"(\w+)\s*[!=]", matchers))
    assert asked or query.startswith("up{"), query  # `up` is Prometheus' own.
    promql_parser.parse(query)
    return asked
