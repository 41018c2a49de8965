"""Texts of the written form, as YAML: whatever they hold, they read back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_admin.yaml_nodes import Mapping, Scalar, compose
from aforo_admin.yaml_writing import yaml_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def read(text: str) -> str:
    root, wrong = compose(yaml_text({"features": [{"id": "a", "title": text}]}).encode())
    assert wrong == []
    assert isinstance(root, Mapping)
    (feature,) = root.entries["features"][1].items  # type: ignore[union-attr]
    title = feature.entries["title"][1]  # type: ignore[union-attr]
    assert isinstance(title, Scalar)
    assert not title.is_null
    return title.text


@pytest.mark.parametrize(
    "text",
    [
        *("a\x85b", "a\u2028b", "a\u2029b", "\x85", "a\x85 b", "a\u2028\n b"),
        *("a\nb", "a\r\nb", "\ta", "\x07", "\x1b[0m", "\x7f", "\x9f", "\ufeffa", "\U0010ffff"),
        *("null", "~", "1e3", "yes", "- a", "a: b", "# a", "'", '"', "\\x85", " a ", "a" * 300),
    ],
)
def test_a_text_with_breaks_and_control_characters_reads_back(text: str) -> None:
    assert read(text) == text


@given(TEXTS)
def test_any_text_reads_back(text: str) -> None:
    assert read(text) == text
