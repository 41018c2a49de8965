"""Real servers for the tests: those that the environment names, else those from wheels.

A missing server skips with its reason; with AFORO_REQUIRE_ALL=1 (set in CI) it fails instead.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
import redis
import structlog
from hypothesis import HealthCheck, settings

from lab.postgres import PostgresServer
from lab.servers import (
    KafkaServer,
    Program,
    RedisServer,
    ServerStartError,
    forget_scratch,
    scratch_dir,
)
from tests.missing import missing

P = TypeVar("P", bound=Program)
WORKERS_PER_CPU = 2  # Most tests wait for servers more than they compute.
WORKERS_MAX = 8  # Each has servers of its own.

# No example has a limit of its own: on shared cores it may wait.
settings.register_profile(
    "shared-cores", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared-cores")


@dataclass(frozen=True, slots=True)
class RedisAt:
    """A Redis that somebody else runs: AFORO_TEST_REDIS_URL. It is emptied by the tests."""

    url: str

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 6379


@dataclass(frozen=True, slots=True)
class KafkaAt:
    """Brokers that somebody else runs: AFORO_TEST_KAFKA."""

    bootstrap: str


@dataclass(frozen=True, slots=True)
class PostgresAt:
    """A PostgreSQL that somebody else runs: AFORO_TEST_POSTGRES_URL. It may make databases."""

    server_url: str

    def url(self, database: str = "") -> str:
        """Return the URL of one of its databases; without a name, of the one that was given."""
        parts = urlsplit(self.server_url)
        return parts._replace(path=f"/{database}").geturl() if database else self.server_url


def started(kind: type[P]) -> Iterator[P]:
    """Run a server for the session; skip, or fail where everything is required, without it."""
    try:
        server = kind(log_dir=scratch_dir(f"test-{kind.__name__.lower()}"))  # type: ignore[call-arg]
        server.start()
    except (ImportError, OSError, ServerStartError) as error:
        missing(f"no {kind.__name__}: {error}")
    yield server
    server.stop()


@pytest.hookimpl(optionalhook=True)  # Of pytest-xdist, which may be switched off.
def pytest_xdist_auto_num_workers() -> int:
    """Say how many processes `-n auto` is: none but this one where they would share servers.

    A Redis is emptied for all of them; a PostgreSQL has one template of ledgers.
    """
    if os.environ.get("AFORO_TEST_REDIS_URL") or os.environ.get("AFORO_TEST_POSTGRES_URL"):
        return 0
    return min(WORKERS_PER_CPU * len(os.sched_getaffinity(0)), WORKERS_MAX)


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remove the logs and data of a process without a failure; others are for looking at."""
    if exitstatus == pytest.ExitCode.OK:
        forget_scratch()


GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden anew; review the diff"
    )


@dataclass(frozen=True, slots=True)
class Golden:
    """Output as it should be, in files that people review."""

    update: bool

    def check(self, name: str, text: str) -> None:
        path = GOLDEN / name
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        assert path.read_text() == text + "\n"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(update=bool(request.config.getoption("--update-golden")))


@pytest.fixture(autouse=True)
def logs_of_one_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what a test sets up for logging from the next one, whose standard error is another.

    A process that remembers its loggers writes to the stream that it began with; pytest closes
    that stream when the test ends.
    """
    configure = structlog.configure

    def configure_uncached(**settings: Any) -> None:  # noqa: ANN401 - structlog's own
        configure(**{**settings, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", configure_uncached)
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer | RedisAt]:
    """A Redis for the session. Tests that stop or freeze one start their own."""
    url = os.environ.get("AFORO_TEST_REDIS_URL")
    if url:
        yield RedisAt(url)
    else:
        yield from started(RedisServer)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer | KafkaAt]:
    """A Kafka-protocol broker for the session. Tests name their own topics."""
    bootstrap = os.environ.get("AFORO_TEST_KAFKA")
    if bootstrap:
        yield KafkaAt(bootstrap)
    else:
        yield from started(KafkaServer)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer | PostgresAt]:
    """A PostgreSQL for the session. Tests make databases of their own."""
    url = os.environ.get("AFORO_TEST_POSTGRES_URL")
    if url:
        yield PostgresAt(url)
    else:
        yield from started(PostgresServer)


@pytest.fixture
def redis_url(redis_server: RedisServer | RedisAt) -> str:
    """The session's Redis, emptied."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
