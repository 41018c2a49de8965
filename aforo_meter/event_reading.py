"""One access-log entry → its usage event: the whole of it, for every shape of entry.

The only module, with quick_reading.py, that knows what stands where in an entry.
"""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aforo_meter import envoy_values, llm_metadata, mcp_metadata
from aforo_meter.domain import paths
from aforo_meter.domain.metering import Applied, PathView, Quantity
from aforo_meter.domain.tokens import (
    EVENT_BYTES_PER_TOKEN,
    Estimates,
    LlmCall,
    details_exceed_totals,
    estimated_tokens,
    split_tokens,
)
from aforo_meter.domain.usage import (
    MCP_SESSIONS,
    MCP_TOOL_CALLS,
    MICROS_PER_UNIT,
    UNITS_MAX,
    UsageError,
    clip,
    quantity_micros,
)
from aforo_meter.mcp_metadata import CALL_TOOL, INITIALIZE, SESSION_HEADER, McpCall, McpReader
from aforo_meter.plans import METHODS, Facts, Plan, id_of, plan_of
from aforo_meter.recent import Recent
from aforo_proto import llm_pb2, usage_pb2
from aforo_proto.access_log_pb2 import Common, Entry, Metadata, Request

# Envoy's configuration sets it to %UNIQUE_ID%: fresh for each entry, out of clients' reach.
UNIQUE_ID_TAG: Final = "uid"
PREFLIGHT_HEADERS: Final = ("access-control-request-method", "origin")
METRIC_HEADER: Final = "x-aforo-metric"
QUANTITY_HEADER: Final = "x-aforo-quantity"
STREAM_TYPE: Final = b"text/event-stream"

NOT_SET: Final = 0  # Envoy's AccessLogType.
PERIODIC: Final = 5
END: Final = 6
FINISHED: Final = frozenset({NOT_SET, END})

UUID: Final = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
YEAR_10000_S: Final = 253_402_300_800
PATH_BYTES_KEPT_MAX: Final = 512
# What upstreams write and plans are remembered by: Envoy's own words, and statuses, are shorter.
DETAILS_BYTES_MAX: Final = 256
GRPC_STATUS_BYTES_MAX: Final = 16
# Requests of the protocol that have no body to know them by: to listen, and to end a session.
SESSION_METHODS: Final = frozenset({"GET", "DELETE"})
OK_STATUSES: Final = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """An event, and what is worth counting about how it was made."""

    event: usage_pb2.UsageEvent
    counts: dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """An entry that says nothing about usage."""

    access_log_type: int


@dataclass(kw_only=True)
class Tally:
    """The quantities of one call, by meter, in millionths."""

    micros: dict[str, int] = field(default_factory=dict)

    def add_units(self, meter: str, units: int) -> None:
        if units > UNITS_MAX:
            raise UsageError(f"{meter}: {units} in one call is not believable, at most {UNITS_MAX}")
        if units:
            self.micros[meter] = units * MICROS_PER_UNIT

    def write(self, event: usage_pb2.UsageEvent) -> None:
        for meter, quantity in self.micros.items():
            units, micros = divmod(quantity, MICROS_PER_UNIT)
            event.measures.add(meter=meter, units=units, micros=micros)


