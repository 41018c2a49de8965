"""A write: one recorded change, made once however often it is sent, and by who may make it."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, JsonResponse

from aforo_admin import acts, store
from aforo_admin.acts import Act
from aforo_admin.control import permitting
from aforo_admin.control.models_api import IdempotentAnswer
from aforo_admin.control.recording import Change, Source
from aforo_admin.faults import CatalogError
from aforo_admin.rest.documents import body_of, etag_of
from aforo_admin.rest.problems import NO_STORE, ApiError, invalid, of_catalog
from aforo_admin.rest.tokens import Caller

REASON: Final = "X-Aforo-Reason"
REASON_CHARS_MAX: Final = 500
KEY: Final = "Idempotency-Key"
KEY_CHARS_MAX: Final = 200
KEPT_FOR: Final = timedelta(hours=24)
UNDER_WAY: Final = HTTPStatus.PROCESSING  # Kept instead of an answer, while there is none.
UNDER_WAY_FOR: Final = timedelta(minutes=1)
SECRET: Final = "secret"  # noqa: S105 - a field that only the first answer has.


@dataclass(slots=True, kw_only=True)
class Answer:
    """What is said to a write."""

    status: HTTPStatus = HTTPStatus.OK
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> HttpResponse:
        if self.status is HTTPStatus.NO_CONTENT:
            return HttpResponse(status=self.status, headers={**NO_STORE, **self.headers})
        return JsonResponse(
            self.body, safe=False, status=self.status, headers={**NO_STORE, **self.headers}
        )


Work = Callable[[Change], Answer]


def shown(body: Any, *, etag_from: Any = None) -> HttpResponse:
    """Return an answer to a read; what can be edited has an entity tag."""
    headers = {} if etag_from is None else {"ETag": etag_of(etag_from)}
    return Answer(body=body, headers=headers).response()


def write(
    request: HttpRequest, caller: Caller, work: Work, *, reason: str = "", checked: bool = False
) -> HttpResponse:
    """Do some work as one change, and answer; a repeat is answered as it was.

    Args:
        request: What was asked.
        caller: By whom.
        work: What is to be done, within the change.
        reason: Why, where the request's header does not say it.
        checked: It changes nothing that the catalog's rules speak of.

    Raises:
        ApiError: It was asked with a key that was used for something else.
        InvalidError: What results breaks a rule. Nothing has changed.
        NotPermittedError: The caller's role may not make this change. Nothing has changed.
        ReasonMissingError: Floors or overrides change, and nobody says why. Nothing has changed.
    """
    digest = _request_digest(request)
    key = _key_digest(request, caller)
    within = ""
    try:
        with _change(request, caller, reason=reason, checked=checked) as made:
            # The change waits for other writers, so a repeat finds what the first has left.
            first = _find(key, digest, made) if key else None
            if first is not None:
                return first.response()
            answer = work(made)
            if key:
                _keep(key, digest, answer, made)
            within = made.within
    except CatalogError as error:
        if not within:  # Nothing was edited, or it did not come to its end.
            raise
        raise of_catalog(error, within=within) from None
    return answer.response()


def repeated(request: HttpRequest, caller: Caller) -> HttpResponse | None:
    """Return what a repeat is answered, for who works long before the write; None: it is none.

    Raises:
        ApiError: It was asked with a key that was used for something else.
    """
    key = _key_digest(request, caller)
    found = _held(key, _request_digest(request), datetime.now(UTC)) if key else None
    return None if found is None else found.response()


def perform(
    request: HttpRequest, caller: Caller, act: Act, work: Callable[[], object], body: Any
) -> HttpResponse | None:
    """Do something outside the catalog's database, and answer; None: it could not be done.

    A repeat is answered as it was once the act is known to be done. Meanwhile it is refused, for a
    minute at most: whoever was at it may have ended in the midst of it. What could not be done is
    done again.

    Args:
        request: What was asked.
        caller: By whom.
        act: What is done, for the record, which tells of it first.
        work: Does it; None: it could not.
        body: The answer.

    Raises:
        ApiError: It was asked with a key that was used for something else, or is being done.
    """
    digest, key, answer = _request_digest(request), _key_digest(request, caller), Answer(body=body)

    def change() -> AbstractContextManager[Change]:
        return _change(request, caller, checked=True)

    if not key:
        return None if acts.do(act, work, change) is None else answer.response()
    with change() as made:
        first = _find(key, digest, made)
        if first is not None:
            return first.response()
        _keep(key, digest, Answer(status=UNDER_WAY), made)
    done = False
    try:
        done = acts.do(act, work, change) is not None
    finally:
        with change() as made:
            IdempotentAnswer.objects.filter(pk=key).delete()
            if done:
                _keep(key, digest, answer, made)
    return answer.response() if done else None


def _change(
    request: HttpRequest, caller: Caller, *, reason: str = "", checked: bool
) -> AbstractContextManager[Change]:
    return store.change(
        actor=caller.actor,
        source=Source.REST,
        reason=_reason(request) or reason,
        checked=checked,
        permit=lambda made: permitting.check(made, caller.has),
    )


def check_match(request: HttpRequest, held: Any) -> None:
    """Refuse an edit of what somebody else has edited meanwhile.

    Raises:
        ApiError: The request does not say which state it edits, or it is no longer that.
    """
    given = request.headers.get("If-Match")
    if given is None:
        raise ApiError(
            HTTPStatus.PRECONDITION_REQUIRED,
            "precondition-required",
            "say which state you edit: If-Match with the ETag that you were given, or * for any",
        )
    tags = {tag.strip() for tag in given.split(",")}
    if "*" not in tags and etag_of(held) not in tags:
        raise ApiError(
            HTTPStatus.PRECONDITION_FAILED,
            "changed-meanwhile",
            "it is no longer what you were shown: get it again, and edit that",
        )


def _reason(request: HttpRequest) -> str:
    # A header is bytes, and arrives as Latin-1.
    given = str(request.headers.get(REASON, ""))
    text = given.encode("latin-1", "replace").decode("utf-8", "replace").strip()
    if len(text) > REASON_CHARS_MAX or not text.isprintable():
        raise invalid(REASON, "is too long, or not printable", f"use {REASON_CHARS_MAX} characters")
    return text


def _request_digest(request: HttpRequest) -> str:
    said = f"{request.method} {request.get_full_path()}\n".encode() + body_of(request)
    return hashlib.sha256(said).hexdigest()


def _key_digest(request: HttpRequest, caller: Caller) -> str:
    given = request.headers.get(KEY)
    if given is None:
        return ""
    if not 0 < len(given) <= KEY_CHARS_MAX:
        raise invalid(KEY, "is empty or too long", f"use 1 to {KEY_CHARS_MAX} characters")
    return hashlib.sha256(f"{caller.token_id}\0{given}".encode()).hexdigest()


def _find(key: str, digest: str, made: Change) -> Answer | None:
    kept = IdempotentAnswer.objects
    kept.filter(made_at__lt=made.at - KEPT_FOR).delete()
    kept.filter(status=UNDER_WAY, made_at__lt=made.at - UNDER_WAY_FOR).delete()
    return _held(key, digest, made.at)


def _held(key: str, digest: str, at: datetime) -> Answer | None:
    held = IdempotentAnswer.objects.filter(pk=key, made_at__gte=at - KEPT_FOR).first()
    if held is None:
        return None
    if held.request_digest != digest:
        raise ApiError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "key-reused",
            f"this {KEY} was used for another request: take a new one",
        )
    if held.status == UNDER_WAY:
        raise ApiError(
            HTTPStatus.CONFLICT,
            "under-way",
            f"the request that brought this {KEY} first is being done: ask again in a moment",
        )
    return Answer(
        status=HTTPStatus(held.status),
        body=held.body,
        headers={**held.headers, "Idempotent-Replayed": "true"},
    )


def _keep(key: str, digest: str, answer: Answer, made: Change) -> None:
    IdempotentAnswer.objects.create(
        digest=key,
        request_digest=digest,
        status=answer.status,
        body=_without_secrets(answer.body),
        headers=answer.headers,
        made_at=made.at,
    )


def _without_secrets(body: Any) -> Any:
    if not isinstance(body, Mapping):
        return body
    return {name: value for name, value in body.items() if name != SECRET}
