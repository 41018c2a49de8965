"""The outbox as deliver sees it: messages that consume left in the ledger's database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class OutboxError(Exception):
    """There is no outbox to deliver from; the message says what to do."""


class OutboxUnavailableError(Exception):
    """The database did not answer, or is locked. Nothing was changed; it may work later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    outbox_id: int
    message_id: str
    tenant_id: str
    kind: str
    payload: bytes  # exactly as it will be sent
    attempts: int  # begun so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Messages neither delivered nor given up."""

    messages: int
    oldest_at_micros: int | None  # Unix time, UTC


class Outbox(Protocol):
    """Every method raises OutboxUnavailableError if the database can't be asked."""

    async def due(self, *, now_micros: int, count_max: int) -> Sequence[Message]:
        """Return messages to send, oldest first: of each tenant the oldest open one, if it is due.

        A message that waits for its retry holds back the younger ones of its tenant, and nobody
        else's.
        """

    async def claim(self, message: Message, *, until_micros: int) -> bool:
        """Count an attempt and keep others off the message; False if another was faster.

        The claim ends by itself, so that a process that dies does not take the message with it.
        """

    async def delivered(self, message: Message, *, now_micros: int) -> None:
        """The receiver has it."""

    async def retry(self, message: Message, *, at_micros: int, error: str) -> None:
        """The attempt failed; the next is due at `at_micros`."""

    async def give_up(self, message: Message, *, now_micros: int, error: str) -> None:
        """The last attempt failed. The tenant's next message is due."""

    async def backlog(self) -> Backlog: ...