class EventReader:
    """Rules, and what was worked out by them lately."""

    def __init__(
        self,
        rules: Applied,
        *,
        estimates: Estimates | None = None,
        continued_after_ms: int = 30_000,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        """Take what holds for all entries.

        Args:
            rules: The owner's.
            estimates: How tokens are estimated that nobody counted.
            continued_after_ms: Of calls that took this long, entries under way may have come before
                their last one: Envoy's `access_log_flush_interval`.
            new_id: Makes the ids of events whose entries have none.
        """
        self.rules = rules
        self.continued_after_ms = continued_after_ms
        self.new_id = new_id
        self._estimates = estimates or Estimates()
        self._mcp = McpReader()
        self._plans: Recent[Facts, Plan] = Recent(1024)
        self._paths: Recent[tuple[int, bytes], PathView] = Recent()
        self._templates: Recent[tuple[str, str], PathView] = Recent()

    def read(self, entry: Entry, *, source: str, received_micros: int) -> Read | Ignored:
        """Return the event of an entry.

        Raises:
            UsageError: It can't be understood; the reason is a sentence.
        """
        common = entry.common
        kind = common.access_log_type
        interim = kind == PERIODIC
        if not interim and (kind not in FINISHED or common.intermediate_log_entry):
            return Ignored(access_log_type=kind)
        if not interim and envoy_values.is_no_call(entry):
            return Ignored(access_log_type=kind)
        plan = self.plan(self.facts_of(entry))
        event = usage_pb2.UsageEvent()
        event.CopyFrom(plan.shared)
        self._identify(event, common, source=source, received_micros=received_micros)
        view = self.view(entry.request)
        event.dimensions.path = view.template
        if interim:
            return self._interim(entry, plan, event)
        counts = dict.fromkeys(plan.counts, 1)
        tally = self._counted(entry, plan)
        self._add_tokens(entry, plan, event, tally, counts)
        self._add_mcp(entry, plan, event, tally)
        self._add_reported(entry, plan, tally, counts)
        tally.write(event)
        event.continued = bool(
            event.decision_id
            and envoy_values.duration_ms(common.duration) >= self.continued_after_ms
        )
        return Read(event=event, counts=counts)

    def plan(self, facts: Facts) -> Plan:
        found = self._plans.get(facts)
        if found is None:
            found = plan_of(facts, self.rules)
            self._plans.put(facts, found)
        return found

    def view(self, request: Request) -> PathView:
        """Return what is known of the path: its template, and which rules it fits."""
        key = (request.request_method, request.path)
        found = self._paths.get(key)
        if found is None:
            found = self._new_view(METHODS.get(key[0], ""), envoy_values.readable(key[1]))
            if len(key[1]) <= PATH_BYTES_KEPT_MAX:
                self._paths.put(key, found)
        return found

    def _new_view(self, method: str, path: str) -> PathView:
        if not self.rules.by_template or ";" in path:
            return self.rules.view(method=method, path=path)
        template = paths.template_of(path.partition("?")[0].partition("#")[0])
        if not template or template.endswith(paths.REST):  # Cut, or none: the path itself must do.
            return self.rules.view(method=method, path=path)
        found = self._templates.get((method, template))
        if found is None:
            found = self.rules.view(method=method, path=template)
            self._templates.put((method, template), found)
        return found

    def facts_of(self, entry: Entry) -> Facts:
        common, request, response = entry.common, entry.request, entry.response
        said = _decision(common.metadata)
        return Facts(
            features=said.get("features"),
            decision=said.get("decision"),
            reason=said.get("reason"),
            shadow_reason=said.get("shadow_reason"),
            provider=said.get("provider"),
            hour=said.get("hour"),
            weight=said.get("weight"),
            route=common.route_name,
            method=request.request_method,
            status=response.response_code,
            details=response.response_code_details[:DETAILS_BYTES_MAX],
            flags=common.response_flags,
            preflight=any(name in request.request_headers for name in PREFLIGHT_HEADERS),
            grpc_status=envoy_values.grpc_status(response)[:GRPC_STATUS_BYTES_MAX],
            fits=self.view(request).fits,
        )

    def _identify(
        self, event: usage_pb2.UsageEvent, common: Common, *, source: str, received_micros: int
    ) -> None:
        # `get` on a protobuf map does not create the key. x-request-id is never read: a client who
        # repeats that one would be billed once for two calls.
        tag = common.custom_tags.get(UNIQUE_ID_TAG, b"")
        event.event_id = tag.decode().lower() if UUID.fullmatch(tag) else self.new_id()
        event.source = source
        event.received_at_micros = received_micros
        event.occurred_at_micros = _start_micros(common.start_time)
        if event.outcome == usage_pb2.OUTCOME_NOT_DECIDED:
            return
        said = _decision(common.metadata)
        event.tenant_id = id_of("tenant", said.get("tenant"))
        event.subscription_id = id_of("subscription", said.get("subscription"))
        event.decision_id = id_of("decision_id", said.get("decision_id"))

    def _interim(self, entry: Entry, plan: Plan, event: usage_pb2.UsageEvent) -> Read | Ignored:
        """Return what a call under way has moved so far; its end has an event of its own."""
        tally = self._counted(entry, plan, only=(Quantity.REQUEST_BYTES, Quantity.RESPONSE_BYTES))
        # Without a decision's id nobody could tell which call it is that this is a part of.
        if not event.decision_id or not tally.micros:
            return Ignored(access_log_type=PERIODIC)
        event.interim = True
        event.dimensions.execution_status = usage_pb2.EXECUTION_STATUS_UNSPECIFIED
        tally.write(event)
        return Read(event=event, counts={("interim", ""): 1})

    def _counted(
        self, entry: Entry, plan: Plan, *, only: tuple[Quantity, ...] = tuple(Quantity)
    ) -> Tally:
        """Return what the rules say that the call counts, but for what its upstream reports."""
        tally = Tally()
        for one in plan.counted:
            if one.quantity not in only:
                continue
            match one.quantity:
                case Quantity.ONE:
                    tally.micros[one.meter] = one.micros
                case Quantity.REQUEST_BYTES:
                    tally.add_units(one.meter, entry.request.request_body_bytes)
                case Quantity.RESPONSE_BYTES:
                    tally.add_units(one.meter, entry.response.response_body_bytes)
                case Quantity.DURATION_MS:
                    tally.add_units(one.meter, envoy_values.duration_ms(entry.common.duration))
                case Quantity.REPORTED:
                    pass  # See _add_reported.
        return tally

    def _add_tokens(
        self,
        entry: Entry,
        plan: Plan,
        event: usage_pb2.UsageEvent,
        tally: Tally,
        counts: dict[tuple[str, str], int],
    ) -> None:
        """Add what the provider counted, or an estimate where the answer ended before that.

        It was paid for, so it counts even where the call itself is no usage; but a call that was
        refused at the gate used nothing.
        """
        call = llm_metadata.llm_call(entry.common.metadata)
        if call.unreadable:
            counts["tokens_unreadable", ""] = 1
        cut = plan.aborted or (plan.broken_off and entry.response.response_body_bytes > 0)
        if not call.tokens.said and cut and not plan.refused:
            call = self._estimated(entry, plan)
            event.estimated = call.tokens.said
            if event.estimated:
                counts["estimated", ""] = 1
        event.estimated = event.estimated or call.partial
        event.dimensions.provider = clip(plan.provider or call.provider)
        event.dimensions.model = clip(call.model)
        if not plan.refused:
            for one in split_tokens(call.tokens):
                tally.add_units(one.meter, one.units)
            if details_exceed_totals(call.tokens):
                counts["tokens_cut", ""] = 1

    def _estimated(self, entry: Entry, plan: Plan) -> LlmCall:
        """Return what a call to a model probably used that was cut short; else nothing."""
        info = llm_metadata.request_info(entry.common.metadata)
        content_type = entry.response.response_headers.get("content-type", b"")
        streamed = content_type.startswith(STREAM_TYPE)
        is_llm_call = info is not None or (
            plan.provider and (streamed or plan.provider in EVENT_BYTES_PER_TOKEN)
        )
        # Where no upstream was chosen, nothing was asked of a model.
        if not is_llm_call or not entry.common.upstream_cluster:
            return LlmCall()
        provider = shape = plan.provider
        model, input_tokens = "", None
        if info is not None:
            protocol = info.input_llm_protocol
            shape = llm_metadata.PROVIDERS.get(protocol, shape)
            provider = provider or shape
            if protocol == llm_pb2.TokenUsage.OPENAI_RESPONSES:
                shape = llm_metadata.RESPONSES_SHAPE
            model = info.model
            if info.HasField("estimated_input_tokens"):
                input_tokens = min(info.estimated_input_tokens.value, UNITS_MAX)
        return LlmCall(
            provider=provider,
            model=model or llm_metadata.requested_model(entry.common.metadata),
            tokens=estimated_tokens(
                shape=shape,
                streamed=streamed,
                request_bytes=entry.request.request_body_bytes,
                response_bytes=entry.response.response_body_bytes,
                input_tokens=input_tokens,
                estimates=self._estimates,
            ),
        )

    def _add_mcp(self, entry: Entry, plan: Plan, event: usage_pb2.UsageEvent, tally: Tally) -> None:
        """Add the tool, the session and what became of it, if it is a call of that protocol."""
        call = self._mcp.read(entry.common.metadata)
        session = entry.request.request_headers.get(SESSION_HEADER, b"")
        method = event.dimensions.method
        if call is None and not (session and method in SESSION_METHODS):
            return
        ends = call is None and method == "DELETE"
        if call is not None and call.method == INITIALIZE:
            session = entry.response.response_headers.get(SESSION_HEADER, b"")
        answered = event.dimensions.status in OK_STATUSES and not plan.refused
        if answered:  # An error is no sign that there is such a session.
            event.dimensions.session = clip(envoy_values.readable(session))
        event.dimensions.product = mcp_metadata.PRODUCT
        if call is not None:
            event.dimensions.tool, event.dimensions.agent = call.tool, call.agent
        if plan.unmetered is not None:
            return
        if call is not None and call.method == CALL_TOOL:
            tally.add_units(MCP_TOOL_CALLS, 1)
        if answered:
            self._bound(event, tally, call, ends=ends)

    def _bound(
        self, event: usage_pb2.UsageEvent, tally: Tally, call: McpCall | None, *, ends: bool
    ) -> None:
        if call is not None and call.method == INITIALIZE:
            tally.add_units(MCP_SESSIONS, 1)
            if event.dimensions.session:
                event.session_boundary = usage_pb2.SESSION_BOUNDARY_START
        elif ends:
            event.session_boundary = usage_pb2.SESSION_BOUNDARY_END

    def _add_reported(
        self, entry: Entry, plan: Plan, tally: Tally, counts: dict[tuple[str, str], int]
    ) -> None:
        """Add what the upstream reports of usage; it goes before our own count of most meters."""
        headers = entry.response.response_headers
        reports = METRIC_HEADER in headers or QUANTITY_HEADER in headers
        if plan.unmetered is not None or not reports:
            return
        micros = quantity_micros(envoy_values.readable(headers.get(QUANTITY_HEADER, b"")))
        named = self.rules.meter_named(envoy_values.readable(headers.get(METRIC_HEADER, b"")))
        meters = [
            one.meter
            for one in plan.counted
            if one.quantity is Quantity.REPORTED and named in {"", one.meter}
        ]
        if named not in meters and self.rules.may_report(named):
            meters.append(named)
        if micros is None or not meters:
            counts["reported_ignored", ""] = 1
            return
        for meter in meters:
            tally.micros[meter] = micros


def _decision(metadata: Metadata) -> "dict[str, bytes]":
    if envoy_values.DECISION_NAMESPACE not in metadata.filter_metadata:
        return {}
    return dict(metadata.filter_metadata[envoy_values.DECISION_NAMESPACE].fields)


def _start_micros(start_time: Common.StartTime) -> int:
    """Return Unix time in microseconds.

    Raises:
        UsageError: The entry has no time, or none of this era: its period is not known.
    """
    micros = start_time.seconds * MICROS_PER_UNIT + start_time.nanos // 1000
    if not 0 < micros < YEAR_10000_S * MICROS_PER_UNIT:
        raise UsageError("the entry has no believable start_time")
    return micros
