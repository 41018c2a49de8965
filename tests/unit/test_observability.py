"""Dashboards, alert rules and documents agree with each other, and are what their tools take."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from lab.servers import ROOT
from ops.observability import dashboards, operator
from ops.observability.shown import DASHBOARDS
from tests.alert_rules import CASES, script

RULES = ROOT / "ops" / "observability" / "prometheus" / "alerts.yaml"
OPERATIONS = ROOT / "docs" / "operations.md"
KNOWN = {"alert", "expr", "for", "labels", "annotations"}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def names_of(each: Any) -> str:  # noqa: ANN401 - a rule, or what pytest makes of it
    return str(each["alert"]) if isinstance(each, dict) else str(each)


def sections() -> dict[str, str]:
    """Return what docs/operations.md says under the name of each alert."""
    parts = re.split(r"^### (Aforo\w+)\n", OPERATIONS.read_text(), flags=re.MULTILINE)
    return {
        name: re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def queries() -> Iterator[str]:
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            yield from (query for query, _ in panel.queries)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_dashboards_are_what_their_code_makes(dashboard: dashboards.Dashboard) -> None:
    """Else: python -m ops.observability.dashboards."""
    path = dashboards.FOLDER / f"{dashboard.uid}.json"

    assert path.read_text() == dashboards.text(dashboard)


def test_there_is_no_dashboard_that_nobody_makes() -> None:
    there = {path.stem for path in dashboards.FOLDER.glob("*.json")}

    assert there == {dashboard.uid for dashboard in DASHBOARDS}


def test_the_operator_gets_the_rules_that_prometheus_gets() -> None:
    """Else: make dashboards."""
    resource = yaml.safe_load(operator.TARGET.read_text())

    assert operator.TARGET.read_text() == operator.made_of(RULES.read_text())
    assert resource["spec"] == yaml.safe_load(RULES.read_text())


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_panels_have_places_of_their_own_and_say_what_they_mean(
    dashboard: dashboards.Dashboard,
) -> None:
    panels = dashboards.document(dashboard)["panels"]
    places = Counter((panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels)

    assert max(places.values()) == 1
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= dashboards.COLUMNS
        assert panel["description"].endswith(".")
        json.dumps(panel)


@pytest.mark.parametrize("query", [*queries(), *(rule["expr"] for rule in rules())])
def test_queries_are_promql(query: str) -> None:
    promql_parser.parse(query)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_legends_name_labels_that_their_query_keeps(dashboard: dashboards.Dashboard) -> None:
    for panel in dashboard.panels:
        for query, legend in panel.queries:
            kept = labels_kept(query)
            asked = set(re.findall(r"{{(\w+)}}", legend))
            assert kept is None or asked <= kept, f"{panel.title}: {legend!r} of {query}"


def labels_kept(query: str) -> set[str] | None:
    """Return the labels that a query's result has; None: all that its metric has."""
    found = re.findall(r"\bby \(([^)]*)\)", query)
    if found:
        return {label.strip() for part in found for label in part.split(",")} - {"le"}
    return set() if re.match(r"(sum|max|min|histogram_quantile)\b", query) else None


@pytest.mark.parametrize("rule", rules(), ids=names_of)
def test_rules_have_what_prometheus_and_people_need(rule: dict[str, Any]) -> None:
    assert set(rule) <= KNOWN
    assert re.fullmatch(r"Aforo[A-Z]\w+", rule["alert"])
    if "for" in rule:
        assert promql_parser.parse_duration(rule["for"]).total_seconds() >= 60
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary"}
    summary = rule["annotations"]["summary"]
    asked = set(re.findall(r"\$labels\.(\w+)", summary))
    matched = set(re.findall(r'(\w+)="', rule["expr"]))  # What absent() says it missed.
    kept = labels_kept(rule["expr"])
    assert kept is None or asked <= kept | matched
    # A rule that compares nothing would always fire.
    assert re.search(r"absent\(|[<>]|==|\bunless\b", rule["expr"])


def test_rules_have_names_of_their_own() -> None:
    assert max(Counter(rule["alert"] for rule in rules()).values()) == 1


def test_each_alert_has_cases_that_fire_and_that_do_not() -> None:
    """`make alert-rules` plays them."""
    text = script()

    assert text.count("\n  {} 1") >= len(rules())
    for name, case in yaml.safe_load(CASES.read_text()).items():
        assert case["fires"], name
        assert case["silent"], name


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert set(sections()) == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize(("name", "text"), sections().items())
def test_a_runbook_says_what_it_means_and_what_to_do(name: str, text: str) -> None:
    assert re.search(r"^\*\*Means\*\*: .{20}", text, re.MULTILINE), name
    assert re.search(r"^\*\*Do\*\*: .{20}", text, re.MULTILINE), name
