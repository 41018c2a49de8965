"""What a process needs around its work: logs, signals, health and metrics."""

import asyncio
import contextlib
import email.utils
import errno
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable

import prometheus_client
import structlog

from aforo_admin import metrics
from aforo_admin.settings import host_and_port, variable

REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_S = 5.0


class ListenError(Exception):
    """An address can't be listened on; the message names it, the setting and what to do."""


def configure_logging(level: str) -> None:
    """Log JSON lines to stderr, as docs/log.schema.json says; to a terminal, lines for people."""
    first: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # An error's text and places, never the values that were there: some are secret.
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # What libraries warn about while a server is away, our own lines say, with what follows.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=first,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.CRITICAL, handlers=[handler], force=True)


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


@contextlib.asynccontextmanager
async def health_server(listen: str, complaint: Callable[[], str | None]) -> AsyncIterator[None]:
    """Serve /livez, /readyz and /metrics while the body runs; nothing if `listen` is empty.

    Args:
        listen: `host:port`, checked by the settings.
        complaint: Says why the process is not ready; None if it is.

    Raises:
        ListenError: The address is in use or can't be listened on.
    """
    if not listen:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, complaint))
                await writer.drain()
        writer.close()

    host, port = host_and_port(listen)
    try:
        server = await asyncio.start_server(answer, host, port, limit=REQUEST_BYTES_MAX)
    except OSError as error:
        reason = "is already in use: stop what listens there, or"
        if error.errno != errno.EADDRINUSE:
            reason = f"can't be listened on ({error.strerror or error}):"
        raise ListenError(f"{listen} {reason} change {variable('metrics_listen')}") from None
    async with server:
        yield


def _response(head: bytes, complaint: Callable[[], str | None]) -> bytes:
    target = head.split(b"\r\n", 1)[0].split(b" ")[1:2] or [b""]
    path = target[0].partition(b"?")[0]
    status, kind, body = "404 Not Found", "text/plain", b"try /livez, /readyz or /metrics\n"
    if path == b"/livez":
        status, body = "200 OK", b"alive\n"
    elif path == b"/readyz":
        why = complaint()
        status = "200 OK" if why is None else "503 Service Unavailable"
        body = f"{why or 'ready'}\n".encode()
    elif path == b"/metrics":
        kind, body = prometheus_client.CONTENT_TYPE_LATEST, metrics.exposed()
        status = "200 OK"
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        f"date: {email.utils.formatdate(usegmt=True)}\r\nconnection: close\r\n\r\n"
    ).encode() + body
