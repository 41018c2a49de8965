"""How a command reaches Redis, and how it says that it can't."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_admin import settings

T = TypeVar("T")


def connect(chosen: settings.RedisSettings) -> Redis:
    timeout_s = chosen.redis_timeout_ms / 1000
    return Redis.from_url(
        chosen.redis_url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),  # Whoever asks decides whether to ask again.
    )


def unreachable(chosen: settings.RedisSettings, error: Exception) -> str:
    name = settings.variable("redis_url")
    address = settings.without_password(chosen.redis_url)
    return f"Redis at {address} ({name}) can't be used: {str(error) or type(error).__name__}"


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
