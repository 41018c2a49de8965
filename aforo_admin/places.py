"""Where a serving process was told that ledger, Redis and Kafka are."""

from dataclasses import dataclass
from typing import Final

from django.conf import settings as django_settings

PREFIX: Final = "AFORO_ADMIN_"


class NotSetError(Exception):
    """Nobody has said where a store is; the message names the setting."""

    def __init__(self, what: str, setting: str) -> None:
        super().__init__(
            f"this process is not told where {what} is: set {PREFIX}{setting.upper()},"
            " and start aforo-admin serve again"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the stores are. Empty: nobody has said so."""

    ledger_url: str = ""
    redis_url: str = ""
    kafka_bootstrap: str = ""
    dead_letter_topic: str = "aforo.usage.dlq.v1"

    def ledger(self) -> str:
        """Return the ledger's URL.

        Raises:
            NotSetError: Nobody has said so.
        """
        return _said(self.ledger_url, "the ledger", "ledger_url")

    def redis(self) -> str:
        """Return the URL of Redis.

        Raises:
            NotSetError: Nobody has said so.
        """
        return _said(self.redis_url, "Redis", "redis_url")

    def kafka(self) -> str:
        """Return where the brokers are.

        Raises:
            NotSetError: Nobody has said so.
        """
        return _said(self.kafka_bootstrap, "Kafka", "kafka_bootstrap")


def places() -> Places:
    """Return where this process was told that the stores are."""
    found = getattr(django_settings, "AFORO_PLACES", None)
    return found if isinstance(found, Places) else Places()


def _said(value: str, what: str, setting: str) -> str:
    if not value:
        raise NotSetError(what, setting)
    return value
