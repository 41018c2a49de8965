"""A stand-in for whoever receives Aforo's webhooks: keeps each message, and fails when told to.

    python -m lab.webhook_receiver --port 9003

- POST to any path: kept with its headers and its body, byte for byte; answered with 204
- GET /lab/messages: all of them, the oldest first, with the status that each was answered with
- POST /lab/fail {"status": 503, "times": 3}: answer the next three so
- POST /lab/reset: forget all messages, and fail no more

It does not check signatures: that is for the caller, who knows the secret.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from lab.http_server import HttpServer, Reply, Request, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One delivery, as it arrived."""

    path: str
    headers: dict[str, str]  # Names in lower case.
    body: bytes
    status: int  # What it was answered with.
    received_s: int  # Signatures are good for minutes: to be verified as of then.

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "headers": self.headers,
            "body": self.body.decode(errors="replace"),
            "status": self.status,
            "received_s": self.received_s,
        }


class WebhookReceiver:
    """In-process: `async with WebhookReceiver() as receiver: receiver.messages`."""

    def __init__(self, *, port: int = 0) -> None:
        self.messages: list[Message] = []
        self.server = HttpServer(self.answer, port=port)
        self._fail_status = 503
        self._failures_left = 0

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    def fail(self, *, status: int, times: int) -> None:
        """Answer the next `times` messages with `status`."""
        self._fail_status, self._failures_left = status, times

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.__aexit__()

    def answer(self, request: Request) -> Reply:
        if request.path.startswith("/lab/"):
            return self._manage(request)
        if request.method != "POST":
            return _json_reply({"error": "webhooks are posted"}, status=405)
        status = 204
        if self._failures_left > 0:
            self._failures_left -= 1
            status = self._fail_status
        self.messages.append(
            Message(
                path=request.path,
                headers=dict(request.headers),
                received_s=int(time.time()),
                body=request.body,
                status=status,
            )
        )
        return Reply(status=status)

    def _manage(self, request: Request) -> Reply:
        match request.method, request.path:
            case "GET", "/lab/messages":
                return _json_reply([message.as_json() for message in self.messages])
            case "POST", "/lab/fail":
                try:
                    wish = json.loads(request.body)
                    self.fail(status=int(wish["status"]), times=int(wish["times"]))
                except (ValueError, TypeError, KeyError):
                    return _json_reply({"error": 'send {"status": 503, "times": 3}'}, status=400)
                return _json_reply({"failing": self._failures_left})
            case "POST", "/lab/reset":
                self.messages.clear()
                self._failures_left = 0
                return _json_reply({"reset": True})
            case _:
                known = "GET /lab/messages; POST /lab/fail, /lab/reset"
                return _json_reply({"error": known}, status=404)


def _json_reply(value: object, *, status: int = 200) -> Reply:
    return Reply(
        status=status,
        headers={"content-type": "application/json"},
        body=json.dumps(value).encode(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.webhook_receiver",
        description="A stand-in for whoever receives Aforo's webhooks.",
        epilog="example: python -m lab.webhook_receiver --port 9003",
    )
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    receiver = WebhookReceiver(port=parser.parse_args(arguments).port)
    return run(receiver.server, name="webhook receiver", port_option="--port")


if __name__ == "__main__":
    raise SystemExit(main())
