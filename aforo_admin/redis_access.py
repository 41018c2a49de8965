"""How a command reaches Redis, and how it says that it can't."""

import argparse
import asyncio
import os
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import uvloop
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_admin import settings
from aforo_meter import redis_client

T = TypeVar("T")
S = TypeVar("S", bound=settings.RedisSettings)

URL_VARIABLE: Final = settings.variable("redis_url")


def add_url(command: argparse.ArgumentParser) -> None:
    """Add --redis-url, which the setting says otherwise."""
    command.add_argument(
        "--redis-url", metavar="URL", help=f"the read model (default: {URL_VARIABLE})"
    )


def chosen(options: argparse.Namespace, kind: type[S]) -> S:
    """Read settings, of which --redis-url says one.

    Raises:
        SettingsError: A value is missing or wrong.
    """
    said = {} if options.redis_url is None else {"redis_url": options.redis_url}
    return settings.load(kind, os.environ, **said)


def connect(chosen: settings.RedisSettings) -> Redis:
    return redis_client.connect(
        chosen.redis_url,
        timeout_s=chosen.redis_timeout_ms / 1000,
        retry=Retry(NoBackoff(), 0),  # Whoever asks decides whether to ask again.
    )


def unreachable(chosen: settings.RedisSettings, error: Exception) -> str:
    name = settings.variable("redis_url")
    address = settings.without_password(chosen.redis_url)
    return f"Redis at {address} ({name}) can't be used: {str(error) or type(error).__name__}"


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
