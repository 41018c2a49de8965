"""Conditions of a search, and what holds them."""

from typing import Any

import pytest

from aforo_meter.domain.event_search import ConditionError, condition, holds

FIELDS: dict[str, Any] = {
    "tenant": "acme",
    "status": 200,
    "late": True,
    "features": ["api", "chat"],
    "measures": {"llm.input_tokens": "12"},
    "metadata": {"team": "blue", "cost.center": "7", "nested": {"n": 1.5}, "none": None},
}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "tenant=acme",
            "status=200",
            "late=true",
            "features=chat",
            "measures.llm.input_tokens=12",
        ),
        *("metadata.team=blue", "metadata.cost.center=7", "metadata.nested.n=1.5"),
        "metadata.none=null",
    ],
)
def test_what_a_field_says_is_found(text: str) -> None:
    assert holds(FIELDS, [condition(text)])


@pytest.mark.parametrize(
    "text",
    ["tenant=Acme", "metadata=blue", "metadata.team.x=blue", "tool=", "features=a", "status=20"],
)
def test_anything_else_is_not(text: str) -> None:
    assert not holds(FIELDS, [condition(text)])


def test_all_conditions_must_hold() -> None:
    assert not holds(FIELDS, [condition("tenant=acme"), condition("metadata.team=red")])


@pytest.mark.parametrize("text", ["team", "=blue", "metadata..team=blue"])
def test_what_is_no_condition_is_told(text: str) -> None:
    with pytest.raises(ConditionError, match=r"write metadata\.team=blue"):
        condition(text)
