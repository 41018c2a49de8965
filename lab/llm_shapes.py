"""What language-model providers answer, in their own shapes. Pure: no clock, no network.

OpenAI's Chat Completions and Responses, Anthropic's Messages, Google's Gemini; as JSON and as
server-sent events.
Token counts are given, never guessed, so that a test knows the truth.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CREATED = 1_766_000_000  # A fixed Unix time: answers are the same in every run.

# What providers call the snapshot that a short name stands for.
SNAPSHOTS = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-5": "gpt-5-2025-08-07",
    "o3-mini": "o3-mini-2025-01-31",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call, each counted once: the sum of all is what went in and came out."""

    input: int = 0  # Neither read from a cache nor written to one.
    cached: int = 0
    cache_creation: int = 0
    output: int = 0  # Without reasoning.
    reasoning: int = 0
    tool: int = 0  # Of the input: what the provider's own tools added.

    @property
    def input_total(self) -> int:
        return self.input + self.cached + self.cache_creation + self.tool

    @property
    def output_total(self) -> int:
        return self.output + self.reasoning


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said, and what it used."""

    call_id: str
    model: str
    words: tuple[str, ...]
    usage: Usage

    @property
    def text(self) -> str:
        return "".join(self.words)


def openai_usage(usage: Usage) -> Usage:
    """Return the usage as OpenAI can tell it: it has no count of cache creation."""
    return Usage(
        input=usage.input + usage.cache_creation + usage.tool,
        cached=usage.cached,
        output=usage.output,
        reasoning=usage.reasoning,
    )


def anthropic_usage(usage: Usage) -> Usage:
    """Return the usage as Anthropic can tell it: thinking is output like any other."""
    return Usage(
        input=usage.input + usage.tool,
        cached=usage.cached,
        cache_creation=usage.cache_creation,
        output=usage.output_total,
    )


def gemini_usage(usage: Usage) -> Usage:
    """Return the usage as Gemini can tell it: it has no count of cache creation."""
    return Usage(
        input=usage.input + usage.cache_creation,
        cached=usage.cached,
        output=usage.output,
        reasoning=usage.reasoning,
        tool=usage.tool,
    )


def event(data: Mapping[str, Any] | str, *, name: str | None = None) -> bytes:
    """Return one server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {text}\n\n".encode()


# --- OpenAI, Chat Completions ---------------------------------------------------------------


def chat_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output_total,
        "total_tokens": usage.input_total + usage.output_total,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": 0},
    }


def chat_json(answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    return {
        "id": answer.call_id,
        "object": "chat.completion",
        "created": CREATED,
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": chat_usage(answer.usage),
    }


def chat_events(answer: Answer, *, include_usage: bool) -> tuple[bytes, ...]:
    """Return the stream's events. Without `include_usage` no event tells the usage."""
    base: dict[str, Any] = {
        "id": answer.call_id,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": answer.model,
    }
    if include_usage:
        base["usage"] = None

    def choice(delta: Mapping[str, str], reason: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return event({**base, "choices": choices})

    events = [choice({"role": "assistant", "content": ""})]
    events += [choice({"content": word}) for word in answer.words]
    events.append(choice({}, "stop"))
    if include_usage:
        events.append(event({**base, "choices": [], "usage": chat_usage(answer.usage)}))
    events.append(event("[DONE]"))
    return tuple(events)


# --- OpenAI, Responses ----------------------------------------------------------------------


def responses_json(answer: Answer, *, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": answer.text, "annotations": []}]
    message = {"type": "message", "role": "assistant", "status": status, "content": content}
    usage = answer.usage
    done = status == "completed"
    return {
        "id": answer.call_id,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "model": answer.model,
        "output": [message] if done else [],
        "usage": {
            "input_tokens": usage.input_total,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.output_total,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.input_total + usage.output_total,
        }
        if done
        else None,
    }


def responses_events(answer: Answer) -> tuple[bytes, ...]:
    bodies: list[dict[str, Any]] = [
        {"type": "response.created", "response": responses_json(answer, status="in_progress")},
        *({"type": "response.output_text.delta", "delta": word} for word in answer.words),
        {"type": "response.output_text.done", "text": answer.text},
        {"type": "response.completed", "response": responses_json(answer)},
    ]
    return tuple(
        event({**body, "sequence_number": number}, name=body["type"])
        for number, body in enumerate(bodies)
    )


# --- Anthropic, Messages --------------------------------------------------------------------


def messages_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_creation,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_creation,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": usage.output_total,
    }


def messages_json(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.call_id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": messages_usage(answer.usage),
    }


def messages_events(answer: Answer) -> tuple[bytes, ...]:
    """Return the stream's events: input is told at the start, output at the end, cumulatively."""
    opening = {**messages_json(answer), "content": [], "stop_reason": None}
    opening["usage"] = {**messages_usage(answer.usage), "output_tokens": 1}
    block = {"type": "text", "text": ""}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    bodies: list[dict[str, Any]] = [
        {"type": "message_start", "message": opening},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
            for word in answer.words
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": stop,
            "usage": {"output_tokens": answer.usage.output_total},
        },
        {"type": "message_stop"},
    ]
    return tuple(event(body, name=body["type"]) for body in bodies)


# --- Google, Gemini -------------------------------------------------------------------------


def gemini_json(answer: Answer) -> dict[str, Any]:
    return _gemini_piece(answer, answer.text, ended=True)


def gemini_events(answer: Answer) -> tuple[bytes, ...]:
    """Return the stream's events: each tells the usage so far, the last one all of it."""
    last = len(answer.words) - 1
    return tuple(
        event(_gemini_piece(answer, word, ended=number == last))
        for number, word in enumerate(answer.words)
    )


def _gemini_piece(answer: Answer, text: str, *, ended: bool) -> dict[str, Any]:
    content = {"parts": [{"text": text}], "role": "model"}
    usage = answer.usage
    told = {
        # With the cached ones, without those of tools; thoughts stand beside the candidates.
        "promptTokenCount": usage.input + usage.cached,
        "cachedContentTokenCount": usage.cached,
        "candidatesTokenCount": usage.output if ended else 1,
        "thoughtsTokenCount": usage.reasoning,
        "toolUsePromptTokenCount": usage.tool,
        "totalTokenCount": usage.input_total + (usage.output if ended else 1) + usage.reasoning,
    }
    candidate = {"content": content, "index": 0, **({"finishReason": "STOP"} if ended else {})}
    return {
        "candidates": [candidate],
        "usageMetadata": told,
        "modelVersion": answer.model,
        "responseId": answer.call_id,
    }
