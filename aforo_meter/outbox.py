"""The outbox as deliver sees it: messages that consume left in the ledger's database.

Each message is routed once, to the endpoints that are configured then and want it: one delivery
each, which fails, waits and ends by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aforo_meter.endpoints import Endpoint


class Delivery(NamedTuple):
    """One message on its way to one endpoint."""

    outbox_id: int
    endpoint_id: str
    message_id: str
    tenant_id: str  # Empty: the message is about no tenant.
    kind: str
    payload: str  # exactly as consume wrote it
    attempts: int  # begun so far
    failures: int  # since it was first sent, or sent again


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How an attempt ended. `error` is None if the endpoint has the message."""

    took_ms: int
    status: int | None  # None: it never came to an answer.
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Deliveries to one endpoint that neither arrived nor were given up."""

    messages: int
    oldest_at_micros: int | None  # Unix time, UTC
    is_gone: bool = False


class Outbox(Protocol):
    """Every method raises LedgerUnavailableError if the database can't be asked."""

    async def route(self, endpoints: Sequence[Endpoint], *, now_micros: int) -> int:
        """Make a delivery for each endpoint that wants a new message; return how many messages."""

    async def due(
        self, endpoint: Endpoint, *, now_micros: int, count_max: int
    ) -> Sequence[Delivery]:
        """Return what to send, oldest first: of each tenant the oldest open delivery, if it is due.

        One that waits for its retry holds back the younger ones of its tenant to this endpoint, and
        nobody else's. An endpoint that is gone has nothing due.
        """

    async def claim(self, delivery: Delivery, *, now_micros: int, until_micros: int) -> bool:
        """Begin an attempt and keep others off it; False if another was faster.

        The claim ends by itself, so that a process that dies does not take the delivery with it.
        """

    async def delivered(self, delivery: Delivery, result: Result, *, now_micros: int) -> None:
        """The endpoint has it."""

    async def retry(self, delivery: Delivery, result: Result, *, at_micros: int) -> None:
        """The attempt failed; the next is due at `at_micros`."""

    async def give_up(self, delivery: Delivery, result: Result, *, now_micros: int) -> None:
        """The last attempt failed. The tenant's next message is due."""

    async def gone(
        self, delivery: Delivery, result: Result, endpoint: Endpoint, *, now_micros: int
    ) -> None:
        """The endpoint wants no more: everything to it waits, while it has that URL."""

    async def back(self, endpoint: Endpoint) -> bool:
        """The endpoint takes messages again; return whether it was gone."""

    async def prune(self, *, ended_before_micros: int, messages_max: int) -> int:
        """Look at some messages, others than the last time, and forget those that ended long ago.

        Returns:
            How many it has forgotten. One that waits, at whatever endpoint, is kept.
        """

    async def backlog(self, endpoint: Endpoint) -> Backlog: ...
