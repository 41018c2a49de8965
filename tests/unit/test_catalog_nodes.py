"""YAML becomes nodes that know their lines, whatever is in it; what is unsafe is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_admin.yaml_nodes import (
    DEPTH_MAX,
    Mapping,
    Scalar,
    Sequence,
    UnreadableYamlError,
    compose,
)


def faults(text: str | bytes) -> list[tuple[int, str]]:
    data = text.encode() if isinstance(text, str) else text
    try:
        _, told = compose(data)
    except UnreadableYamlError as error:
        return error.faults
    return told


def mapping(text: str) -> Mapping:
    root, told = compose(text.encode())
    assert isinstance(root, Mapping)
    assert told == []
    return root


def scalars(node: Mapping) -> dict[str, Scalar]:
    return {key: value for key, (_, value) in node.entries.items() if isinstance(value, Scalar)}


def texts(node: Mapping) -> dict[str, str]:
    return {key: value.text for key, value in scalars(node).items()}


def test_a_value_keeps_its_text_as_written() -> None:
    root = mapping("fee: 0.10\nhash: 0123\nday: 2026-01-01\non: no\nquoted: '1'\n")

    assert texts(root) == {
        "fee": "0.10",
        "hash": "0123",
        "day": "2026-01-01",
        "on": "no",
        "quoted": "1",
    }


def test_nothing_is_null_and_a_quoted_nothing_is_not() -> None:
    root = mapping("a:\nb: ~\nc: null\nd: ''\ne: 'null'\n")

    nulls = {key for key, node in scalars(root).items() if node.is_null}
    assert nulls == {"a", "b", "c"}


def test_keys_and_items_know_their_lines() -> None:
    root = mapping("# comment\na:\n  - x\n\n  - y\nb: {c: 1}\n")

    line, items = root.entries["a"]
    assert line == 2
    assert isinstance(items, Sequence)
    assert [item.line for item in items.items] == [3, 5]
    assert root.entries["b"][0] == 6


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert "version" in mapping("\ufeffversion: 1\n").entries


def test_merge_keys_yield_to_what_is_written_out() -> None:
    root = mapping("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 5}\n")

    merged = root.entries["c"][1]
    assert isinstance(merged, Mapping)
    assert {
        key: node.text for key, (_, node) in merged.entries.items() if isinstance(node, Scalar)
    } == {
        "x": "5",
        "y": "2",
        "z": "4",
    }


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a:\n\tb: 1", 2, "is indented with a tab; YAML wants spaces"),
        ("a: 1\nb: [1, 2", 2, "while parsing a flow sequence did not find expected ',' or ']'"),
        ("a: b: c", 1, "mapping values are not allowed in this context"),
        (
            "a: 'b\n\nc: d\n",
            4,
            "while scanning a quoted scalar found unexpected end of stream; it began in line 1",
        ),
        ("a: 1\na: 2", 2, 'the key "a" stands here twice; first in line 1'),
        ("x: {a: 1,\n a: 2}", 2, 'the key "a" stands here twice; first in line 1'),
        ("a: 1\n---\nb: 2", 2, "a second document begins here; keep one in a file"),
        ("a: &x [*x]", 1, "the alias *x stands inside what it names"),
        ("a: *y", 1, "the alias *y has no anchor &y before it"),
        ("a: !!python/name:os.system x", 1, None),
        ("a: !own 1", 1, 'the tag "!own" is not used here; remove it'),
        ("? [a]\n: 1", 1, "a key must be a single word; was a dash or a colon forgotten?"),
        ("a: {<<: 5}", 1, "<< takes an alias of a mapping, like <<: *name"),
        ("é: 1\nb: \x07", 2, "has a character that YAML forbids: '\\x07'"),
        (b"a: 1\nb: \xff", 2, "is not UTF-8; save the file as UTF-8"),
        ("", 1, "is empty"),
        ("# only a comment\n", 1, "is empty"),
        ("[" * 100_000, 1, f"is nested more than {DEPTH_MAX} levels deep"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    text: str | bytes, line: int, told: str | None
) -> None:
    (found,) = faults(text)

    assert found[0] == line
    assert told is None or found[1] == told


def test_a_bomb_of_aliases_is_refused_without_being_unfolded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 25)]

    ((line, told),) = faults("\n".join(lines))

    assert line == 1
    assert "through its aliases" in told


def test_a_bomb_of_merge_keys_is_refused_before_memory_is_gone() -> None:
    big = ", ".join(f"k{n}: 1" for n in range(2000))
    merges = "\n".join(f"m{n}: {{<<: *big}}" for n in range(2000))

    ((_, told),) = faults(f"big: &big {{{big}}}\n{merges}")

    assert told == "is merged (<<) too often: write it out"


def test_aliases_in_a_sensible_number_are_welcome() -> None:
    shared = "shared: &shared {a: 1, b: 2}\n" + "".join(f"t{n}: *shared\n" for n in range(5000))

    assert len(mapping(shared).entries) == 5001


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return
    lines = data.count(b"\n") + data.count(b"\r") + data.count("\u2028".encode()) + 3
    assert all(1 <= line <= lines and told for line, told in faults(data))


@given(st.text(alphabet="ab:-&*[]{}<,'\"#!|>\n \t%@?~1", max_size=40))
def test_any_text_of_yaml_signs_is_read_or_refused_with_a_line(text: str) -> None:
    assert all(line >= 1 and told for line, told in faults(text))
