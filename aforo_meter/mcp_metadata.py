"""What Envoy's filter `mcp` noted about a call of the Model Context Protocol."""

from dataclasses import dataclass
from typing import Final

from google.protobuf.struct_pb2 import Struct

from aforo_meter import envoy_values
from aforo_meter.domain.usage import UsageError, clip
from aforo_meter.recent import Recent
from aforo_proto.access_log_pb2 import Metadata

NAMESPACE: Final = "envoy.filters.http.mcp"
SESSION_HEADER: Final = "mcp-session-id"
CALL_TOOL: Final = "tools/call"
INITIALIZE: Final = "initialize"
PRODUCT: Final = "MCP_SERVER"  # As the ingest contract names it.
REMEMBERED_BYTES_MAX: Final = 512
UNREADABLE: Final = "(unreadable)"


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCall:
    """A request of the protocol. What a client chose is cut to what an event takes."""

    method: str
    tool: str = ""
    agent: str = ""


class McpReader:
    """Tools and agents repeat, so what was read lately is kept."""

    def __init__(self) -> None:
        self._recent: Recent[tuple[bytes, bytes], McpCall] = Recent(1024)

    def read(self, metadata: Metadata) -> McpCall | None:
        """Return the request; None if it is none of this protocol."""
        if NAMESPACE not in metadata.filter_metadata:
            return None
        fields = metadata.filter_metadata[NAMESPACE].fields
        key = (fields.get("method") or b"", fields.get("params") or b"")
        found = self._recent.get(key)
        if found is None:
            found = _call(*key)
            if len(key[0]) + len(key[1]) <= REMEMBERED_BYTES_MAX:
                self._recent.put(key, found)
        return found if found.method else None


def _call(method: bytes, params: bytes) -> McpCall:
    try:
        name = clip(envoy_values.text(method))
        said = envoy_values.value(params).struct_value
    except UsageError:
        # A client must not escape the meter by a name that is not UTF-8.
        return McpCall(method=CALL_TOOL, tool=UNREADABLE)
    if name != CALL_TOOL:
        return McpCall(method=name)
    return McpCall(
        method=name,
        tool=_text(said, "name"),
        # `params._meta.agent_id`: a struct within, or its dotted path as one name.
        agent=_text(_struct(said, "_meta"), "agent_id") or _text(said, "_meta.agent_id"),
    )


def _text(struct: Struct, name: str) -> str:
    return clip(struct.fields[name].string_value) if name in struct.fields else ""


def _struct(struct: Struct, name: str) -> Struct:
    return struct.fields[name].struct_value if name in struct.fields else Struct()
