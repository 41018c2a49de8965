"""One event that arrived over HTTP → what was used, or why it can't be taken. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aforo_meter.domain.ingest_fields import (
    CALL_TOKENS_METRIC,
    HEARTBEAT_METRIC,
    METADATA_BYTES_MAX,
    METADATA_LEVELS_MAX,
    PRODUCTS,
    REQUIRED,
    TEXT_UNITS_MAX,
    Boundary,
)
from aforo_meter.domain.ingest_metrics import AGENT_SESSIONS, Metric
from aforo_meter.domain.ingest_tokens import TOKEN_NAMES, call_tokens, token_measures
from aforo_meter.domain.ingest_values import (
    MICROS_PER_UNIT,
    SECOND_MICROS,
    Rejection,
    either,
    occurred_micros,
    quantity_micros,
    shown,
    text_of,
)
from aforo_meter.domain.outcomes import ExecutionStatus
from aforo_meter.domain.paths import plain_path, template_of
from aforo_meter.domain.usage import clip

DAY_MICROS: Final = 86_400 * SECOND_MICROS
FUTURE_MICROS_MAX: Final = 300 * SECOND_MICROS
LATE_AFTER_MICROS: Final = DAY_MICROS

UNKNOWN_METRIC: Final = "unknown_metric"

STATUS_CODE_MIN: Final = 100
STATUS_CODE_MAX: Final = 599
STATUSES: Final = {status.value: status for status in ExecutionStatus}
DECISION_ID: Final = re.compile(r"[0-9a-f]{32}")
NO_METADATA: Final[Mapping[str, Any]] = {}

# What an event has a place of its own for. Everything else that it says is kept with its metadata.
PLACED: Final = frozenset(
    {
        *REQUIRED,
        *("productType", "executionStatus", "sessionId", "agentId", "toolName", "httpMethod"),
        *("statusCode", "sessionBoundary", "aforoDecisionId", "metadata"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an event is held against.

    Args:
        metrics: Names that are known, with what they mean.
        now_micros: When it arrived.
        age_micros_max: How old it may be.
        encode: Metadata as compact JSON.
    """

    metrics: Mapping[str, Metric]
    now_micros: int
    age_micros_max: int = 90 * DAY_MICROS
    encode: Callable[[Mapping[str, Any]], bytes]


class Reading(NamedTuple):
    """What an event says. Quantities are in millionths of a unit, times in Unix microseconds."""

    customer_id: str
    idempotency_key: str
    occurred_micros: int
    late: bool
    measures: tuple[tuple[str, int], ...]
    boundary: Boundary | None
    status: ExecutionStatus | None
    product: str
    tool: str
    agent: str
    session: str
    method: str
    path: str
    status_code: int
    provider: str
    model: str
    metadata_json: bytes
    decision_id: str  # Of the call at the gateway whose tokens these are; "" for usage of its own.


def read_event(event: Any, rules: Rules) -> Reading:  # noqa: ANN401 - of JSON.
    """Return what an event says.

    Raises:
        Rejection: It names the field and the limit.
    """
    if type(event) is not dict:
        raise Rejection("event", f"must be an object, this is {shown(event)}")
    texts = {name: text_of(name, value) for name, value in event.items() if name in TEXT_UNITS_MAX}
    metadata = event.get("metadata")
    if metadata is None:
        metadata = NO_METADATA
    elif type(metadata) is not dict:
        raise Rejection("metadata", f"must be an object, this is {shown(metadata)}")
    customer_id, metric_name = _required(texts, "customerId"), _required(texts, "metricName")
    key = _required(texts, "idempotencyKey")
    occurred = _occurred(event, rules)
    quantity = quantity_micros(_present(event, "quantity"))
    boundary = _boundary(event, metadata, metric_name)
    product = texts.get("productType", "").strip().upper()
    text = _Texts(event, texts, metadata)
    session = text.of("sessionId")
    decision_id = _decision_id(text, metric_name, boundary)
    if decision_id:
        measures, session = call_tokens(metadata), ""  # It is no step of the session.
    elif boundary is None:
        _require_product_fields(text, product)
        measures = _measures(metric_name, quantity, metadata, rules)
    elif not session:
        raise Rejection("sessionId", "is required of a heartbeat")
    else:
        measures = ((AGENT_SESSIONS, MICROS_PER_UNIT),) if boundary is Boundary.START else ()
    return Reading(
        customer_id=customer_id,
        idempotency_key=key,
        occurred_micros=occurred,
        late=occurred < rules.now_micros - LATE_AFTER_MICROS,
        measures=measures,
        boundary=boundary,
        status=_status(texts.get("executionStatus", "")),
        product=product,
        tool=text.of("toolName") or text.of("capabilityName"),
        agent=text.of("agentId"),
        session=session,
        method=texts.get("httpMethod", "").upper(),
        path=_path(texts),
        status_code=_status_code(event.get("statusCode")),
        provider=clip(text_of("provider", either(metadata, "provider"))),
        model=clip(text_of("model", either(metadata, "model"))),
        metadata_json=_kept(event, metadata, rules.encode),
        decision_id=decision_id,
    )


