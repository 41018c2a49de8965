"""Every overlay renders; what it renders is valid and means what it should, or is refused."""

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import schemas
from tests.deploy.rendering import (
    OVERLAYS,
    RENDERED,
    ROOT,
    Document,
    containers_of,
    pod_of,
    rendered,
    title,
)
from tests.deploy.semantics import RULES, Rule

BAD = yaml.safe_load((Path(__file__).parent / "bad.yaml").read_text())
COMPONENTS = {path.name for path in (ROOT / "k8s" / "components").iterdir()}


@pytest.mark.parametrize("kubernetes", schemas.KUBERNETES)
@pytest.mark.parametrize("name", RENDERED)
def test_every_document_is_valid_by_a_schema(name: str, kubernetes: str) -> None:
    documents = rendered(name)

    assert documents
    assert list(schema_faults(documents, kubernetes)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", RENDERED)
def test_manifests_mean_what_they_should(name: str, rule: Rule) -> None:
    assert list(rule(rendered(name))) == []


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad['document']} {bad['at']}")
def test_what_is_broken_is_refused(bad: dict[str, Any]) -> None:
    documents = [deepcopy(document) for document in rendered(bad["overlay"])]
    change(documents, bad)

    complaints = [
        *schema_faults(documents, schemas.KUBERNETES[-1]),
        *(fault for rule in RULES for fault in rule(documents)),
    ]

    assert any(bad["complaint"] in complaint for complaint in complaints), complaints


def test_every_component_is_rendered_by_some_overlay_or_case() -> None:
    used = {
        Path(part).name
        for path in RENDERED.values()
        for part in yaml.safe_load((path / "kustomization.yaml").read_text()).get("components", ())
    }

    assert used == COMPONENTS


def test_the_readme_names_every_overlay_and_component() -> None:
    text = (ROOT / "k8s" / "README.md").read_text()

    assert [name for name in (*OVERLAYS, *sorted(COMPONENTS)) if f"`{name}`" not in text] == []


def test_every_rule_of_the_custom_definitions_can_be_run() -> None:
    rules = {
        rule
        for schema in schemas.custom_schemas().values()
        for rule in cel_rules(schema)
        if "oldSelf" not in rule
    }

    assert len(rules) > 100
    assert [rule for rule in sorted(rules) if not schemas.compiles(rule)] == []


def cel_rules(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (rule["rule"] for rule in schema.get(schemas.RULES, ()))
        for part in schema.values():
            yield from cel_rules(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from cel_rules(part)


def schema_faults(documents: Sequence[Document], kubernetes: str) -> Iterator[str]:
    for document in documents:
        for fault in schemas.faults(document, kubernetes=kubernetes):
            yield f"{title(document)}: {fault}"


def change(documents: Sequence[Document], bad: dict[str, Any]) -> None:
    """Set a value in a document, or take it out where none is given."""
    place: Any = next(each for each in documents if title(each) == bad["document"])
    *path, last = (int(part) if part.isdigit() else part for part in keys(bad["at"]))
    for part in path:
        place = place[part]
    if "value" in bad:
        place[last] = bad["value"]
    else:
        del place[last]


def keys(path: str) -> list[str]:
    """Return a path's names; a slash in one of them is written as in JSON pointers."""
    return [name.replace("~1", "/") for name in path.split("/")]


def test_migrations_can_be_applied_alone_as_the_readme_says() -> None:
    """The selector in k8s/README.md ("Upgrades") has the jobs, and what they cannot do without."""
    text = (ROOT / "k8s" / "README.md").read_text()
    selector = re.search(r"kubectl apply --selector (\S+)=(\S+)", text)
    assert selector is not None
    chosen = {
        title(document)
        for document in rendered("prod")
        if document["metadata"].get("labels", {}).get(selector[1]) == selector[2]
    }

    assert chosen == {
        "Job migrate-control",
        "Job migrate-ledger",
        "NetworkPolicy migrate",
        "ServiceAccount migrate",
    }


@pytest.mark.parametrize("process", ["authz", "ship", "ingest", "consume"])
def test_what_a_process_requests_follows_from_a_stated_rate(process: str) -> None:
    """Rate × CPU each × 2, as docs/operations.md reckons, is what every overlay requests."""
    text = (ROOT / "docs" / "operations.md").read_text()
    row = re.search(
        rf"^\| {process}\b[^|]*\| ([\d,]+) a second \| ([\d.]+) µs \| (\d+)m \|", text, re.MULTILINE
    )
    assert row is not None
    rate, each_micros, millicores = int(row[1].replace(",", "")), float(row[2]), int(row[3])
    assert millicores == pytest.approx(rate * each_micros * 2 / 1000, rel=0.01)
    found = {
        container["resources"]["requests"]["cpu"]
        for name in RENDERED
        for document in rendered(name)
        if (pod := pod_of(document))
        for container in containers_of(pod)
        if container["name"] in {process, f"aforo-{process}"}
    }

    assert found == {f"{millicores}m"}
