"""The stand-in for a receiver of webhooks."""

import json

from lab.http_server import Request
from lab.webhook_receiver import WebhookReceiver


def post(receiver: WebhookReceiver, path: str, body: bytes = b"") -> int:
    headers = (("webhook-id", "msg_1"),)
    return receiver.answer(Request(method="POST", target=path, headers=headers, body=body)).status


def test_a_message_is_kept_byte_for_byte() -> None:
    receiver = WebhookReceiver()

    assert post(receiver, "/any/path", b'{"a": 1 }') == 204
    (message,) = receiver.messages
    assert (message.path, message.body, message.status) == ("/any/path", b'{"a": 1 }', 204)
    assert message.headers == {"webhook-id": "msg_1"}


def test_it_fails_as_often_as_it_is_told_and_keeps_what_it_refused() -> None:
    receiver = WebhookReceiver()
    post(receiver, "/lab/fail", b'{"status": 500, "times": 2}')

    assert [post(receiver, "/hooks") for _ in range(3)] == [500, 500, 204]
    assert [message.status for message in receiver.messages] == [500, 500, 204]


def test_messages_can_be_read_over_http() -> None:
    receiver = WebhookReceiver()
    post(receiver, "/hooks", "é".encode())
    reply = receiver.answer(Request(method="GET", target="/lab/messages", headers=(), body=b""))

    assert json.loads(reply.body)[0]["body"] == "é"


def test_a_reset_forgets_messages_and_failures() -> None:
    receiver = WebhookReceiver()
    receiver.fail(status=500, times=5)
    post(receiver, "/hooks")
    post(receiver, "/lab/reset")

    assert not receiver.messages
    assert post(receiver, "/hooks") == 204


def test_a_wish_that_makes_no_sense_says_what_to_send() -> None:
    receiver = WebhookReceiver()

    assert post(receiver, "/lab/fail", b'{"status": "x"}') == 400
    assert post(receiver, "/lab/nonsense") == 404