class _Texts:
    """Texts of an event; metadata is asked where the event itself is silent."""

    __slots__ = ("_event", "_metadata", "_texts")

    def __init__(
        self, event: Mapping[str, Any], texts: Mapping[str, str], metadata: Mapping[str, Any]
    ) -> None:
        self._event = event
        self._texts = texts
        self._metadata = metadata

    def of(self, name: str) -> str:
        """Return a field's text; "" if nobody says it.

        Raises:
            Rejection: Metadata says something that can't be it.
        """
        found = self._texts.get(name)
        if found is None and name not in TEXT_UNITS_MAX:
            found = text_of(name, self._event.get(name))
        return found or (text_of(name, either(self._metadata, name)) if self._metadata else "")


def _required(texts: Mapping[str, str], name: str) -> str:
    text = texts.get(name)
    if not text:
        raise Rejection(name, "is required")
    return text


def _present(event: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - of JSON.
    value = event.get(name)
    if value is None:
        raise Rejection(name, "is required")
    return value


def _occurred(event: Mapping[str, Any], rules: Rules) -> int:
    value = _present(event, "occurredAt")
    at_micros = occurred_micros(value)
    if at_micros > rules.now_micros + FUTURE_MICROS_MAX:
        raise Rejection(
            "occurredAt",
            f"at most {FUTURE_MICROS_MAX // SECOND_MICROS // 60} minutes ahead of the server's"
            f" clock, this is {shown(value)}",
        )
    if at_micros < rules.now_micros - rules.age_micros_max:
        raise Rejection(
            "occurredAt",
            f"at most {rules.age_micros_max // DAY_MICROS} days old, this is {shown(value)}",
        )
    return at_micros


def _boundary(
    event: Mapping[str, Any], metadata: Mapping[str, Any], metric_name: str
) -> Boundary | None:
    """Return what the event says of its session; None if it is usage."""
    is_heartbeat = metric_name == HEARTBEAT_METRIC
    value = event.get("sessionBoundary")
    if value is None and is_heartbeat:
        value = either(metadata, "sessionBoundary")
    name = text_of("sessionBoundary", value).strip().upper()
    if not name:
        return Boundary.HEARTBEAT if is_heartbeat else None
    try:
        return Boundary(name)
    except ValueError:
        raise Rejection(
            "sessionBoundary", f"one of {', '.join(Boundary)}, this is {shown(value)}"
        ) from None


def _decision_id(text: _Texts, metric_name: str, boundary: Boundary | None) -> str:
    """Return the call at the gateway that an event corrects; "" if it is usage of its own."""
    said = text.of("aforoDecisionId")
    if not said and metric_name != CALL_TOKENS_METRIC:
        return ""
    if metric_name != CALL_TOKENS_METRIC or boundary is not None:
        raise Rejection(
            "aforoDecisionId",
            f"goes with the metricName {CALL_TOKENS_METRIC} and no sessionBoundary: the gateway has"
            " counted all of the call but its tokens",
        )
    if DECISION_ID.fullmatch(said) is None:
        raise Rejection(
            "aforoDecisionId",
            f"is required of {CALL_TOKENS_METRIC}: the 32 hex digits of the call's"
            f" x-aforo-decision-id, in lower case; this is {shown(said)}",
        )
    return said


def _require_product_fields(text: _Texts, product: str) -> None:
    """Refuse an event that lacks what its product is told apart by."""
    if product not in PRODUCTS:
        return
    for name in PRODUCTS[product].required:
        if not text.of(name):
            raise Rejection(
                name, f"is required of {product}, at the top level or as metadata.{name}"
            )


def _status(text: str) -> ExecutionStatus | None:
    name = text.strip().upper()
    if not name:
        return None
    status = STATUSES.get(name)
    if status is None:
        raise Rejection(
            "executionStatus", f"one of {', '.join(ExecutionStatus)}, this is {shown(text)}"
        )
    return status


def _path(texts: Mapping[str, str]) -> str:
    """Return what was called: a path without its ids, or a gRPC method as it is on the wire."""
    path = texts.get("endpointPath", "")
    if path:
        return template_of(plain_path(path))
    if texts.get("grpcService") and texts.get("grpcMethod"):
        return f"/{texts['grpcService']}/{texts['grpcMethod']}"
    return ""


def _status_code(value: Any) -> int:  # noqa: ANN401 - of JSON.
    """Return an HTTP status, 0 if it is none: it is shown, and nothing rests on it."""
    if type(value) is int and STATUS_CODE_MIN <= value <= STATUS_CODE_MAX:
        return value
    return 0


def _measures(
    metric_name: str, quantity: int, metadata: Mapping[str, Any], rules: Rules
) -> tuple[tuple[str, int], ...]:
    """Return what was used: the metric's quantity, and tokens that metadata tells.

    If the metric itself counts tokens, metadata describes the same ones, or those of another event
    of the same call: it counts nothing.

    Raises:
        Rejection: The metric is unknown, or a number of tokens is none.
    """
    metric = rules.metrics.get(metric_name)
    if metric is None:
        raise Rejection(
            "metricName",
            f"no metric {shown(metric_name)}; it has to be a meter of the catalog, an alias of one,"
            " or a default metric",
            kind=UNKNOWN_METRIC,
        )
    first = (metric.meter, quantity)
    if metadata.keys().isdisjoint(TOKEN_NAMES):
        return (first,)
    measures = token_measures(metadata)  # What is no count is refused, counted or not.
    return (first,) if metric.is_tokens else (first, *measures)


def _kept(
    event: Mapping[str, Any],
    metadata: Mapping[str, Any],
    encode: Callable[[Mapping[str, Any]], bytes],
) -> bytes:
    """Return the metadata and whatever else the event says, as JSON; nothing if there is none.

    Raises:
        Rejection: It is too large, too deep, or no text.
    """
    rest = event.keys() - PLACED
    if rest:
        more = {name: event[name] for name in event if name in rest and event[name] is not None}
        kept: Mapping[str, Any] = {**more, **metadata}
    else:
        kept = metadata
    if not kept:
        return b""
    try:
        text = encode(kept)
    except (UnicodeEncodeError, RecursionError):
        raise Rejection(
            "metadata", "has half of a surrogate pair in it, or is too deeply nested"
        ) from None
    if len(text) > METADATA_BYTES_MAX:
        raise Rejection(
            "metadata",
            f"at most {METADATA_BYTES_MAX} bytes of JSON, fields without a place of their own"
            f" included; this has {len(text)}",
        )
    # Counting is cheap, and says for nearly all that they can't be too deep.
    if text.count(b"{") + text.count(b"[") > METADATA_LEVELS_MAX and _levels(kept) > (
        METADATA_LEVELS_MAX
    ):
        raise Rejection("metadata", f"at most {METADATA_LEVELS_MAX} levels of nesting")
    return text


def _levels(value: Any) -> int:  # noqa: ANN401 - of JSON.
    """Return how deep a value is nested, without recursion: it may be deep."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        one, level = waiting.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        if inner is None:
            continue
        deepest = max(deepest, level)
        waiting += [(part, level + 1) for part in inner]
    return deepest
