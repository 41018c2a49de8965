"""An event with several faults is told all of them at once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.ingest import read_event
from aforo_meter.domain.ingest_faults import FAULTS_MAX, read_or_tell_all
from aforo_meter.domain.ingest_metrics import DEFAULTS
from aforo_meter.domain.ingest_values import Rejection
from tests.ingest_samples import RULES, event


def told(whole: Any) -> str:  # noqa: ANN401 - of JSON.
    with pytest.raises(Rejection) as caught:
        read_or_tell_all(whole, RULES)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, ["event"]),
        (
            {"quantity": -1, "occurredAt": None, "idempotencyKey": ""},
            ["idempotencyKey", "occurredAt", "quantity"],
        ),
        ({"metricName": "flights", "executionStatus": "FINE"}, ["metricName", "executionStatus"]),
        (
            {"productType": "AI_AGENT", "metadata": {"inputTokens": -1}},
            ["agentId", "sessionId", "metadata.inputTokens"],
        ),
        ({"metadata": [], "productType": "MCP_SERVER", "quantity": "1"}, ["metadata", "quantity"]),
        (
            {"metricName": "system.call.tokens", "aforoDecisionId": "0" * 32, "metadata": {}},
            ["metadata.provider", "metadata.model", "metadata.outputTokens"],
        ),
    ],
)
def test_every_field_that_is_wrong_is_named_once(fields: dict[str, Any], wrong: list[str]) -> None:
    message = told(event(**fields) if fields else [])

    assert [part.partition(": ")[0] for part in message.split("; ") if ": " in part] == wrong


def test_one_fault_is_told_as_it_is_found() -> None:
    with pytest.raises(Rejection) as alone:
        read_event(event(metricName="flights"), RULES)
    with pytest.raises(Rejection) as caught:
        read_or_tell_all(event(metricName="flights"), RULES)

    assert str(caught.value) == str(alone.value)
    assert caught.value.kind == alone.value.kind == "unknown_metric"


def test_a_sound_event_is_read_as_ever() -> None:
    assert read_or_tell_all(event(), RULES) == read_event(event(), RULES)


ODD = st.one_of(st.none(), st.integers(-2, 2), st.text(max_size=3), st.lists(st.none(), max_size=1))


@given(
    st.dictionaries(
        st.sampled_from(
            [*event(), "metadata", "productType", "executionStatus", "sessionBoundary", "sessionId"]
        ),
        ODD,
        max_size=FAULTS_MAX,
    ),
    st.sampled_from([*DEFAULTS, "system.call.tokens", "nothing"]),
)
def test_what_is_refused_is_refused_with_the_first_fault_first(
    fields: dict[str, Any], metric: str
) -> None:
    whole = {**event(), "metricName": metric, **fields}
    first = None
    try:
        read_event(whole, RULES)
    except Rejection as rejection:
        first = rejection

    if first is None:
        read_or_tell_all(whole, RULES)
    else:
        assert told(whole).startswith(str(first))
