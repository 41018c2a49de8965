"""What an upstream can be besides a model's API, by the first segment of the path.

`/mcp`, `/ws`, `/status/CODE`, `/slow/MS`, `/redirect/PATH`, `/flaky/N`; all else is told back. A
header `x-lab-response-headers` (JSON) adds headers to the answer.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from lab.http_server import Reply, Request

WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3.


def json_reply(
    value: object,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    delay_s: float = 0.0,
    on_written: Callable[[], None] | None = None,
) -> Reply:
    return Reply(
        status=status,
        headers={"content-type": "application/json", **(headers or {})},
        body=json.dumps(value, separators=(",", ":")).encode(),
        delay_s=delay_s,
        on_written=on_written,
    )


def echo(request: Request, *, name: str) -> Reply:
    """Tell what arrived. A header `x-lab-response-headers` (JSON) adds headers to the answer."""
    seen = {"upstream": name, **as_json(request)}
    seen["body_sha256"] = hashlib.sha256(request.body).hexdigest()
    return json_reply(seen, headers={**asked_headers(request), "x-lab-upstream": name})


def mirror(request: Request) -> Reply:
    """Answer with what was sent, as an API that keeps its users' documents does."""
    kind = request.header("content-type") or "application/octet-stream"
    return Reply(headers={"content-type": kind}, body=request.body)


def as_json(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "target": request.target,
        "headers": list(request.headers),
        "body_bytes": len(request.body),
    }


def asked_headers(request: Request) -> dict[str, str]:
    asked: dict[str, str] = json.loads(request.header("x-lab-response-headers") or "{}")
    return asked


def mcp(request: Request) -> Reply:
    """Answer as a server of the Model Context Protocol.

    It opens the session that header `x-lab-session` asks for, or `lab-session`.
    """
    if request.method != "POST":
        return Reply(status=200, headers={"content-type": "application/json"}, body=b"{}")
    body = json.loads(request.body)
    if "id" not in body:
        return Reply(status=202)
    session = request.header("x-lab-session") or "lab-session"
    opened = {"mcp-session-id": session} if body.get("method") == "initialize" else {}
    answer = {"jsonrpc": "2.0", "id": body["id"], "result": {"content": []}}
    return json_reply(answer, headers=opened)


def websocket(request: Request) -> Reply:
    """Open a WebSocket that sends back what it gets: frames of up to 125 bytes."""
    key = (request.header("sec-websocket-key") or "") + WEBSOCKET_GUID
    digest = hashlib.sha1(key.encode(), usedforsecurity=False).digest()
    accept = base64.b64encode(digest).decode()
    headers = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-accept": accept}
    return Reply(status=101, headers=headers, then=unmasked)


def unmasked(frame: bytes) -> bytes:
    """Return a client's frame as a server sends it: without its mask."""
    answer = bytearray()
    while len(frame) >= 6:  # noqa: PLR2004 - its head and its mask.
        size = frame[1] & 0x7F
        mask, data = frame[2:6], frame[6 : 6 + size]
        answer += bytes((frame[0], size))
        answer += bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        frame = frame[6 + size :]
    return bytes(answer)


def status(request: Request, rest: str, _: int) -> Reply:
    headers = asked_headers(request)
    return json_reply({"status": int(rest)}, status=int(rest), headers=headers)


def slow(_: Request, rest: str, __: int) -> Reply:
    return json_reply({"slept_ms": int(rest)}, delay_s=int(rest) / 1000)


def redirect(request: Request, rest: str, _: int) -> Reply:
    """Answer with a redirect to the same host; Envoy follows whole addresses only."""
    location = f"http://{request.header('host')}/{rest}"
    return Reply(status=302, headers={"location": location, **asked_headers(request)})


def flaky(_: Request, rest: str, hits: int) -> Reply:
    """Answer 503, and 200 from the n-th time on that the path is asked for."""
    code = 200 if hits >= int(rest) else 503
    return json_reply({"status": code}, status=code)


# What answers: a request, the rest of its path, and how often this path was asked for.
STAND_INS: Mapping[str, Callable[[Request, str, int], Reply]] = {
    "mcp": lambda request, _, __: mcp(request),
    "ws": lambda request, _, __: websocket(request),
    "mirror": lambda request, _, __: mirror(request),
    "status": status,
    "slow": slow,
    "redirect": redirect,
    "flaky": flaky,
}
NUMBERED = frozenset({"status", "slow", "flaky"})  # The rest of the path is a number.
