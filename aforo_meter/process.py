"""What every process of the package needs around its work: logs, signals, health, metrics."""

import asyncio
import contextlib
import email.utils
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from importlib.metadata import version
from typing import Any, TextIO, cast

import prometheus_client
import structlog
import uvloop

from aforo_meter.listen import TcpAddress, listen_error, parse_address

REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_S = 5.0
TURN_S = 0.0005
# Apart from the others: the packages export it under one name, and tests load several of them.
BUILD_REGISTRY = prometheus_client.CollectorRegistry()
BUILD = prometheus_client.Gauge(
    "aforo_build_info",
    "1; its labels say what runs.",
    ["process", "version"],
    registry=BUILD_REGISTRY,
)
GARBAGE_OBJECTS = 20_000  # Made and not yet freed, before the youngest are searched.


def configure_logging(level: str) -> None:
    """Log JSON lines to stderr, as docs/log.schema.json says; to a terminal, lines for people."""
    human = sys.stderr.isatty()
    first: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # An error's text and places, never the values that were there: some are secret.
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module: their errors in the same form.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=first,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    # It repeats an error for each attempt while a broker is away. Our own line says it once, with
    # what kafka_place.start hears there of why.
    logging.getLogger("aiokafka").propagate = False
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())


class _Stderr:
    """Standard error that may be a file on a full disk: then a line is lost, and not its writer."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run one process to its end, on uvloop, and return its exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def look_for_garbage_rarely() -> None:
    """Leave out of the search what is there by now, and search less often.

    Records are made by the hundred thousand and none is part of a cycle; looking for cycles among
    them took a twentieth of ship's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 50)


def take_turns() -> None:
    """Let threads that both compute take turns more often than every 5 ms.

    One that writes to a database waits for its turn behind each statement: that took most of the
    time of small transactions.
    """
    sys.setswitchinterval(TURN_S)


def give_way() -> None:
    """Don't interrupt others when there is something to do: who serves a request goes first.

    Beside an Envoy on the same cores, what is metered after a response would hold up another one.
    """
    with contextlib.suppress(OSError, AttributeError):  # Not allowed, or not Linux.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets. A second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask_to_stop() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop)
    return stop


async def wait_for(stop: asyncio.Event, *, timeout_s: float) -> bool:
    """Sleep for `timeout_s`, but not longer than until `stop`; return whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), timeout_s)
    return stop.is_set()


@contextlib.asynccontextmanager
async def health_server(
    listen: str, *, kind: str, setting: str, ready: Callable[[], bool]
) -> AsyncIterator[None]:
    """Serve /livez, /readyz and /metrics while the body runs; nothing if `listen` is empty.

    It runs on the process's own loop, so that an answer says that the loop turns.

    Raises:
        ListenError: The address is in use or can't be listened on.
    """
    if not listen:
        yield
        return
    BUILD.labels(kind, version("aforo")).set(1)
    address = parse_address(listen)
    assert isinstance(address, TcpAddress), "settings refuse a UNIX socket for metrics"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, ValueError):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, ready=ready))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(
            answer, address.host, address.port, limit=REQUEST_BYTES_MAX
        )
    except OSError as error:
        raise listen_error(address, error, setting=setting) from error
    async with server:
        yield


def _response(head: bytes, *, ready: Callable[[], bool]) -> bytes:
    line = head.split(b"\r\n", 1)[0].split(b" ")
    path = line[1].split(b"?", 1)[0] if len(line) > 1 else b""
    kind = "text/plain; charset=utf-8"
    status, body = "404 Not Found", b"try /livez, /readyz or /metrics\n"
    if path == b"/livez":
        status, body = "200 OK", b"alive\n"
    elif path == b"/readyz" and ready():
        status, body = "200 OK", b"ready\n"
    elif path == b"/readyz":
        status, body = "503 Service Unavailable", b"not ready\n"
    elif path == b"/metrics":
        kind = prometheus_client.CONTENT_TYPE_LATEST
        status, body = "200 OK", _metrics()
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        f"date: {email.utils.formatdate(usegmt=True)}\r\nconnection: close\r\n\r\n"
    ).encode() + body


def _metrics() -> bytes:
    parts = (BUILD_REGISTRY, prometheus_client.REGISTRY)
    return b"".join(prometheus_client.generate_latest(part) for part in parts)
