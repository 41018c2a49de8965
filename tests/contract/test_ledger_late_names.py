"""Names in periods that are closed: what comes late is bounded as what came in time."""

from collections.abc import AsyncIterator

import pytest

from aforo_meter.batches import now_micros
from aforo_meter.domain.rating import MODELS_MAX, OTHER_MODEL, OTHER_TOOL, TOOLS_MAX
from aforo_meter.ledger_sql import SqlLedger
from tests.contract.corrections_lab import UNIT, CorrectionsLab, usage
from tests.contract.ledgers import AuditedLedger

pytestmark = pytest.mark.contract

CALL = ("api.calls", UNIT)
IN_TIME, LATE_BATCHES, LATE_BATCH = 50, 4, 60  # 240 late names, in batches as they come.


@pytest.fixture
async def lab(ledger: SqlLedger, redis_url: str) -> AsyncIterator[CorrectionsLab]:
    made = CorrectionsLab.on(ledger, redis_url)
    made.prices([])
    yield made
    await made.close()


async def flood(lab: CorrectionsLab, what: str) -> None:
    """Use some names in time, and many more once the period is closed; the last ones twice."""
    await lab.consume(*(usage(f"e{n}", CALL, **{what: f"n{n}"}) for n in range(IN_TIME)))
    assert await lab.ledger.close(ended_by_micros=now_micros(), now_micros=now_micros()) == 1
    for number in range(LATE_BATCHES):
        begin = IN_TIME + number * LATE_BATCH
        names = range(begin, begin + LATE_BATCH)
        await lab.consume(*(usage(f"e{n}", CALL, **{what: f"n{n}"}) for n in names))
    await lab.consume(*(usage(f"again{n}", CALL, **{what: f"n{n}"}) for n in (0, 60, 289)))


async def units(file: AuditedLedger, what: str) -> dict[str, int]:
    query = (
        f"SELECT {what}, SUM(quantity_micros) FROM (SELECT {what}, quantity_micros FROM charge"  # noqa: S608
        f" UNION ALL SELECT {what}, quantity_micros FROM adjustment) AS entry GROUP BY {what}"
    )
    return {name: int(micros) // UNIT for name, micros in file.rows(query)}


@pytest.mark.parametrize(
    ("what", "names_max", "other"),
    [("tool", TOOLS_MAX, OTHER_TOOL), ("model", MODELS_MAX, OTHER_MODEL)],
)
async def test_names_that_come_late_are_bounded_with_those_that_came_in_time(
    lab: CorrectionsLab, file: AuditedLedger, what: str, names_max: int, other: str
) -> None:
    """50 + 240 calls with a name each, 200 of which are kept; and one of the others again."""
    await flood(lab, what)

    found = await units(file, what)
    assert len(found) == names_max + 1
    assert found[other] == IN_TIME + LATE_BATCHES * LATE_BATCH - names_max + 1
    assert (found["n0"], found["n60"], found["n61"]) == (2, 2, 1)
