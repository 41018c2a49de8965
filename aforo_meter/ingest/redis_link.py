"""Redis, asked in one round trip each time, and left alone for a moment after it failed."""

import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

RETRY_S: Final = 1.0
SYNC_KEY: Final = "aforo:v1:sync"

REACHABLE = Gauge("aforo_ingest_redis_reachable", "1 if Redis answered when it was last asked.")

log = structlog.get_logger()


class RedisAwayError(Exception):
    """Redis does not answer, or holds no complete sync. It never means "not there"."""


class RedisLink:
    """Lives in one event loop."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._retry_at_s = 0.0
        self._is_away = False
        self.has_answered = False

    async def ask(self, *commands: Sequence[str]) -> list[Any]:
        """Return the answers to some commands.

        Raises:
            RedisAwayError: Redis does not answer, or did not a moment ago. So a Redis that hangs
                holds up one request in a second, and not all of them.
        """
        if time.monotonic() < self._retry_at_s:
            raise RedisAwayError("redis did not answer a moment ago")
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            answers: list[Any] = await pipeline.execute()
        except (RedisError, OSError) as error:
            self._retry_at_s = time.monotonic() + RETRY_S
            REACHABLE.set(0)
            if not self._is_away:
                self._is_away = True
                log.warning(
                    "redis does not answer; known keys and tenants go on",
                    error=f"{type(error).__name__}: {error}",
                )
            raise RedisAwayError(type(error).__name__) from error
        REACHABLE.set(1)
        self.has_answered = True
        if self._is_away:
            self._is_away = False
            log.info("redis answers again")
        return answers
