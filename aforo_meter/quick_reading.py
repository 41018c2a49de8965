"""The way that most entries take to their event: by what is known already, and bytes put together.

It answers None for whatever it does not know, and event_reading.py, which knows all, takes it. What
a call has of its own here: ids, times, path, model, bytes, tokens. The rest is its plan.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from aforo_meter import envoy_values, llm_metadata, mcp_metadata
from aforo_meter.domain.usage import (
    LLM_CACHE_CREATION,
    LLM_CACHED_INPUT,
    LLM_INPUT,
    LLM_OUTPUT,
    LLM_REASONING,
    LLM_TOOL,
    TEXT_CHARACTERS_MAX,
    UNITS_MAX,
    UsageError,
    clip,
)
from aforo_meter.event_encoding import (
    CONTINUED,
    DECISION_ID,
    DIMENSIONS,
    ESTIMATED,
    OCCURRED_AT,
    RECEIVED_AT,
    UUID_ID,
    Event,
    delimited,
    measure_code,
    text_field,
    time_varint,
    varint,
)
from aforo_meter.event_reading import (
    DETAILS_BYTES_MAX,
    END,
    GRPC_STATUS_BYTES_MAX,
    METRIC_HEADER,
    PATH_BYTES_KEPT_MAX,
    PREFLIGHT_HEADERS,
    QUANTITY_HEADER,
    UNIQUE_ID_TAG,
    UUID,
    YEAR_10000_S,
    EventReader,
)
from aforo_meter.plans import Facts, Plan, id_of
from aforo_meter.recent import Recent
from aforo_proto import llm_pb2, usage_pb2
from aforo_proto.access_log_pb2 import Common, Entry, Metadata, Request, Response, TokenNumbers

RARE_NAMESPACES: Final = frozenset(
    {mcp_metadata.NAMESPACE, llm_metadata.USAGE_NAMESPACE, llm_metadata.GATEWAY_NAMESPACE}
)
TOKENS_NAMESPACE: Final = llm_metadata.TOKENS_NAMESPACE
TYPE_URL: Final = f"type.googleapis.com/{llm_metadata.TOKENS_TYPE}".encode()
ONE_SECOND_MS: Final = 1000
MODEL_BYTES_KEPT_MAX: Final = 256
DETAILS_BYTES_KEPT_MAX: Final = 64
NOBODY: Final = (b"", b"")
TENANTS_MAX: Final = 16_384  # In each generation; some 300 bytes each.
CONTENT_TYPE: Final = "content-type"
NO_DETAILS: Final = (b"", b"")
ALL_ZERO: Final = (0, 0, 0, 0)
# What an encoded UInt64Value is made of: a tag, and up to three bytes of seven bits each.
VALUE_TAG: Final = 0x08
COUNT_BYTES_MIN: Final = 2
COUNT_BYTES_MAX: Final = 4
LAST: Final = 0x7F  # A byte above it is followed by another one.

input_code: Final = measure_code(LLM_INPUT)
cached_code: Final = measure_code(LLM_CACHED_INPUT)
creation_code: Final = measure_code(LLM_CACHE_CREATION)
tool_code: Final = measure_code(LLM_TOOL)
output_code: Final = measure_code(LLM_OUTPUT)
reasoning_code: Final = measure_code(LLM_REASONING)


new_event: Final = tuple.__new__  # Half the time of calling the class.
Quick = Callable[[Entry], Event | None]
Who = tuple[bytes, bytes]
Details = tuple[int, int, int, int]  # Cached, cache creation, tools; reasoning.


class QuickReader:
    """What was worked out lately, in the form that this way needs."""

    def __init__(self, events: EventReader) -> None:
        self._events = events
        self._plans: Recent[tuple[object, ...], Plan] = Recent(1024)
        self._tenants: Recent[tuple[bytes | None, bytes | None], Who] = Recent(TENANTS_MAX)
        self._paths: Recent[tuple[int, bytes], tuple[tuple[bool, ...], bytes]] = Recent()
        self._templates: Recent[str, bytes] = Recent()
        self._models: Recent[tuple[str, int, bytes], bytes] = Recent(1024)
        self._details: Recent[tuple[bytes, bytes], Details] = Recent(1024)

    def for_message(
        self, source: str, received_micros: int, counts: Counter[tuple[str, str]]
    ) -> Quick:
        """Return what reads one entry of a message, or says None: read it as a rare one."""
        end = text_field("source", source) + RECEIVED_AT + varint(received_micros)
        plans = self._plans

        def read(entry: Entry) -> Event | None:
            common = entry.common
            uid = common.custom_tags.get(UNIQUE_ID_TAG)
            if (
                common.access_log_type != END
                or common.intermediate_log_entry
                or uid is None
                or UUID.fullmatch(uid) is None
            ):
                return None
            request, response = entry.request, entry.response
            metadata = common.metadata
            said = _said(metadata)
            grpc_status = _plain_response(response)
            details = response.response_code_details
            if (
                said is None
                or grpc_status is None
                or len(details) > DETAILS_BYTES_MAX
                or not (request.path or request.request_method)
            ):
                return None
            headers = request.request_headers
            preflight = False
            if len(headers):
                if mcp_metadata.SESSION_HEADER in headers:
                    return None
                preflight = PREFLIGHT_HEADERS[0] in headers or PREFLIGHT_HEADERS[1] in headers
            fits, path = self._path(request)
            facts = (
                said("features"),
                said("decision"),
                said("reason"),
                said("shadow_reason"),
                said("provider"),
                said("hour"),
                said("weight"),
                common.route_name,
                request.request_method,
                response.response_code,
                details,
                common.response_flags,
                preflight,
                grpc_status,
                fits,
            )
            plan = plans.young.get(facts) or plans.get(facts) or self._new_plan(facts)
            if plan is None or not plan.quick:
                return None
            who = self._who(said("tenant"), said("subscription")) if plan.decided else NOBODY
            called = self._call(common, plan, said("decision_id"))
            tokens = self._tokens(metadata, plan)
            moved = _bytes_moved(request, response, plan)
            if who is None or called is None or tokens is None or moved is None:
                return None
            for pair in plan.counts:
                counts[pair] += 1
            key, tenant = who
            event = (plan.prefix, tenant, UUID_ID, uid.lower(), called, path, moved, tokens, end)
            return new_event(Event, (key, b"".join(event)))

        return read

    def _new_plan(self, facts: tuple[object, ...]) -> Plan | None:
        try:
            plan = self._events.plan(Facts._make(facts))
        except UsageError:
            return None
        self._plans.put(facts, plan)
        return plan

    def _who(self, tenant: bytes | None, subscription: bytes | None) -> Who | None:
        """Return the event's key, and whose it is as a part of the event."""
        raw = (tenant, subscription)
        known = self._tenants.young.get(raw) or self._tenants.get(raw)
        if known is not None:
            return known
        try:
            event = usage_pb2.UsageEvent(
                tenant_id=id_of("tenant", tenant),
                subscription_id=id_of("subscription", subscription),
            )
        except UsageError:
            return None
        found = event.tenant_id.encode(), event.SerializeToString()
        self._tenants.put(raw, found)
        return found

    def _path(self, request: Request) -> tuple[tuple[bool, ...], bytes]:
        """Return which rules fit the path, and its template as a part of the event."""
        key = (request.request_method, request.path)
        found = self._paths.young.get(key) or self._paths.get(key)
        if found is None:
            view = self._events.view(request)
            part = self._templates.get(view.template)
            if part is None:
                dimensions = usage_pb2.Dimensions(path=view.template)
                part = DIMENSIONS + delimited(dimensions.SerializeToString())
                self._templates.put(view.template, part)
            found = view.fits, part
            if len(key[1]) <= PATH_BYTES_KEPT_MAX:
                self._paths.put(key, found)
        return found

    def _call(self, common: Common, plan: Plan, decision_id: bytes | None) -> bytes | None:
        """Return when it began, and its decision."""
        started = common.start_time
        seconds = started.seconds
        if not 0 < seconds < YEAR_10000_S:
            return None
        occurred = OCCURRED_AT + time_varint(seconds * 1_000_000 + started.nanos // 1000)
        if not plan.decided or decision_id is None:
            return occurred
        size = len(decision_id) - 2
        if (
            not 0 < size <= TEXT_CHARACTERS_MAX - 1
            or decision_id[0] != envoy_values.STRING
            or decision_id[1] != size
            or not decision_id.isascii()
        ):
            return None
        duration = common.duration
        late_ms = self._events.continued_after_ms
        if (duration and duration[0] == envoy_values.SECONDS) or late_ms < ONE_SECOND_MS:
            try:
                if envoy_values.duration_ms(duration) >= late_ms:
                    occurred += CONTINUED
            except UsageError:
                return None
        # A Value that is a string is encoded as any string is, but for its tag.
        return occurred + DECISION_ID + decision_id[1:]

    def _tokens(self, metadata: Metadata, plan: Plan) -> bytes | None:
        """Return model and tokens, b"" where nobody told of any."""
        typed = metadata.typed_filter_metadata
        if TOKENS_NAMESPACE not in typed:
            return b""
        packed = typed[TOKENS_NAMESPACE]
        if packed.type_url != TYPE_URL or plan.refused:
            return None
        try:
            told = TokenNumbers.FromString(packed.value)
        except DecodeError:
            return None
        model = self._model(plan.provider, told.llm_protocol, told.model)
        into, out = _count(told.input_tokens), _count(told.output_tokens)
        details_key = (told.input_token_details, told.output_token_details)
        details = ALL_ZERO if details_key == NO_DETAILS else self._split(details_key)
        if model is None or details is None or into < 0 or out < 0:
            return None
        if told.extraction_status in llm_metadata.PARTIAL:
            model += ESTIMATED
        if details == ALL_ZERO:
            if into:
                model += input_code(into)
            return model + output_code(out) if out else model
        rest = _kinds(into, out, details)
        return None if rest is None else model + rest

    def _model(self, provider: str, protocol: int, raw: bytes) -> bytes | None:
        """Return provider and model as a part of the event."""
        key = (provider, protocol, raw)
        known = self._models.young.get(key) or self._models.get(key)
        if known is not None:
            return known
        try:
            model = clip(raw.decode())
        except UnicodeDecodeError:
            return None
        dimensions = usage_pb2.Dimensions(
            provider=provider or llm_metadata.PROVIDERS.get(protocol, ""), model=model
        )
        found = DIMENSIONS + delimited(dimensions.SerializeToString())
        if len(raw) <= MODEL_BYTES_KEPT_MAX:
            self._models.put(key, found)
        return found

    def _split(self, key: tuple[bytes, bytes]) -> Details | None:
        """Return what the details of input and output say."""
        known = self._details.young.get(key) or self._details.get(key)
        if known is not None:
            return known
        try:
            into = llm_pb2.TokenUsage.InputTokenDetails.FromString(key[0])
            out = llm_pb2.TokenUsage.OutputTokenDetails.FromString(key[1])
        except DecodeError:
            return None
        found = (
            into.cached_tokens.value,
            into.cache_creation_tokens.value,
            into.tool_use_tokens.value,
            out.reasoning_tokens.value,
        )
        if len(key[0]) + len(key[1]) <= DETAILS_BYTES_KEPT_MAX:
            self._details.put(key, found)
        return found


Said = Callable[[str], bytes | None]


def _nothing_said(_: str) -> None:
    return None


def _said(metadata: Metadata) -> Said | None:
    """Return what looks up what the decision said; None where other filters said more."""
    namespaces = metadata.filter_metadata
    if len(namespaces) > 1 and not RARE_NAMESPACES.isdisjoint(namespaces):
        return None
    if envoy_values.DECISION_NAMESPACE in namespaces:
        return namespaces[envoy_values.DECISION_NAMESPACE].fields.get
    return None if len(namespaces) and not RARE_NAMESPACES.isdisjoint(namespaces) else _nothing_said


def _plain_response(response: Response) -> bytes | None:
    """Return the status of gRPC, b"" where there is none; None where it is no usual answer."""
    grpc_status = b""
    headers = response.response_headers
    if len(headers) > 1 or (len(headers) and CONTENT_TYPE not in headers):
        if METRIC_HEADER in headers or QUANTITY_HEADER in headers:
            return None
        grpc_status = headers.get(envoy_values.GRPC_STATUS, b"")
    trailers = response.response_trailers
    if len(trailers):
        grpc_status = trailers.get(envoy_values.GRPC_STATUS, grpc_status)
    return grpc_status if len(grpc_status) <= GRPC_STATUS_BYTES_MAX else None


def _bytes_moved(request: Request, response: Response, plan: Plan) -> bytes | None:
    moved = b""
    if plan.request_code is not None:
        count = request.request_body_bytes
        if count > UNITS_MAX:
            return None
        if count:
            moved = plan.request_code(count)
    if plan.response_code is not None:
        count = response.response_body_bytes
        if count > UNITS_MAX:
            return None
        if count:
            moved += plan.response_code(count)
    return moved


def _kinds(into: int, out: int, details: Details) -> bytes | None:
    """Return the measures of each kind; None where details exceed a total, or it was not told."""
    cached, creation, tool, reasoning = details
    if cached + creation + tool > into or reasoning > out:
        return None
    kinds = (
        (input_code, into - cached - creation - tool),
        (cached_code, cached),
        (creation_code, creation),
        (tool_code, tool),
        (output_code, out - reasoning),
        (reasoning_code, reasoning),
    )
    return b"".join([code(units) for code, units in kinds if units])


def _count(raw: bytes) -> int:
    """Return the number in an encoded UInt64Value, 0 where it is not told; -1: look closer."""
    size = len(raw)
    if size == 0:
        return 0
    if raw[0] != VALUE_TAG or size > COUNT_BYTES_MAX or size < COUNT_BYTES_MIN or raw[-1] > LAST:
        return -1
    number = raw[1] & LAST
    if size == COUNT_BYTES_MIN:
        return number
    if raw[1] <= LAST:
        return -1
    number |= (raw[2] & LAST) << 7
    if size == COUNT_BYTES_MIN + 1:
        return number
    return number | raw[3] << 14 if raw[2] > LAST else -1
