"""Bodies that are too large, as an ASGI app meets them."""

from collections.abc import Iterable

import pytest

from aforo_admin.body_bounds import Message, Receive, Scope, Send, bounded


async def app(_scope: Scope, receive: Receive, send: Send) -> None:
    """Read all, and say how much that was."""
    total, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        total += len(message["body"])
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(total).encode()})


async def answer(
    chunks: Iterable[bytes], headers: Iterable[tuple[bytes, bytes]] = ()
) -> list[Message]:
    left = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    left.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "headers": list(headers)}
    await bounded(app, bytes_max=10)(scope, receive, send)
    return sent


async def test_what_fits_passes() -> None:
    start, body = await answer([b"12345", b"67890"])

    assert (start["status"], body["body"]) == (200, b"10")


async def test_what_says_that_it_is_too_large_is_refused_unread() -> None:
    start, body = await answer([b"1"], [(b"content-length", b"11")])

    assert start["status"] == 413
    assert b"too-large" in body["body"]


@pytest.mark.parametrize("length", [b"", b"-1", b"x", b"5"])
async def test_what_is_too_large_is_cut_off_whatever_it_says(length: bytes) -> None:
    assert await answer([b"12345", b"67890", b"1"], [(b"content-length", length)]) == []
