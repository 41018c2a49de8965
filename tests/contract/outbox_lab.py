"""A ledger with messages in its outbox, and a receiver that checks what it is sent."""

import base64
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from aforo_meter.endpoints import DEFAULT_ID, Endpoint
from aforo_meter.webhooks import verify
from lab.http_server import HttpServer, Reply, Request
from tests.contract.ledgers import AuditedLedger

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class OutboxLab:
    """A ledger, of which only the outbox matters."""

    def __init__(self, ledger: AuditedLedger) -> None:
        self.url = ledger.url
        self._ledger = ledger

    def put(
        self,
        message_id: str,
        *,
        tenant: str = "acme",
        kind: str = "margin.level_changed",
        created_at_s: float = 0,
    ) -> bytes:
        """Add a message that is due, as consume does; return its payload."""
        payload = json.dumps(
            {"type": kind, "data": {"tenant": tenant, "n": message_id, "ü": "€"}},
            ensure_ascii=False,
        )
        created_at_micros = int((created_at_s or time.time()) * 1_000_000)
        self.execute(
            "INSERT INTO outbox (message_id, tenant_id, kind, payload, created_at_micros)"
            " VALUES (?, ?, ?, ?, ?)",
            *(message_id, tenant, kind, payload, created_at_micros),
        )
        return payload.encode()

    def execute(self, statement: str, *values: object) -> None:
        self._ledger.execute(statement, *values)

    def row(self, message_id: str, endpoint: str = DEFAULT_ID) -> dict[str, Any]:
        """Return the delivery of a message to an endpoint; empty: it was not routed there."""
        query = (
            "SELECT delivery.* FROM delivery JOIN outbox USING (outbox_id)"
            " WHERE message_id = ? AND endpoint_id = ?"
        )
        for row in self._ledger.rows(query, message_id, endpoint):
            return dict(zip(self._ledger.columns("delivery"), row, strict=True))
        return {}

    def attempts(self, message_id: str, endpoint: str = DEFAULT_ID) -> list[dict[str, Any]]:
        query = (
            "SELECT number, status, error, took_ms FROM delivery_attempt JOIN outbox"
            " USING (outbox_id) WHERE message_id = ? AND endpoint_id = ? ORDER BY number"
        )
        rows = self._ledger.rows(query, message_id, endpoint)
        return [
            dict(zip(("number", "status", "error", "took_ms"), row, strict=True)) for row in rows
        ]

    def delivered(self, *message_ids: str, endpoint: str = DEFAULT_ID) -> bool:
        return all(
            self.row(one, endpoint).get("delivered_at_micros") is not None for one in message_ids
        )

    def locked(self) -> AbstractContextManager[None]:
        """Let nobody else write."""
        return self._ledger.locked()

    def time_passes(self) -> None:
        """Make everything that waits due."""
        self.execute("UPDATE delivery SET next_attempt_at_micros = 0, claimed_until_micros = 0")


class ReceiverLab:
    """Verifies each message as a receiver should, then answers as told."""

    def __init__(
        self,
        answer: Callable[[str], Reply] = lambda _: Reply(status=204),
        *,
        signed: bool = True,
    ) -> None:
        self.requests: list[Request] = []
        self.answer = answer
        self.signed = signed
        self.server = HttpServer(self._receive)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/hooks?for=aforo"

    @property
    def ids(self) -> list[str]:
        """Message ids in the order of arrival."""
        return [request.header("webhook-id") or "" for request in self.requests]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.body) for request in self.requests]

    def endpoint(self, endpoint_id: str = DEFAULT_ID, **more: Any) -> Endpoint:  # noqa: ANN401
        return Endpoint(endpoint_id=endpoint_id, url=self.url, **({"keys": (KEY,)} | more))

    def _receive(self, request: Request) -> Reply:
        message_id = ""
        if self.signed:
            message_id = verify(
                KEY, headers=dict(request.headers), payload=request.body, now_s=int(time.time())
            )
        self.requests.append(request)
        return self.answer(message_id)
