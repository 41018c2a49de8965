"""Dead letters: what could not be read or charged, why, and where it stood. To be read alone."""

from collections.abc import Iterator
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin.places import places
from aforo_admin.rest.authentication import caller_for
from aforo_admin.rest.ledger_lists import as_instant
from aforo_admin.rest.operations import PAGING, Operation, Schema, listed, text_query
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import shown
from aforo_admin.screens import stores
from aforo_meter import dlq
from aforo_meter.kafka_reading import open_topic
from aforo_meter.shown_events import payload_text, plain

RECORDS_READ_MAX: Final = 500  # The last ones of each partition: a topic may have millions.
TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "integer"}
MAYBE: Final[Schema] = {"type": ["string", "null"]}
LETTER: Final[Schema] = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("place", "stage", "reason", "topic", "payload"), TEXT),
        **dict.fromkeys(("partition", "offset"), NUMBER),
        **dict.fromkeys(("failed_at", "retried_at"), MAYBE),
    },
}


def operations() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path="/dead_letters",
        view=list_letters,
        summary=f"The newest dead letters, of the last {RECORDS_READ_MAX} of each partition",
        tag="ledger",
        query={
            "limit": PAGING["limit"],
            "stage": text_query("ship, ingest or consume."),
            "reason": text_query("What the reason contains."),
        },
        gives=listed(LETTER),
    )


def list_letters(request: HttpRequest, *, limit: int, stage: str, reason: str) -> HttpResponse:
    caller_for(request, Scope.OPERATIONS_READ)
    wanted = dlq.Filter(stage=stage or None, reason_contains=reason)
    found = stores.run(_newest(wanted))
    return shown({"items": [_told(each) for each in found[:limit]]})


async def _newest(wanted: dlq.Filter) -> list[dlq.Letter]:
    at = places()
    async with open_topic(at.kafka(), at.dead_letter_topic) as reader:
        return await dlq.newest(reader, wanted, records_max=RECORDS_READ_MAX)


def _told(one: dlq.Letter) -> dict[str, Any]:
    letter = one.letter
    return {
        "place": str(one.place),
        "stage": letter.stage,
        "reason": plain(letter.reason),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "failed_at": as_instant(letter.failed_at_micros or None),
        "retried_at": as_instant(one.retried_at_micros or None),
        "payload": payload_text(letter.payload),
    }
