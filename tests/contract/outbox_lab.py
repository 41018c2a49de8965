"""A ledger with messages in its outbox, and a receiver that checks what it is sent."""

import base64
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from aforo_meter.endpoints import DEFAULT_ID, Endpoint
from aforo_meter.migrate import migrate
from aforo_meter.webhooks import verify
from lab.http_server import HttpServer, Reply, Request

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class OutboxLab:
    """A migrated ledger in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        migrate(self.url, dry_run=False)

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
            (message_id, tenant, kind, payload, created_at_micros),
        )
        return payload.encode()

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> None:
        with closing(sqlite3.connect(self.path, timeout=5)) as connection, connection:
            connection.execute(statement, values)

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path, timeout=5)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement, values)]

    def row(self, message_id: str, endpoint: str = DEFAULT_ID) -> dict[str, Any]:
        """Return the delivery of a message to an endpoint; empty: it was not routed there."""
        found = self.rows(
            "SELECT delivery.* FROM delivery JOIN outbox USING (outbox_id)"
            " WHERE message_id = ? AND endpoint_id = ?",
            *(message_id, endpoint),
        )
        return found[0] if found else {}

    def attempts(self, message_id: str, endpoint: str = DEFAULT_ID) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT number, status, error, took_ms FROM delivery_attempt JOIN outbox"
            " USING (outbox_id) WHERE message_id = ? AND endpoint_id = ? ORDER BY number",
            *(message_id, endpoint),
        )

    def delivered(self, *message_ids: str, endpoint: str = DEFAULT_ID) -> bool:
        return all(
            self.row(one, endpoint).get("delivered_at_micros") is not None for one in message_ids
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else write."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

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
