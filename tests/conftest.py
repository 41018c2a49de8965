"""Real servers for the tests: from the environment, from Docker, else from wheels.

A missing server skips with its reason; with AFORO_REQUIRE_ALL=1 (set in CI) it fails instead.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from lab.servers import KafkaServer, RedisServer, ServerStartError, scratch_dir

UNIT_DIR = Path(__file__).parent / "unit"


def require(server: str, error: Exception) -> None:
    """Skip, or fail where everything is required."""
    message = f"no {server}: {error}"
    if os.environ.get("AFORO_REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)


@contextlib.contextmanager
def _started(kind: type[RedisServer] | type[KafkaServer]) -> Iterator[RedisServer | KafkaServer]:
    try:
        server = kind(log_dir=scratch_dir(f"test-{kind.__name__.lower()}")).start()
    except (ImportError, OSError, ServerStartError) as error:
        require(kind.__name__, error)
        raise
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(server.stop)
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the session's own. Tests that stop or freeze one start their own."""
    with _started(RedisServer) as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    """A Kafka-protocol broker of the session's own. Tests name their own topics."""
    with _started(KafkaServer) as server:
        assert isinstance(server, KafkaServer)
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The session's Redis, emptied."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
