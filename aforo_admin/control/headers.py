"""What browsers may load and do on our pages."""

from collections.abc import Callable
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

DIRECTIVES: Final = (
    "default-src 'none'",
    # Unfold's pages are driven by Alpine, which evaluates the attributes of our own templates.
    "script-src 'self' 'unsafe-eval'",
    "style-src 'self'",
    "img-src 'self' data:",
    "font-src 'self'",
    "connect-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
)
POLICY: Final = "; ".join(DIRECTIVES)
FEATURES: Final = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


def content_policy(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Return Django's middleware."""

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("Permissions-Policy", FEATURES)
        return response

    return answer
