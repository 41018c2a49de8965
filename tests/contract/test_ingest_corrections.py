"""True figures over HTTP for calls whose tokens the gateway had to estimate."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from aforo_proto import usage_pb2
from lab.servers import HANG_S, KafkaServer, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import usage_event
from tests.contract.ingest_lab import CORRECT, INGEST, IngestLab, event, ingest_lab

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

TOKENS = {"provider": "openai", "model": "gpt-4o", "inputTokens": 12, "outputTokens": 345}
TRUSTED = "a-key-that-corrects"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[IngestLab]:
    home = tmp_path_factory.mktemp("corrections")
    async with ingest_lab(kafka_server.bootstrap, home) as made:
        made.allow(TRUSTED, scopes=[INGEST, CORRECT])
        yield made


def logged(tenant: str, decision_id: str, **fields: Any) -> usage_pb2.UsageEvent:  # noqa: ANN401
    """Return what ship makes of a call to a model."""
    amounts = {"api.calls": 1, "bytes.response": 900, "llm.input_tokens": 10}
    amounts["llm.output_tokens"] = 400
    measures = [usage_pb2.Measure(meter=meter, units=units) for meter, units in amounts.items()]
    return usage_event(tenant, decision_id=decision_id, measures=measures, **fields)


def correction(tenant: str, decision_id: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    whole = {
        "metricName": "system.call.tokens",
        "aforoDecisionId": decision_id,
        "metadata": TOKENS,
    }
    return event(tenant, **(whole | fields))


CORRECTED = {
    "api.calls": 1,
    "bytes.response": 900,
    "llm.input_tokens": 12,
    "llm.output_tokens": 345,
}


@pytest.mark.parametrize("first", ["estimate", "truth"])
async def test_the_true_tokens_of_a_call_replace_the_estimate_whichever_comes_first(
    lab: IngestLab, first: str
) -> None:
    tenant, decision_id = lab.tenant(f"corrected-{first}"), uuid.uuid4().hex
    estimate = logged(tenant, decision_id, estimated=True, aborted=True)
    truth = correction(tenant, decision_id)

    if first == "estimate":
        await lab.consume.send_again(estimate)
    assert (await lab.post("/v1/ingest", truth, key=TRUSTED)).counts == (1, 0, 0)
    assert (await lab.post("/v1/ingest", truth, key=TRUSTED)).counts == (0, 1, 0)
    if first == "truth":
        await lab.consume.send_again(estimate)

    await lab.meters_are(tenant, CORRECTED)
    rows = lab.consume.ledger.rows(
        "SELECT DISTINCT feature, model FROM charge WHERE tenant_id = ? AND meter LIKE 'llm.%'",
        tenant,
    )
    assert rows == [("api", "gpt-4o")], "it stands where the estimate stood"


async def test_a_cloudevent_corrects_as_well(lab: IngestLab) -> None:
    tenant, decision_id = lab.tenant("corrected-cloud"), uuid.uuid4().hex
    await lab.consume.send_again(logged(tenant, decision_id, estimated=True))
    attributes = {
        "ce-specversion": "1.0",
        "ce-id": uuid.uuid4().hex,
        "ce-source": "/models",
        "ce-type": "system.call.tokens",
        "ce-subject": tenant,
        "ce-aforodecisionid": decision_id,
    }

    answer = await lab.post("/v1/events", {"metadata": TOKENS}, key=TRUSTED, headers=attributes)

    assert answer.counts == (1, 0, 0)
    await lab.meters_are(tenant, CORRECTED)


async def test_the_tokens_of_a_call_that_was_counted_exactly_are_not_added(lab: IngestLab) -> None:
    tenant, decision_id = lab.tenant("exact"), uuid.uuid4().hex
    await lab.consume.send_again(logged(tenant, decision_id))
    waiting = "SELECT COUNT(DISTINCT decision_id) FROM true_figure WHERE tenant_id = ?"
    stranger = lab.tenant("another")

    await lab.batch(correction(tenant, decision_id), correction(stranger, decision_id), key=TRUSTED)

    for name in (tenant, stranger):
        await eventually(lambda name=name: lab.consume.ledger.rows(waiting, name) == [(1,)])  # type: ignore[misc]
    assert lab.meters(tenant) == {
        "api.calls": 1,
        "bytes.response": 900,
        "llm.input_tokens": 10,
        "llm.output_tokens": 400,
    }
    assert lab.meters(stranger) == {}
    async with asyncio.timeout(HANG_S):  # Counted once the ledger has them.
        while await lab.consume.metric('aforo_consume_corrections_total{as="waiting"}') < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_only_a_key_with_the_scope_may_correct(lab: IngestLab) -> None:
    tenant, decision_id = lab.tenant("unscoped"), uuid.uuid4().hex
    one = correction(tenant, decision_id)

    answer = await lab.post("/v1/ingest", one)
    assert (answer.status, answer.problem) == (
        403,
        "aforoDecisionId: this key lacks the scope usage:correct",
    )
    assert (await lab.batch(one, event(tenant))).counts == (1, 0, 1)
    await lab.meters_are(tenant, {"api.calls": 1})
