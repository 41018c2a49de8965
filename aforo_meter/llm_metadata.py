"""What Envoy's filters, or Envoy AI Gateway, noted about a call to a model → the domain's words.

Three places are looked at, and the first that says a number is believed alone, so that no token
counts twice:

1. typed metadata `envoy.ai.token_usage`, of Envoy's own `ai_protocol_manager`;
2. `aforo.usage`, which `json_to_metadata` and `sse_to_metadata` fill where a build lacks that;
3. `io.envoy.ai_gateway`, of Envoy AI Gateway, under the names that its documentation uses.

The last two hold what stood in an answer's body, and whoever can have an upstream answer with a
text of his own has written it. What can't be read there costs the tokens, never the call.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.message import DecodeError

from aforo_meter import envoy_values
from aforo_meter.domain.tokens import LlmCall, ReportedTokens, from_names, split_tokens
from aforo_meter.domain.usage import UsageError, clip
from aforo_proto import llm_pb2
from aforo_proto.access_log_pb2 import Metadata

TOKENS_NAMESPACE: Final = "envoy.ai.token_usage"
TOKENS_TYPE: Final = "envoy.data.ai.v3.TokenUsage"
REQUEST_NAMESPACE: Final = "envoy.ai.request_info"
REQUEST_TYPE: Final = "envoy.data.ai.v3.RequestInfo"
REQUESTED_NAMESPACE: Final = "aforo.request"
USAGE_NAMESPACE: Final = "aforo.usage"
GATEWAY_NAMESPACE: Final = "io.envoy.ai_gateway"

PROVIDERS: Final[Mapping[int, str]] = {
    llm_pb2.TokenUsage.OPENAI_CHAT_COMPLETIONS: "openai",
    llm_pb2.TokenUsage.OPENAI_RESPONSES: "openai",
    llm_pb2.TokenUsage.ANTHROPIC_MESSAGES: "anthropic",
    llm_pb2.TokenUsage.GEMINI_GENERATE_CONTENT: "google",
}
RESPONSES_SHAPE: Final = "openai.responses"  # Of events; the other protocols' are the provider's.
USAGE_NAMES: Final = (
    *("input_tokens", "cached_tokens", "cache_creation_tokens", "tool_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens", "tool_use_prompt_tokens"),
    *("output_tokens", "reasoning_tokens", "thoughts_tokens"),
)
# The owner chooses the names (`llmRequestCosts`); these are the documentation's. All of them
# include: Envoy AI Gateway adds Anthropic's cached input to its input.
GATEWAY_NAMES: Final[Mapping[str, str]] = {
    "llm_input_token": "input_tokens",
    "llm_output_token": "output_tokens",
    "llm_cached_input_token": "cached_tokens",
    "llm_cache_creation_input_token": "cache_creation_tokens",
    "llm_reasoning_token": "reasoning_tokens",
}
PARTIAL: Final = frozenset({llm_pb2.TokenUsage.PARTIAL, llm_pb2.TokenUsage.FAILED})


def llm_call(metadata: Metadata) -> LlmCall:
    """Return what was noted of the answer; an empty one if nothing was.

    Raises:
        UsageError: What Envoy's own filter noted can't be read: another version wrote it.
    """
    typed = _typed(metadata)
    if typed.tokens.said:
        return typed
    for read_from in (_from_usage, _from_gateway):
        try:
            found = read_from(metadata)
            split_tokens(found.tokens)
        except UsageError:
            return LlmCall(unreadable=True)
        if found.tokens.said:
            return found
    return typed


def request_info(metadata: Metadata) -> llm_pb2.RequestInfo | None:
    """Return what was noted of the request; None if nothing was, or nothing that can be read."""
    if REQUEST_NAMESPACE not in metadata.typed_filter_metadata:
        return None
    packed = metadata.typed_filter_metadata[REQUEST_NAMESPACE]
    if packed.type_url.rpartition(b"/")[2] != REQUEST_TYPE.encode():
        return None
    try:
        return llm_pb2.RequestInfo.FromString(packed.value)
    except DecodeError:
        return None


def requested_model(metadata: Metadata) -> str:
    """Return the model that the caller asked for, if a filter noted it; else ""."""
    if REQUESTED_NAMESPACE not in metadata.filter_metadata:
        return ""
    return envoy_values.text(metadata.filter_metadata[REQUESTED_NAMESPACE].fields.get("model"))


def _typed(metadata: Metadata) -> LlmCall:
    if TOKENS_NAMESPACE not in metadata.typed_filter_metadata:
        return LlmCall()
    packed = metadata.typed_filter_metadata[TOKENS_NAMESPACE]
    if packed.type_url.rpartition(b"/")[2] != TOKENS_TYPE.encode():
        name = clip(envoy_values.readable(packed.type_url))
        raise UsageError(f"token usage of unknown type {name!r}")
    try:
        tokens = llm_pb2.TokenUsage.FromString(packed.value)
    except DecodeError:
        raise UsageError(f"token usage that is not a {TOKENS_TYPE}") from None
    into, out_of = tokens.input_token_details, tokens.output_token_details
    return LlmCall(
        provider=PROVIDERS.get(tokens.llm_protocol, ""),
        model=tokens.model,
        partial=tokens.extraction_status in PARTIAL,
        tokens=ReportedTokens(
            input_tokens=tokens.input_tokens.value if tokens.HasField("input_tokens") else None,
            output_tokens=tokens.output_tokens.value if tokens.HasField("output_tokens") else None,
            cached_input_tokens=into.cached_tokens.value,
            cache_creation_tokens=into.cache_creation_tokens.value,
            tool_tokens=into.tool_use_tokens.value,
            reasoning_tokens=out_of.reasoning_tokens.value,
        ),
    )


def _from_usage(metadata: Metadata) -> LlmCall:
    if USAGE_NAMESPACE not in metadata.filter_metadata:
        return LlmCall()
    fields = metadata.filter_metadata[USAGE_NAMESPACE].fields
    return LlmCall(
        provider=envoy_values.text(fields.get("provider")),
        model=envoy_values.text(fields.get("model")),
        tokens=from_names(_numbers(fields, ((name, name) for name in USAGE_NAMES))),
    )


def _from_gateway(metadata: Metadata) -> LlmCall:
    if GATEWAY_NAMESPACE not in metadata.filter_metadata:
        return LlmCall()
    fields = metadata.filter_metadata[GATEWAY_NAMESPACE].fields
    # "namespace/name", in some versions with "/route/…" behind it.
    backend = envoy_values.text(fields.get("backend_name")).split("/")
    return LlmCall(
        provider=backend[1] if len(backend) > 1 else backend[0],
        model=envoy_values.text(fields.get("model_name_override")),
        tokens=from_names(_numbers(fields, GATEWAY_NAMES.items())),
    )


def _numbers(fields: Mapping[str, bytes], names: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return whole numbers under the names they shall have."""
    return {to: _whole(fields[name], name=name) for name, to in names if name in fields}


def _whole(raw: bytes, *, name: str) -> int:
    """Return a number; numbers of metadata are doubles, and may have been written as texts."""
    found = envoy_values.value(raw)
    if found.HasField("null_value"):
        return 0  # OpenAI writes `usage: null` into each event but the last.
    try:
        number = float(found.string_value) if found.string_value else found.number_value
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number != math.floor(number):
        raise UsageError(f"{name} in the metadata is no whole number")
    return int(number)
