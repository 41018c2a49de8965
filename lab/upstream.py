"""A stand-in for a language model's API that knows to the token what it served.

It answers as OpenAI, Anthropic and Gemini do, and keeps a tally to compare the ledger with. What a
call uses is told by the call: `"x_lab_usage": {"input": 100, "cached": 40, "output": 20}` in
its body, each token counted once (see `lab.llm_shapes.Usage`); else it follows from lengths.

It also stands in for an MCP server (`/mcp`), a WebSocket (`/ws`), one that redirects
(`/redirect/PATH`), one that fails at first (`/flaky/N`) and one that answers with what it was sent
(`/mirror`).

    python -m lab.upstream --port 9001 --name premium
"""

import argparse
import itertools
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from lab import llm_shapes
from lab.http_server import HttpServer, Reply, Request, run
from lab.llm_shapes import SNAPSHOTS, Answer, Usage
from lab.stand_ins import NUMBERED, STAND_INS, as_json, echo, json_reply

Name = Literal["premium", "economy"]

REQUESTS_KEPT = 200
WORDS = ("Margins ", "are ", "what ", "is ", "left ", "when ", "the ", "work ", "is ", "paid. ")
CHARS_PER_TOKEN = 4  # Where the caller gives no usage.
DEFAULT_MODELS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-5"}
ECONOMY_MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One provider's endpoint: how it counts, and how it answers."""

    provider: str
    id_prefix: str
    usage: Callable[[Usage], Usage]
    as_json: Callable[[Answer], dict[str, Any]]
    as_events: Callable[[Answer, Mapping[str, Any]], tuple[bytes, ...]]
    json_type: str = "application/json"  # As each says it.


def chat_events(answer: Answer, body: Mapping[str, Any]) -> tuple[bytes, ...]:
    # As OpenAI does: who does not ask for the usage of a stream is not told.
    options = body.get("stream_options")
    asked = isinstance(options, dict) and options.get("include_usage") is True
    return llm_shapes.chat_events(answer, include_usage=asked)


APIS = {
    "/v1/chat/completions": Api(
        provider="openai",
        id_prefix="chatcmpl-lab",
        usage=llm_shapes.openai_usage,
        as_json=llm_shapes.chat_json,
        as_events=chat_events,
    ),
    "/v1/responses": Api(
        provider="openai",
        id_prefix="resp_lab",
        usage=llm_shapes.openai_usage,
        as_json=llm_shapes.responses_json,
        as_events=lambda answer, _: llm_shapes.responses_events(answer),
    ),
    "/v1/messages": Api(
        provider="anthropic",
        id_prefix="msg_lab",
        usage=llm_shapes.anthropic_usage,
        as_json=llm_shapes.messages_json,
        as_events=lambda answer, _: llm_shapes.messages_events(answer),
    ),
}


GEMINI = Api(
    provider="google",
    id_prefix="gemini-lab",
    usage=llm_shapes.gemini_usage,
    as_json=llm_shapes.gemini_json,
    as_events=lambda answer, _: llm_shapes.gemini_events(answer),
    json_type="application/json; charset=UTF-8",
)
GEMINI_PATH = re.compile(r"/v1beta/models/([^/:]+):(generateContent|streamGenerateContent)")


