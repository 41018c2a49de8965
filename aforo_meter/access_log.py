"""Envoy's access-log messages → usage events: the only module that knows Envoy's messages.

Who called comes from the decision's metadata and from nothing else. One entry becomes one event, or
one unreadable piece, or is of a kind that is not metered; nothing in it can raise.
"""

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from aforo_meter.domain import usage
from aforo_proto import llm_pb2, usage_pb2

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
METHOD: Final = "StreamAccessLogs"
CLOSING_RESPONSE: Final[bytes] = StreamAccessLogsResponse().SerializeToString()

DECISION_NAMESPACE: Final = "envoy.filters.http.ext_authz"
TOKENS_NAMESPACE: Final = "envoy.ai.token_usage"
TOKENS_TYPE: Final = "envoy.data.ai.v3.TokenUsage"
# Envoy's configuration sets it to %UNIQUE_ID%: fresh for each entry, out of clients' reach.
UNIQUE_ID_TAG: Final = "uid"
PREFLIGHT_HEADERS: Final = ("access-control-request-method", "origin")
REFUSED_DETAILS: Final = frozenset({"ext_authz_denied", "ext_authz_error", "ext_authz_invalid"})
METERED_TYPES: Final = frozenset({AccessLogType.DownstreamEnd, AccessLogType.NotSet})

Message: TypeAlias = Any  # xds-protos ships no types.

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
OUTCOMES: Final = {
    usage.Outcome.ALLOW: usage_pb2.OUTCOME_ALLOW,
    usage.Outcome.THROTTLE: usage_pb2.OUTCOME_THROTTLE,
    usage.Outcome.BLOCK: usage_pb2.OUTCOME_BLOCK,
    usage.Outcome.NOT_DECIDED: usage_pb2.OUTCOME_NOT_DECIDED,
}
PROVIDERS: Final = {
    llm_pb2.TokenUsage.OPENAI_CHAT_COMPLETIONS: "openai",
    llm_pb2.TokenUsage.OPENAI_RESPONSES: "openai",
    llm_pb2.TokenUsage.ANTHROPIC_MESSAGES: "anthropic",
    llm_pb2.TokenUsage.GEMINI_GENERATE_CONTENT: "google",
}
YEAR_10000_MICROS: Final = 253_402_300_800_000_000
METHODS: Final = {number: name for name, number in RequestMethod.items() if number}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """An event, and what is worth counting about how it was made."""

    event: usage_pb2.UsageEvent
    unmetered: usage.Unmetered | None  # Why the call itself is no usage; None: it is.
    tokens_cut: bool = False  # The provider's details exceeded its totals.


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A piece that can't become an event."""

    reason: str  # a sentence
    # As received, or of one entry if they could be told apart; where that had been parsed, maps may
    # stand in another order.
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """An entry that says nothing about a finished HTTP call."""

    kind: str  # Envoy's access-log type, or "tcp"


Reading = Metered | Unreadable | Ignored


