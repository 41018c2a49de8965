"""What no database keeps as text is refused before a page asks one for it."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

NUL: Final = "\0"
FORMS: Final = "/admin/"  # The API reads its bodies itself.


def no_nul(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Return Django's middleware."""

    def answer(request: HttpRequest) -> HttpResponse:
        if any(NUL in text for text in _texts(request)):
            return HttpResponse(
                "The address or the form has a NUL character: leave it out.",
                status=HTTPStatus.BAD_REQUEST,
                content_type="text/plain",
            )
        response: HttpResponse = get_response(request)
        return response

    return answer


def _texts(request: HttpRequest) -> list[str]:
    if not request.path.startswith(FORMS):
        return []
    fields = [request.GET, *([request.POST] if request.method == "POST" else [])]
    return [
        request.path,
        *(text for each in fields for name, values in each.lists() for text in (name, *values)),
    ]
