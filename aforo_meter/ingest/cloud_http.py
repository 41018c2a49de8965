"""CloudEvents over HTTP: which of the three modes a request is in, and the events it holds."""

import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from aforo_meter.ingest.problems import ProblemError

BATCH: Final = "application/cloudevents-batch+json"
PREFIX: Final = "ce-"


def cloud_events(content_type: str, body: Any) -> tuple[list[Any], bool]:  # noqa: ANN401
    """Return the events of a structured request, and whether it is a batch.

    Raises:
        ProblemError: 400, the body is not what its type says.
    """
    is_batch = content_type.partition(";")[0].strip().lower() == BATCH
    if is_batch or isinstance(body, list):
        if not isinstance(body, list):
            raise ProblemError(400, f"A body of {BATCH} is an array of CloudEvents.")
        return body, True
    if not isinstance(body, dict):
        raise ProblemError(400, "The body must be a CloudEvent, an object.")
    return [body], False


def binary_event(headers: Mapping[str, str], data: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a CloudEvent whose attributes came as headers `ce-…`, and whose data is the body."""
    event: dict[str, Any] = {
        name.removeprefix(PREFIX): urllib.parse.unquote(value)
        for name, value in headers.items()
        if name.startswith(PREFIX)
    }
    return event | {"data": data}
