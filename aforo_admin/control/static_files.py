"""The pages' static files, each answered as a whole: they are few and small."""

from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware

READ_BYTES: Final = 65_536  # A part of a file is no more than was asked for if it is read in parts.


class StaticFiles(WhiteNoiseMiddleware):
    """WhiteNoise's, but for how it hands a file over.

    It lets Django read the file while it answers. On an event loop Django does that all at once all
    the same, and warns of each such answer.
    """

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        body = b""
        if found.file is not None:
            with found.file:
                body = b"".join(iter(lambda: found.file.read(READ_BYTES), b""))
        response = HttpResponse(body, status=int(found.status))
        del response["Content-Type"]  # It says its own, where there is one.
        for name, value in found.headers:
            response[name] = value
        return response
