"""What Prometheus reads of Envoys: each figure that alerts and dashboards name is there."""

import asyncio
import re
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.envoy_lab import EnvoyLab, envoy_lab
from tests.deploy.control_planes import as_envoy_gateway, as_istio, mesh_config
from tests.deploy.overlay_lab import shipped
from tests.deploy.rendering import rendered
from tests.unit.test_observability import queries, rules

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

UNDECIDED = "envoy_http_ext_authz_failure_mode_allowed"
TOO_SLOW_S = 2.0  # Longer than is shipped: a busy machine may be late with a decision.
WANTED = {
    name
    for query in [*queries(), *(rule["expr"] for rule in rules())]
    for name in re.findall(r"\benvoy_\w+", query)
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EnvoyLab]:
    path = shipped("envoy-sidecar")(tmp_path_factory.mktemp("stats"))
    async with envoy_lab(config=path, more_listeners=("stats",), check_s=TOO_SLOW_S) as running:
        yield running


def asked(lab: EnvoyLab, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{lab.envoy.port('stats')}{path}", method=method
    )
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


async def read(lab: EnvoyLab) -> dict[str, float]:
    _, text = await asyncio.to_thread(asked, lab, "/stats/prometheus")
    return sums_of(text)


def sums_of(text: str) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    # By hand: Prometheus' own parser for Python calls counters `…_total`, and Envoy does not.
    for name, value in re.findall(r"^(envoy_\w+){[^}]*} ([0-9.]+)$", text, re.MULTILINE):
        sums[name] += float(value)
    return sums


async def test_figures_of_alerts_and_dashboards_are_there_before_anything_happened(
    lab: EnvoyLab,
) -> None:
    """Else the first call that nobody decides would raise no rate."""
    figures = await read(lab)

    assert UNDECIDED in WANTED
    assert sorted(WANTED - figures.keys()) == []


@pytest.mark.parametrize("outcome", ["abort", "too-slow"])
async def test_a_call_that_nobody_decides_is_counted(lab: EnvoyLab, outcome: str) -> None:
    before = await read(lab)
    answer = await lab.client.get(lab.unique("/v1/x"), headers={"x-lab-outcome": outcome})
    after = await read(lab)

    assert answer.status == 200
    assert after[UNDECIDED] - before[UNDECIDED] == 1


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/", "GET"),
        ("/stats", "GET"),
        ("/config_dump", "GET"),
        ("/stats/prometheus/../../config_dump", "GET"),
        ("/stats/prometheus/..%2f..%2fconfig_dump", "GET"),
        ("/quitquitquit", "POST"),
        ("/stats/prometheus", "POST"),
    ],
)
async def test_nothing_else_of_the_administration_is_shown(
    lab: EnvoyLab, path: str, method: str
) -> None:
    status, _ = await asyncio.to_thread(asked, lab, path, method)

    assert status in {400, 404}
    assert (await asyncio.to_thread(asked, lab, "/stats/prometheus"))[0] == 200


# Of Istio's bootstrap, which tags by rules of its own and shows what it is told to.
ISTIO_TAGS = [
    {"tag_name": "cluster_name", "regex": r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)"},
    {
        "tag_name": "http_conn_manager_prefix",
        "regex": r"^http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    },
]


def of_istio(document: dict[str, Any]) -> None:
    as_istio(document)
    shown = mesh_config()["defaultConfig"]["proxyStatsMatcher"]["inclusionRegexps"]
    document["stats_config"] = {
        "use_all_default_tags": False,
        "stats_tags": ISTIO_TAGS,
        "stats_matcher": {
            "inclusion_list": {"patterns": [{"safe_regex": {"regex": each}} for each in shown]}
        },
    }


def relabelled(name: str, monitor: str) -> str:
    """Return a metric's name as the endpoint of a PodMonitor stores it; empty: not at all."""
    (found,) = (
        each
        for each in rendered("prod")
        if each["kind"] == "PodMonitor" and each["metadata"]["name"] == monitor
    )
    for step in found["spec"]["podMetricsEndpoints"][-1].get("metricRelabelings", ()):
        fits = re.fullmatch(step["regex"], name)
        if step.get("action") == "keep" and not fits:
            return ""
        if step.get("targetLabel") == "__name__" and fits:
            name = step["replacement"].replace("$1", fits[1])
    return name


@pytest.mark.parametrize(
    ("edit", "monitor"), [(of_istio, "istio-gateway"), (as_envoy_gateway, "envoy-gateway")]
)
async def test_the_same_figures_come_of_gateways_that_others_configure(
    edit: Callable[[dict[str, Any]], None], monitor: str
) -> None:
    async with envoy_lab(edit=edit) as lab:
        await lab.client.get(lab.unique("/v1/x"), headers={"x-lab-outcome": "abort"})
        url = f"http://127.0.0.1:{lab.envoy.admin_port}/stats/prometheus"
        answer = await asyncio.to_thread(urllib.request.urlopen, url)
        told = sums_of(answer.read().decode())
    stored: dict[str, float] = defaultdict(float)
    for name, value in told.items():
        stored[relabelled(name, monitor)] += value

    assert sorted(WANTED - stored.keys()) == []
    assert stored[UNDECIDED] == 1