class Tally:
    """What was served: hits when a request arrives, tokens when its answer is written in full."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        # By tenant ("" where the gateway named none), then "provider/model", then kind.
        self.tokens: dict[str, dict[str, Counter[str]]] = {}
        self.calls: Counter[str] = Counter()  # By tenant, whatever was asked for.

    def served(self, *, tenant: str, provider: str, model: str, usage: Usage) -> None:
        models = self.tokens.setdefault(tenant, {})
        models.setdefault(f"{provider}/{model}", Counter()).update({"calls": 1, **asdict(usage)})

    def total(self) -> dict[str, Counter[str]]:
        """Return tokens by "provider/model", of all tenants."""
        sums: dict[str, Counter[str]] = {}
        for models in self.tokens.values():
            for model, kinds in models.items():
                sums.setdefault(model, Counter()).update(kinds)
        return sums

    def as_json(self) -> dict[str, Any]:
        return {
            "hits": {"total": self.hits.total(), **dict(sorted(self.hits.items()))},
            "tokens": self.total(),
            "tenants": self.tokens,
            "calls": self.calls,
        }


class FakeLlm:
    """One upstream. In-process: `async with FakeLlm(name="premium") as llm: llm.port`."""

    def __init__(self, *, name: Name = "premium", port: int = 0) -> None:
        self.name = name
        self.tally = Tally()
        self.last: deque[Request] = deque(maxlen=REQUESTS_KEPT)  # The newest is the last.
        self.server = HttpServer(self.answer, port=port)
        self._numbers = itertools.count(1)

    @property
    def port(self) -> int:
        return self.server.port

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.__aexit__()

    def answer(self, request: Request) -> Reply:
        if request.path.startswith("/lab/"):
            return self._manage(request)
        self.tally.hits[request.path] += 1
        self.tally.calls[request.header("x-aforo-tenant") or ""] += 1
        self.last.append(request)
        api = APIS.get(request.path) or (GEMINI if GEMINI_PATH.fullmatch(request.path) else None)
        if api is not None and request.method == "POST":
            return self._complete(api, request)
        first, _, rest = request.path[1:].partition("/")
        if first in STAND_INS and (rest.isdecimal() or first not in NUMBERED):
            return STAND_INS[first](request, rest, self.tally.hits[request.path])
        return echo(request, name=self.name)

    def _complete(self, api: Api, request: Request) -> Reply:
        try:
            body = json.loads(request.body)
            usage = api.usage(usage_of(body))
        except (ValueError, TypeError, AttributeError) as error:
            problem = {"error": {"type": "invalid_request_error", "message": str(error)}}
            return json_reply(problem, status=400)
        if "x_lab_status" in body:
            status = int(body["x_lab_status"])
            return json_reply({"error": {"type": "server_error"}}, status=status)
        named = GEMINI_PATH.fullmatch(request.path)
        model = named[1] if named else self._model(api, body)
        answer = Answer(
            call_id=f"{api.id_prefix}{next(self._numbers):08d}",
            model=model,
            words=words_of(body, usage),
            usage=usage,
        )
        tenant = request.header("x-aforo-tenant") or ""

        def written() -> None:
            self.tally.served(tenant=tenant, provider=api.provider, model=model, usage=usage)

        headers = {str(name): str(value) for name, value in body.get("x_lab_headers", {}).items()}
        streams = body.get("stream") is True or ":stream" in request.path
        if not streams:
            headers = {"content-type": api.json_type, **headers}
            return json_reply(api.as_json(answer), headers=headers, on_written=written)
        return Reply(
            headers={"content-type": "text/event-stream; charset=utf-8", **headers},
            pieces=api.as_events(answer, body),
            gap_s=float(body.get("x_lab_gap_ms", 0)) / 1000,
            breaks_after=body.get("x_lab_breaks_after"),
            on_written=written,
        )

    def _model(self, api: Api, body: Mapping[str, Any]) -> str:
        asked = str(body.get("model") or DEFAULT_MODELS[api.provider])
        short = ECONOMY_MODELS[api.provider] if self.name == "economy" else asked
        return SNAPSHOTS.get(short, short)

    def _manage(self, request: Request) -> Reply:
        match request.method, request.path:
            case "GET", "/lab/tally":
                return json_reply({"name": self.name, **self.tally.as_json()})
            case "GET", "/lab/last":
                return json_reply([as_json(seen) for seen in self.last])
            case "POST", "/lab/reset":
                self.tally = Tally()
                self.last.clear()
                return json_reply({"reset": True})
            case _:
                return json_reply(
                    {"error": "GET /lab/tally, /lab/last; POST /lab/reset"}, status=404
                )


def usage_of(body: Mapping[str, Any]) -> Usage:
    """Return what the call says that it uses, else what follows from the prompt's length.

    Raises:
        TypeError: A kind of tokens that is not known, or no number.
        ValueError: A count that is no whole number of at least zero.
    """
    given = body.get("x_lab_usage")
    if given is None:
        prompt = body.get("messages", body.get("input", ""))
        return Usage(input=max(1, len(json.dumps(prompt)) // CHARS_PER_TOKEN), output=len(WORDS))
    # A gateway that writes a body anew may turn 11 into 11.0.
    counts = {kind: int(value) for kind, value in given.items()}
    if any(count < 0 or count != given[kind] for kind, count in counts.items()):
        raise ValueError(f"x_lab_usage: whole numbers of at least 0 are needed, not {given}")
    return Usage(**counts)


def words_of(body: Mapping[str, Any], usage: Usage) -> tuple[str, ...]:
    """Return the answer's words: `x_lab_words` of them, else up to ten."""
    count = int(body.get("x_lab_words", min(len(WORDS), max(1, usage.output))))
    return tuple(itertools.islice(itertools.cycle(WORDS), count))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.upstream",
        description="A stand-in for a language model's API.",
        epilog="example: python -m lab.upstream --port 9001 --name premium",
    )
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument(
        "--name",
        choices=("premium", "economy"),
        default="premium",
        help="premium serves the model asked for, economy always its cheapest",
    )
    options = parser.parse_args(arguments)
    llm = FakeLlm(name=options.name, port=options.port)
    return run(llm.server, name=f"{options.name} upstream", port_option="--port")


if __name__ == "__main__":
    raise SystemExit(main())
