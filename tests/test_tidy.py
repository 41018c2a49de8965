"""The architecture as a test: purity, direction of imports, size, and documents that stay true."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import Reason

ROOT = Path(__file__).resolve().parent.parent
PRODUCTS = ("aforo_authz", "aforo_meter", "aforo_admin")
# What the admin's pages show is read, and sessions are killed and alerts sent again, by the very
# code of the commands that do so: one reading of the ledger, of Redis, and of a decision, not two.
READ_BY_PAGES = {
    *(
        f"aforo_meter.{name}"
        for name in (
            *("alerts", "answers", "command_arguments", "completeness", "completeness_sql"),
            "contract_messages",
            *("database", "dlq", "explanation", "forecast_text", "inquiries", "inquiries_sql"),
            *("kafka_reading", "ledger", "ledger_sql", "ledger_sums", "outbox_reading"),
            *("sessions", "sessions_sql", "shown_events", "tenant_reading"),
        )
    ),
    *(f"aforo_authz.{name}" for name in ("check", "denials", "explain", "explain_text")),
    "aforo_authz.redis_url",
}
# One reading of where Redis and Kafka are, one way to be their client, one HTTP server, for both.
SHARED = {"aforo_meter.redis_client", "aforo_meter.kafka_place", "aforo_meter.http_server"}
# What each package may import of the others; "…domain" means that part of it only.
MAY_IMPORT = {
    "aforo_authz": {"aforo_proto"},
    "aforo_meter": {"aforo_proto"},
    "aforo_admin": {
        *("aforo_proto", "aforo_meter.domain", "aforo_authz.domain"),
        *READ_BY_PAGES,
        *SHARED,
    },
}
PURE_MODULES = {
    *("bisect", "calendar", "collections", "dataclasses", "datetime", "decimal", "enum"),
    *(
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "math",
        "operator",
        "re",
        "typing",
    ),
}
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 400


def sources(*folders: str) -> list[Path]:
    return sorted(
        path.relative_to(ROOT)
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.endswith("_pb2.py")
    )


PRODUCT_SOURCES = sources(*PRODUCTS)
DOMAIN_SOURCES = [path for path in PRODUCT_SOURCES if "domain" in path.parts]
ALL_SOURCES = sources(*PRODUCTS, "lab", "demo", "bench", "ops", "tests")


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def lies_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", DOMAIN_SOURCES, ids=str)
def test_domain_is_pure(path: Path) -> None:
    allowed = {f"{path.parts[0]}.domain"}
    if path.parts[0] == "aforo_admin":
        allowed |= {"aforo_meter.domain", "aforo_authz.domain"}
    impure = {
        name
        for name in imports(path)
        if name.partition(".")[0] not in PURE_MODULES
        and not any(lies_in(name, package) for package in allowed)
    }

    assert not impure


@pytest.mark.parametrize("path", DOMAIN_SOURCES, ids=str)
def test_domain_reads_no_clock(path: Path) -> None:
    clocks = {"now", "utcnow", "today"}
    calls = {
        node.func.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }

    assert not calls & clocks


@pytest.mark.parametrize("path", DOMAIN_SOURCES, ids=str)
def test_domain_knows_no_floating_point_money(path: Path) -> None:
    """Names that end in _nanos, _micros or _bp are integers."""
    wrong = [
        f"{path}:{node.lineno}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.AnnAssign | ast.arg)
        and isinstance(node.annotation, ast.Name)
        and node.annotation.id == "float"
        and re.search(
            r"_(nanos|micros|bp)$",
            node.arg if isinstance(node, ast.arg) else ast.unparse(node.target),
        )
    ]

    assert not wrong


@pytest.mark.parametrize("path", PRODUCT_SOURCES, ids=str)
def test_packages_depend_in_one_direction(path: Path) -> None:
    package = path.parts[0]
    ours = {*PRODUCTS, "aforo_proto", "lab", "demo", "bench", "tests"}
    foreign = {
        name
        for name in imports(path)
        if name.partition(".")[0] in ours - {package}
        and not any(lies_in(name, allowed) for allowed in MAY_IMPORT[package])
    }

    assert not foreign


@pytest.mark.parametrize("path", ALL_SOURCES, ids=str)
def test_functions_fit_on_a_screen_and_modules_in_a_head(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name}: {lines} lines"
    if path.parts[0] != "tests" and "migrations" not in path.parts:  # Django writes those.
        assert len((ROOT / path).read_text().splitlines()) <= MODULE_LINES_MAX


def templates() -> list[Path]:
    return sorted(
        path.relative_to(ROOT) for path in ROOT.glob("aforo_admin/**/templates/**/*.html")
    )


@pytest.mark.parametrize("page", templates(), ids=str)
def test_pages_hold_no_script_and_no_style(page: Path) -> None:
    """The content security policy refuses them."""
    text = (ROOT / page).read_text()

    assert not re.findall(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=|\|safe\b", text)
    assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", text)


@pytest.mark.parametrize("reason", [r for r in Reason if r in DENIALS], ids=str)
def test_every_refusal_is_documented(reason: Reason) -> None:
    page = (ROOT / "docs" / "deny-reasons.md").read_text()

    assert f"`{reason}`" in page
    assert DENIALS[reason].code in page
    assert DENIALS[reason].title in page


@pytest.mark.parametrize(
    "folder", [*PRODUCTS, "proto", "envoy", "k8s", "lab", "demo", "bench", "tests"]
)
def test_every_folder_says_what_it_owns(folder: str) -> None:
    assert len((ROOT / folder / "README.md").read_text().splitlines()) >= 3


def markdown_pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [Path(line) for line in listed.stdout.splitlines()]


@pytest.mark.parametrize("page", markdown_pages(), ids=str)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", markdown_pages(), ids=str)
def test_tests_that_documents_name_exist(page: Path) -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / page).read_text()))
    there = {
        node.name
        for path in (sources("tests") if named else [])
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert named <= there


def test_decision_records_are_numbered_without_gaps_and_fit_on_a_page() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [int(record.name[:4]) for record in records]

    assert numbers == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text()
        for heading in ("Context", "Decision", "Consequences", "Revisit when"):
            assert f"## {heading}" in text, f"{record.name} lacks {heading!r}"
        assert len(text.splitlines()) <= 70, f"{record.name} is longer than a page"
