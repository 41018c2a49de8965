"""Answers that are errors, as application/problem+json (RFC 9457)."""

from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from aforo_meter.ingest import codec

MEDIA_TYPE: Final = "application/problem+json"


class ProblemError(Exception):
    """A request that is answered by an error.

    Args:
        status: Of HTTP.
        detail: What is wrong, and what to do about it. It never quotes a key.
        retry_after_s: Told to the client; None: waiting does not help.
        close: End the connection: the rest of the request is not worth reading.
    """

    def __init__(
        self, status: int, detail: str, *, retry_after_s: int | None = None, close: bool = False
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.close = close


def problem_body(status: int, detail: str) -> bytes:
    return codec.encode(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
        }
    )


def problem_response(error: ProblemError) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.close:
        headers["connection"] = "close"
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = 'Bearer realm="aforo"'
    return Response(
        problem_body(error.status, error.detail),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )
