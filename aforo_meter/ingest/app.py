"""The HTTP interface: who asks, what for, and the shape of answers. It decides nothing else."""

import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from prometheus_client import Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from aforo_meter.domain.cloudevents import is_json
from aforo_meter.domain.ingest import UNKNOWN_METRIC
from aforo_meter.domain.ingest_fields import ASYNC_BATCH_EVENTS_MAX, BATCH_EVENTS_MAX
from aforo_meter.domain.ingest_values import Rejection, quantity_micros, shown, text_of
from aforo_meter.ingest import codec, openapi, quota
from aforo_meter.ingest.bodies import Budget, Upload
from aforo_meter.ingest.cloud_http import binary_event, cloud_events
from aforo_meter.ingest.durable import FullError
from aforo_meter.ingest.intake import (
    FORBIDDEN_CORRECTION,
    FORBIDDEN_CUSTOMER,
    UNKNOWN_CUSTOMER,
    Intake,
    Outcome,
)
from aforo_meter.ingest.keys import Key, Keys
from aforo_meter.ingest.problems import ProblemError, problem_response
from aforo_meter.ingest.redis_link import RedisAwayError, RedisLink
from aforo_meter.ingest.tenants import MetricNames

KEY_CHARACTERS_MAX: Final = 512
LEFT: Final = 499  # The client did not wait for an answer. It sees none.
SINGLE_STATUS: Final = {
    UNKNOWN_METRIC: 422,
    UNKNOWN_CUSTOMER: 422,
    FORBIDDEN_CUSTOMER: 403,
    FORBIDDEN_CORRECTION: 403,
}

REQUESTS = Counter(
    "aforo_ingest_requests_total", "Requests, by path and status.", ["path", "status"]
)
SECONDS = Histogram(
    "aforo_ingest_request_seconds",
    "From the request's head to its answer, by path.",
    ["path"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
UNDER_WAY = Gauge("aforo_ingest_requests_under_way", "Requests without an answer yet.")

log = structlog.get_logger()

Work = Callable[["Api", Request, Upload], Awaitable[Response]]


@dataclass(kw_only=True)
class Api:
    """What the endpoints need. One per process."""

    keys: Keys
    intake: Intake
    link: RedisLink
    names: MetricNames
    budget: Budget
    requests_max: int
    body_timeout_s: float
    ready: Callable[[], bool]
    under_way: int = 0


def make_app(api: Api) -> Starlette:
    """Return the ASGI application."""
    posts: list[tuple[str, Work]] = [
        ("/v1/ingest", _single),
        ("/v1/ingest/batch", _batch),
        ("/v1/ingest/async-batch", _async_batch),
        ("/v1/quota/check", _quota_check),
        ("/v1/events", _cloud),
    ]
    routes = [
        Route(prefix + path, _endpoint(api, path, work), methods=["POST"])
        for path, work in posts
        for prefix in ("", "/api")
    ]
    document = codec.encode(openapi.document())
    page = openapi.page().encode()
    routes += [
        Route("/openapi.json", _fixed(document, "application/json")),
        Route("/docs", _fixed(page, "text/html; charset=utf-8")),
        Route("/livez", _fixed(b"alive\n", "text/plain; charset=utf-8")),
        Route("/readyz", _readyz(api)),
    ]
    return Starlette(
        routes=routes,
        exception_handlers={HTTPException: _http_problem, Exception: _mistake},
    )


def _endpoint(api: Api, path: str, work: Work) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        started_s = time.perf_counter()
        api.under_way += 1
        UNDER_WAY.set(api.under_way)
        try:
            with api.budget.upload(request) as upload:
                response = await _answered(api, request, upload, work)
        except ClientDisconnect:
            response = Response(status_code=LEFT)
        finally:
            api.under_way -= 1
            UNDER_WAY.set(api.under_way)
        REQUESTS.labels(path, response.status_code).inc()
        SECONDS.labels(path).observe(time.perf_counter() - started_s)
        return response

    return answer


async def _answered(api: Api, request: Request, upload: Upload, work: Work) -> Response:
    """Return the answer, whatever became of the work."""
    try:
        if api.under_way > api.requests_max:
            problem = ProblemError(503, "Too many requests are under way.", retry_after_s=1)
        else:
            return await work(api, request, upload)
    except ProblemError as error:
        problem = error
    except FullError as error:
        log.debug("events could not be made durable", error=str(error))
        problem = ProblemError(503, "Events can't be stored right now.", retry_after_s=1)
    except RedisAwayError:
        problem = ProblemError(503, "What is needed can't be asked right now.", retry_after_s=1)
    problem.close |= not await upload.discard()
    return problem_response(problem)


async def _single(api: Api, request: Request, upload: Upload) -> Response:
    key = await _key(api, request, ingest=True)
    body = await _body(api, request, upload)

    def parse() -> list[Any]:
        event = _decoded(body)
        if not isinstance(event, dict):
            raise ProblemError(400, "The body must be one event, an object.")
        if "events" in event:
            raise ProblemError(400, "Several events go to /v1/ingest/batch: no `events` here.")
        return [event]

    return _one(await api.intake.take(key, parse))


async def _batch(api: Api, request: Request, upload: Upload) -> Response:
    key = await _key(api, request, ingest=True)
    body = await _body(api, request, upload)

    def parse() -> list[Any]:
        whole = _decoded(body)
        if isinstance(whole, list):
            raise ProblemError(
                400, 'The body must be {"events": […]}; an array goes to /v1/ingest/async-batch.'
            )
        events = whole.get("events") if isinstance(whole, dict) else None
        if not isinstance(events, list):
            raise ProblemError(400, 'The body must be an object with an array: {"events": […]}.')
        return _counted(events, BATCH_EVENTS_MAX)

    return _many(await api.intake.take(key, parse))


async def _async_batch(api: Api, request: Request, upload: Upload) -> Response:
    key = await _key(api, request, ingest=True)
    body = await _body(api, request, upload)

    def parse() -> list[Any]:
        events = _decoded(body)
        if not isinstance(events, list):
            raise ProblemError(400, "The body must be an array of events; an object is for /batch.")
        return _counted(events, ASYNC_BATCH_EVENTS_MAX)

    return _many(await api.intake.take(key, parse))


async def _cloud(api: Api, request: Request, upload: Upload) -> Response:
    key = await _key(api, request, ingest=True)
    content_type = request.headers.get("content-type", "")
    body = await _body(api, request, upload)
    is_batch = False

    def parse() -> list[Any]:
        nonlocal is_batch
        if "ce-specversion" in request.headers:
            return [binary_event(request.headers, _decoded(body) if body else None)]
        events, is_batch = cloud_events(content_type, _decoded(body))
        return _counted(events, ASYNC_BATCH_EVENTS_MAX)

    outcome = await api.intake.take(key, parse, are_cloud=True)
    return _many(outcome) if is_batch else _one(outcome)


async def _quota_check(api: Api, request: Request, upload: Upload) -> Response:
    try:
        key = await _key(api, request, ingest=False)
    except RedisAwayError:
        return _wrapped(200, quota.allow("the key can't be looked up at the moment"))
    body = _decoded(await _body(api, request, upload))
    if not isinstance(body, dict):
        raise ProblemError(400, "The body must be an object.")
    try:
        customer_id = text_of("customerId", body.get("customerId"))
        metric_name = text_of("metricName", body.get("metricName"))
        wanted = body.get("estimatedQuantity")
        wanted_micros = quantity_micros(1 if wanted is None else wanted)
    except Rejection as rejection:
        raise ProblemError(400, str(rejection)) from None
    if not customer_id:
        raise ProblemError(400, "customerId: is required")
    if not key.may_report(customer_id):  # Whose usage it may not report it is told nothing of.
        return _wrapped(200, quota.allow(f"this key may not ask about {shown(customer_id)}"))
    question = quota.Question(
        customer_id=customer_id, metric_name=metric_name, wanted_micros=wanted_micros
    )
    return _wrapped(200, await quota.check(api.link, api.names.metrics, question))


async def _key(api: Api, request: Request, *, ingest: bool) -> Key:
    """Return the key of a request that has the scope it needs.

    Raises:
        ProblemError: 401 no key, or none that is in force; 403 not for this, or another tenant.
        RedisAwayError: Nobody can tell.
    """
    secret = request.headers.get("x-api-key", "")
    if not secret:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        secret = rest.strip() if scheme.lower() == "bearer" else ""
    if not secret:
        raise ProblemError(401, "Send your key as X-API-Key, or as Authorization: Bearer.")
    key = None
    if len(secret) <= KEY_CHARACTERS_MAX:
        key = await api.keys.find(secret, now_micros=time.time_ns() // 1000)
    if key is None:
        raise ProblemError(401, "This key is unknown, revoked or expired.")
    scope = "usage:ingest" if ingest else "quotas:read"
    if not (key.may_ingest if ingest else key.may_read_quotas):
        raise ProblemError(403, f"This key lacks the scope {scope}.")
    said = request.headers.get("x-tenant-id")
    if said and said != key.installation:
        raise ProblemError(403, "X-Tenant-Id is not the tenant of this key.")
    return key


async def _body(api: Api, request: Request, upload: Upload) -> bytes | bytearray:
    if not is_json(request.headers.get("content-type", "application/json")):
        raise ProblemError(415, "Content-Type: send application/json.")
    return await upload.read(within_s=api.body_timeout_s)


def _decoded(body: bytes | bytearray) -> Any:  # noqa: ANN401 - whatever a client sends.
    try:
        return codec.decode(body)
    except codec.NotJsonError as error:
        raise ProblemError(400, str(error)) from None


def _counted(events: list[Any], count_max: int) -> list[Any]:
    if not events:
        raise ProblemError(400, "There is no event in it.")
    if len(events) > count_max:
        raise ProblemError(400, f"At most {count_max} events in a request, this has {len(events)}.")
    return events


def _one(outcome: Outcome) -> Response:
    if outcome.rejections:
        _, rejection = outcome.rejections[0]
        raise ProblemError(SINGLE_STATUS.get(rejection.kind, 400), str(rejection))
    return _many(outcome)


def _many(outcome: Outcome) -> Response:
    data: dict[str, Any] = {
        "accepted": outcome.accepted,
        "duplicates": outcome.duplicates,
        "failed": len(outcome.rejections),
        "errors": [
            {"index": index, "message": str(rejection)} for index, rejection in outcome.rejections
        ],
    }
    if outcome.killed:
        data["killedSessionIds"] = outcome.killed
    return _wrapped(202, data)


def _wrapped(status: int, data: dict[str, Any]) -> Response:
    meta = {"requestId": uuid.uuid4().hex, "timestamp": time.time()}
    body = codec.encode({"success": True, "data": data, "meta": meta})
    return Response(body, status_code=status, media_type="application/json")


def _fixed(body: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(body, media_type=media_type)

    return answer


def _readyz(api: Api) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        if api.ready():
            return Response(b"ready\n", media_type="text/plain; charset=utf-8")
        return problem_response(ProblemError(503, "Not ready.", retry_after_s=1))

    return answer


async def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for that alone"
    detail = {404: "No such path; see /docs.", 405: "No such method here; see /docs."}
    return problem_response(
        ProblemError(error.status_code, detail.get(error.status_code, str(error.detail)))
    )


async def _mistake(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return problem_response(ProblemError(500, "A mistake of ours; it is in the log."))
