"""The schema that the readers give away: what is written obeys it, and it names what they name."""

from typing import Any

import fastjsonschema
import pytest
from hypothesis import Phase, given, settings

from aforo_admin import written
from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Catalog
from aforo_admin.rest.attempts import FailedAttempts
from aforo_admin.rest.described import catalog_schema, part_schema, scalar_schema
from aforo_admin.rest.described_names import with_components
from aforo_admin.rest.paging import cursor_of, key_of, page_of
from aforo_admin.rest.problems import InvalidError, wrong
from aforo_admin.yaml_scalars import amount_nanos, choice, flag, instant, percent_bp, text, units
from aforo_authz.domain.quotas import WindowKind
from lab.servers import ROOT
from tests.catalogs import catalogs

accepts = fastjsonschema.compile(catalog_schema())


# Catalogs are large: what fails is shown as it was found.
@settings(phases=[Phase.generate], max_examples=40, deadline=None)
@given(catalogs())
def test_every_written_catalog_obeys_the_schema(catalog: Catalog) -> None:
    accepts(written.catalog(catalog))


def test_the_example_obeys_the_schema() -> None:
    accepts(written.catalog(read_file(ROOT / "catalog.example.yaml")))


@pytest.mark.parametrize(
    ("path", "wrong_value"),
    [
        (("costs", "*"), {"meter": "api.calls"}),
        (("tenants", "*", "margin_override"), {"level_max": "block"}),
        (("tenants", "*", "subscription"), {"id": "x", "plan": "p", "since": "2026-01-01"}),
        (("plans", "*", "quotas", "*"), {"id": "q", "meter": "m", "limit": 1.5, "window": "day"}),
    ],
)
def test_what_readers_refuse_the_schema_refuses(path: tuple[str, ...], wrong_value: object) -> None:
    with pytest.raises(fastjsonschema.JsonSchemaException):
        fastjsonschema.compile(part_schema(*path))(wrong_value)


@pytest.mark.parametrize(
    ("read", "type_"),
    [
        (text, "string"),
        (flag, "boolean"),
        (units, "integer"),
        (amount_nanos("USD"), ["string", "integer"]),
        (percent_bp, "string"),
        (instant, "string"),
    ],
)
def test_a_scalar_is_told_by_what_its_reader_takes(read: Any, type_: object) -> None:  # noqa: ANN401
    assert scalar_schema(read)["type"] == type_


def test_a_choice_lists_its_names() -> None:
    assert scalar_schema(choice("window", WindowKind)) == {
        "enum": ["minute", "hour", "day", "month", "billing_period"]
    }


def test_what_a_document_repeats_is_named_once() -> None:
    part = {"type": "object", "title": "part", "properties": {"x" * 200: {"type": "string"}}}
    other = {**part, "required": ["x" * 200]}
    document = {"paths": [part, [part], other, {"of": other}], "components": {"schemas": {}}}

    said = with_components(document)

    assert said["paths"] == [
        {"$ref": "#/components/schemas/part"},
        [{"$ref": "#/components/schemas/part"}],
        {"$ref": "#/components/schemas/part_2"},
        {"of": {"$ref": "#/components/schemas/part_2"}},
    ]
    assert said["components"]["schemas"] == {"part": part, "part_2": other}


@pytest.mark.parametrize(
    ("message", "what", "remedy"),
    [
        ('no plan "a; b"; did you mean "ab"?', 'no plan "a; b"', 'did you mean "ab"?'),
        ('"x: y" is no id: use letters', '"x: y" is no id', "use letters"),
        ("is missing", "is missing", "docs/catalog.md says how it is written"),
    ],
)
def test_a_message_is_what_is_wrong_and_what_to_do(message: str, what: str, remedy: str) -> None:
    told = wrong("at", message)

    assert (told.field, told.what, told.remedy) == ("at", what, remedy)


def test_a_cursor_leads_behind_its_key() -> None:
    names = ["a", "b", "c", "d"]
    first, following = page_of(names, str, limit=3, cursor="")
    second, end = page_of(["a", "aa", "c", "d"], str, limit=3, cursor=following)

    assert (first, second, end) == (["a", "b", "c"], ["d"], "")


@pytest.mark.parametrize(
    "cursor",
    ["?", "é", "AA", "W10", cursor_of([1]), cursor_of(["a", "b"]), cursor_of(["\x00"]), "W" * 9000],
)
def test_a_cursor_that_is_none_of_ours_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidError):
        key_of(cursor, str)


def test_failures_are_counted_by_address_and_forgotten() -> None:
    attempts = FailedAttempts(failures_max=2, window_s=60, addresses_max=2)
    for _ in range(2):
        attempts.note("a", now_s=0)
    attempts.note("b", now_s=0)

    assert attempts.wait_s("a", now_s=10) == 50
    assert attempts.wait_s("b", now_s=10) == 0
    assert attempts.wait_s("a", now_s=60) == 0
    attempts.note("c", now_s=0)  # A third address: the first is forgotten.
    assert attempts.wait_s("a", now_s=10) == 0