class StreamReader:
    """Reads one gRPC stream: Envoy says who it is in the first message only."""

    def __init__(
        self,
        rules: usage.MeteringRules,
        *,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._rules = rules
        self._new_id = new_id
        self._source = "envoy:"

    def read(self, payload: bytes) -> Iterator[Reading]:
        """Return what a message of the stream says, one item for each entry in it."""
        try:
            message = StreamAccessLogsMessage.FromString(payload)
        except DecodeError:
            yield from self._salvage(payload)
            return
        if message.HasField("identifier"):
            self._introduce(message.identifier)
        for entry in message.http_logs.log_entry:
            yield self._read_entry(entry)
        for _ in message.tcp_logs.log_entry:
            yield Ignored(kind="tcp")

    def _introduce(self, identifier: Message) -> None:
        self._source = usage.clip(f"envoy:{identifier.node.id}")

    def _salvage(self, payload: bytes) -> Iterator[Reading]:
        """Read the sound entries of a message that holds a broken one.

        protobuf refuses a whole message for one string that is not UTF-8, and a message mixes the
        calls of many tenants: one of them must not be able to hide the others' usage.
        """
        try:
            names = list(_subfields(payload, 1))  # StreamAccessLogsMessage.identifier
            parts = list(_subfields(payload, 2))  # .http_logs
            entries = [entry for part in parts for entry in _subfields(part, 1)]  # .log_entry
        except DecodeError:
            names, entries = [], []
        for name in names:
            with contextlib.suppress(DecodeError):
                self._introduce(StreamAccessLogsMessage.Identifier.FromString(name))
        if not entries:
            yield Unreadable(reason="not a StreamAccessLogsMessage", payload=payload)
        for raw in entries:
            try:
                entry = HTTPAccessLogEntry.FromString(raw)
            except DecodeError:
                yield Unreadable(reason="not an HTTPAccessLogEntry", payload=raw)
            else:
                yield self._read_entry(entry)

    def _read_entry(self, entry: Message) -> Reading:
        common = entry.common_properties
        if common.access_log_type not in METERED_TYPES or common.intermediate_log_entry:
            return Ignored(kind=_type_name(common.access_log_type))
        try:
            return self._metered(entry)
        except usage.UsageError as error:
            return Unreadable(reason=str(error), payload=entry.SerializeToString())
        except Exception as error:  # noqa: BLE001 - our mistake costs one entry, not the stream.
            reason = f"could not be read: {type(error).__name__}: {error}"
            return Unreadable(reason=reason, payload=entry.SerializeToString())

    def _metered(self, entry: Message) -> Metered:
        common, request, response = entry.common_properties, entry.request, entry.response
        said = _decision_metadata(common.metadata)
        tokens = _token_usage(common.metadata)
        call = _call(entry, decision=said.get("decision"), tokens=tokens)
        outcome = usage.outcome_of(call)
        event = usage_pb2.UsageEvent(
            event_id=self._event_id(common.custom_tags),
            source=self._source,
            occurred_at_micros=_start_micros(common.start_time),
            outcome=OUTCOMES[outcome],
            dimensions=usage_pb2.Dimensions(
                provider=usage.clip(said.get("provider") or PROVIDERS.get(tokens.llm_protocol, "")),
                model=usage.clip(tokens.model),
                route=usage.clip(common.route_name, usage.ROUTE_CHARACTERS_MAX),
                method=METHODS.get(request.request_method, ""),
                status=response.response_code.value,
            ),
            measures=[
                usage_pb2.Measure(meter=one.meter, units=one.units)
                for one in usage.measure(call, self._rules)
            ],
            estimated=tokens.extraction_status
            in {llm_pb2.TokenUsage.PARTIAL, llm_pb2.TokenUsage.FAILED},
            aborted=_aborted(common.response_flags, response.response_code_details),
        )
        if call.decision is not None:
            _attribute(event, said, passed_in_shadow=call.decision == "block" != outcome.value)
        return Metered(
            event=event,
            unmetered=usage.why_unmetered(call, self._rules),
            tokens_cut=usage.details_exceed_totals(call.tokens),
        )

    def _event_id(self, tags: Mapping[str, str]) -> str:
        # `get` on a protobuf map does not create the key, and never reads x-request-id: a client
        # who repeats that one would be billed once for two calls.
        tag = tags.get(UNIQUE_ID_TAG, "")
        return tag.lower() if UUID.fullmatch(tag) else self._new_id()


def text_of(payload: bytes) -> str:
    """Return an entry for people to read; "" if it is none."""
    try:
        return str(HTTPAccessLogEntry.FromString(payload)).rstrip()
    except DecodeError:
        return ""


def _subfields(payload: bytes, number: int) -> Iterator[bytes]:
    """Return the length-delimited fields of one number, without knowing what is in them."""
    fields = UnknownFieldSet(Empty.FromString(payload))
    for index in range(len(fields)):
        one = fields[index]
        if one.field_number == number and isinstance(one.data, bytes):
            yield one.data


def _type_name(number: int) -> str:
    try:
        return str(AccessLogType.Name(number))
    except ValueError:
        return "unknown"


def _start_micros(start_time: Message) -> int:
    """Return Unix time in microseconds.

    Raises:
        UsageError: The entry has no time, or none of this era: its period is not known.
    """
    micros = int(start_time.seconds * 1_000_000 + start_time.nanos // 1000)
    if not 0 < micros < YEAR_10000_MICROS:
        raise usage.UsageError("the entry has no believable start_time")
    return micros


def _decision_metadata(metadata: Message) -> dict[str, str]:
    """Return the texts that the decision left for us. Envoy adds numbers of its own."""
    if DECISION_NAMESPACE not in metadata.filter_metadata:
        return {}
    fields = metadata.filter_metadata[DECISION_NAMESPACE].fields
    return {name: value.string_value for name, value in fields.items() if value.string_value}


def _token_usage(metadata: Message) -> llm_pb2.TokenUsage:
    """Return what the provider counted; an empty message if it did not.

    Raises:
        UsageError: Something stands there that can't be read.
    """
    if TOKENS_NAMESPACE not in metadata.typed_filter_metadata:
        return llm_pb2.TokenUsage()
    packed = metadata.typed_filter_metadata[TOKENS_NAMESPACE]
    if packed.type_url.rpartition("/")[2] != TOKENS_TYPE:
        raise usage.UsageError(f"token usage of unknown type {usage.clip(packed.type_url)!r}")
    try:
        return llm_pb2.TokenUsage.FromString(packed.value)
    except DecodeError:
        raise usage.UsageError(f"token usage that is not a {TOKENS_TYPE}") from None


def _call(
    entry: Message,
    *,
    decision: str | None,
    tokens: llm_pb2.TokenUsage,
) -> usage.Call:
    request, response = entry.request, entry.response
    flags = entry.common_properties.response_flags
    return usage.Call(
        decision=decision,
        # The flag too: a client that leaves may change the details, and the status says nothing,
        # since a gRPC call is refused with 200.
        refused_at_gate=response.response_code_details in REFUSED_DETAILS
        or flags.HasField("unauthorized_details"),
        method=METHODS.get(request.request_method, ""),
        path=request.path,
        status=response.response_code.value,
        details=response.response_code_details,
        looks_like_preflight=any(name in request.request_headers for name in PREFLIGHT_HEADERS),
        request_bytes=request.request_body_bytes,
        response_bytes=response.response_body_bytes,
        tokens=usage.ReportedTokens(
            input_tokens=tokens.input_tokens.value if tokens.HasField("input_tokens") else None,
            output_tokens=tokens.output_tokens.value if tokens.HasField("output_tokens") else None,
            cached_input_tokens=tokens.input_token_details.cached_tokens.value,
            cache_creation_tokens=tokens.input_token_details.cache_creation_tokens.value,
            reasoning_tokens=tokens.output_token_details.reasoning_tokens.value,
        ),
    )


def _attribute(
    event: usage_pb2.UsageEvent, said: Mapping[str, str], *, passed_in_shadow: bool
) -> None:
    """Put in whose call it was, as the decision said.

    Raises:
        UsageError: An id is longer than any that the catalog allows. Cut, it would be another's.
    """
    for name in ("tenant", "subscription", "decision_id"):
        if len(said.get(name, "")) > usage.TEXT_CHARACTERS_MAX:
            raise usage.UsageError(f"the decision's {name} is {len(said[name])} characters long")
    event.tenant_id = said.get("tenant", "")
    event.subscription_id = said.get("subscription", "")
    event.decision_id = said.get("decision_id", "")
    event.reason = usage.clip(said.get("reason", ""))
    event.shadow_reason = usage.clip(said.get("shadow_reason", ""))
    if passed_in_shadow and not event.shadow_reason:
        event.shadow_reason = event.reason
    features = {one.strip() for one in said.get("features", "").split(",")} - {""}
    event.features.extend(sorted(features))


def _aborted(flags: Message, details: str) -> bool:
    return bool(
        flags.downstream_connection_termination
        or flags.downstream_remote_reset
        or details.startswith("downstream_remote_disconnect")
    )
