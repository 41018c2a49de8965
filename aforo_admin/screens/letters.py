"""Dead letters: what could not be read or charged, why, and where it stood. It sends nothing."""

from typing import Any, Final

from django.http import Http404

from aforo_admin.places import places
from aforo_admin.screens import stores
from aforo_admin.screens.page import ROWS_PER_PAGE, ScreenView
from aforo_meter import dlq
from aforo_meter.dlq import Filter, Letter
from aforo_meter.kafka_reading import open_topic
from aforo_meter.shown_events import event_of, fields_of, json_text, payload_text, plain

RECORDS_READ_MAX: Final = 500  # The last ones of each partition: a topic may have millions.
STAGES: Final = ("ship", "ingest", "consume")


class LettersView(ScreenView):
    template_name = "control/screens/letters.html"

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - as all pages.
        stage, reason = self.asked("stage", choices=STAGES), self.asked("reason")
        missing = stores.Missing()
        wanted = Filter(stage=stage or None, reason_contains=reason)
        told = places()
        # Without Kafka there is nothing to ask: the page says what to set.
        asked = stores.run(missing.of(_newest(wanted))) if told.kafka_bootstrap else None
        letters = asked or []
        rows = letters[self.skipped : self.skipped + ROWS_PER_PAGE + 1]
        return {
            "missing": missing.said,
            "kafka": told,
            "rows": [(letter, plain(letter.letter.reason)) for letter in rows[:ROWS_PER_PAGE]],
            "stage": stage,
            "stages": STAGES,
            "reason": reason,
            "read_max": RECORDS_READ_MAX,
            **self.pages(len(rows)),
        }


class LetterView(ScreenView):
    """One letter: what it says, as an event if it is one, and as it came."""

    template_name = "control/screens/letter.html"

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - as all pages.
        try:
            place = dlq.place_of(str(self.kwargs["place"]))
        except ValueError as error:
            raise Http404(str(error)) from error
        missing = stores.Missing()
        letter = stores.run(missing.of(_one(place)))
        if letter is None:
            return {"missing": missing.said, "place": place}
        payload = letter.letter.payload
        event = event_of(payload)
        return {
            "missing": missing.said,
            "place": place,
            "letter": letter,
            "reason": plain(letter.letter.reason),
            "event": json_text(fields_of(event), indent=2) if event and event.event_id else "",
            "payload": payload_text(payload),
        }


async def _newest(wanted: Filter) -> list[Letter]:
    told = places()
    async with open_topic(told.kafka(), told.dead_letter_topic) as reader:
        return await dlq.newest(reader, wanted, records_max=RECORDS_READ_MAX)


async def _one(place: dlq.Place) -> Letter:
    told = places()
    async with open_topic(told.kafka(), told.dead_letter_topic) as reader:
        return await dlq.one(reader, place)
