"""How the API says no: RFC 9457, with what is wrong at which field, and what to do."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpResponse, JsonResponse

from aforo_admin.faults import CatalogError

MEDIA_TYPE: Final = "application/problem+json"
ERRORS_SHOWN_MAX: Final = 100
SEE: Final = "docs/catalog.md says how it is written"

# What is wrong, then what to do; what stands in quotes is the caller's.
_WHAT_AND_REMEDY = re.compile(r'((?:"[^"]*"|[;:](?! )|[^";:])+)[;:] (.+)', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """One thing that is wrong."""

    field: str  # In the body, as tenants.acme.deals[0].until; empty: all of it. Or a header.
    what: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        return {"field": self.field, "what": self.what, "remedy": self.remedy}


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: Of HTTP.
        code: What the type of the problem ends with: stable, for programs.
        detail: A sentence for people.
        errors: What is wrong where.
        headers: Further ones of the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        *,
        errors: Sequence[Wrong] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = headers or {}

    def response(self) -> HttpResponse:
        body: dict[str, Any] = {
            "type": f"urn:aforo:problem:{self.code}",
            "title": self.code.replace("-", " ").capitalize(),
            "status": self.status.value,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [each.as_dict() for each in self.errors[:ERRORS_SHOWN_MAX]]
        return JsonResponse(
            body, status=self.status, content_type=MEDIA_TYPE, headers={**NO_STORE, **self.headers}
        )


NO_STORE: Final = {"Cache-Control": "no-store"}


class NotFoundError(ApiError):
    """There is no such thing, or the caller is not to know that there is."""

    def __init__(self, what: str) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, "not-found", f"there is no {what} here")


class InvalidError(ApiError):
    """What was sent breaks a rule."""

    def __init__(self, errors: Iterable[Wrong]) -> None:
        found = list(errors)
        things = f"{len(found)} things are" if len(found) != 1 else "one thing is"
        super().__init__(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid",
            f"nothing was changed: {things} wrong",
            errors=found,
        )


def invalid(field: str, what: str, remedy: str) -> InvalidError:
    return InvalidError([Wrong(field=field, what=what, remedy=remedy)])


def of_catalog(error: CatalogError, *, within: str = "") -> InvalidError:
    """Return what a catalog's faults say of a part of it: fields are told from there."""
    return InvalidError(wrong(below(fault.place, within), fault.message) for fault in error.faults)


def wrong(field: str, message: str) -> Wrong:
    """Return a fault whose message says what is wrong and what to do."""
    match = _WHAT_AND_REMEDY.fullmatch(message)
    what, remedy = match.groups() if match else (message, SEE)
    return Wrong(field=field, what=what, remedy=remedy)


def below(place: str, within: str) -> str:
    """Return a place as it is told where somebody edits what stands within another."""
    if not within or not place.startswith(within):
        return place
    rest = place.removeprefix(within)
    return rest.removeprefix(".") if rest[:1] in {"", ".", "["} else place
