"""Envoy's access-log service over gRPC: streams in, records into the outflow."""

from __future__ import annotations  # grpc-stubs has generics that grpc has not.

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import StringValue

from aforo_meter import access_log
from aforo_meter.outflow import Outflow
from aforo_meter.records import Record
from aforo_meter.ship_metrics import ShipMetrics
from aforo_proto import usage_pb2

# While we drain, a stream is closed when it is quiet for this long after a message. What Envoy
# sends until it hears of that is lost: grpc reads nothing of a stream that it has ended. Right
# after a message the next one is farthest: one comes each `buffer_flush_interval` (25 ms), or
# sooner from a worker whose `buffer_size_bytes` (1 MiB, some 1,500 calls) are full by then.
LULL_S: Final = 0.005

# grpc.health.v1.HealthCheckResponse has one field, an enum: these are the two encodings we use.
SERVING: Final = b"\x08\x01"
NOT_SERVING: Final = b"\x08\x02"


END: Final = grpc.aio.EOF  # type: ignore[attr-defined]  # The stubs don't know it.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    usage: str
    dead_letters: str


@dataclass(slots=True)
class Stream:
    """One stream of an Envoy, and how much came on it."""

    reader: access_log.StreamReader
    messages: int = 0


def dead_letter(topics: Topics, *, reason: str, payload: bytes) -> Record:
    """Return the record that keeps what could not be read or written."""
    letter = usage_pb2.DeadLetter(
        reason=reason,
        stage="ship",
        payload=payload,
        failed_at_micros=time.time_ns() // 1000,
    )
    return Record(topic=topics.dead_letters, key=None, value=letter.SerializeToString())


class AccessLogService:
    """Envoy's access-log service and grpc's health service.

    Both take bytes: a message that can't be parsed must become a dead letter, and with grpc's
    deserializers it would end the stream.
    """

    def __init__(
        self, outflow: Outflow, topics: Topics, reader: access_log.Reader, metrics: ShipMetrics
    ) -> None:
        self._outflow = outflow
        self._topics = topics
        self._reader = reader
        self._metrics = metrics
        self._draining = asyncio.Event()
        self._close_at_s = 0.0  # On the loop's clock; meaningful while draining.

    @property
    def serving(self) -> bool:
        return not self._draining.is_set()

    def drain(self, *, within_s: float) -> None:
        """Close each stream in the lull after its next message, or when the time is up."""
        self._close_at_s = asyncio.get_running_loop().time() + within_s
        self._draining.set()

    def handlers(self) -> tuple[grpc.GenericRpcHandler[Any, Any], ...]:
        stream = grpc.stream_unary_rpc_method_handler(self._stream)
        health = grpc.unary_unary_rpc_method_handler(self._health)
        return (
            grpc.method_handlers_generic_handler(access_log.SERVICE, {access_log.METHOD: stream}),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),
        )

    async def _stream(self, _: object, context: Context) -> bytes:
        """Read a stream to its end, or, while we drain, to the lull after a message.

        Reading is a task of its own, which lasts as long as the stream. Envoy may leave at any
        time, which cancels us, but not it: what has arrived by then is read before it ends.
        """
        stream = Stream(access_log.StreamReader(self._reader))
        reading = asyncio.ensure_future(self._read(stream, context))
        draining = asyncio.ensure_future(self._draining.wait())
        self._metrics.streams += 1
        reading.add_done_callback(self._left)
        try:
            await asyncio.wait({reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await self._lull(stream, reading)
                reading.cancel()
        finally:
            draining.cancel()
        return access_log.CLOSING_RESPONSE

    async def _read(self, stream: Stream, context: Context) -> None:
        """Put what arrives into the outflow, a message at a time."""
        while (payload := await context.read()) is not END:
            stream.messages += 1
            self._keep(stream.reader, payload)
            if not self._outflow.has_room:
                await self._outflow.room()

    def _left(self, reading: asyncio.Future[None]) -> None:
        self._metrics.streams -= 1
        # That Envoy left is no error of ours; anything else would be.
        error = None if reading.cancelled() else reading.exception()
        if error is not None and not isinstance(error, grpc.aio.BaseError | grpc.RpcError):
            log.error("a stream ended with an error", exc_info=error)

    async def _lull(self, stream: Stream, reading: asyncio.Future[None]) -> None:
        """Wait until a message has come and nothing for a while after it, or it is late."""
        loop = asyncio.get_running_loop()
        begun = seen = stream.messages
        while not reading.done() and loop.time() < self._close_at_s:
            await asyncio.wait({reading}, timeout=LULL_S)
            if begun < seen == stream.messages:
                return
            seen = stream.messages

    def _keep(self, reader: access_log.StreamReader, payload: bytes) -> None:
        self._outflow.add([self._record(one) for one in reader.read(payload)])
        self._metrics.count(reader.counts)
        reader.counts.clear()

    def _record(self, reading: access_log.Reading) -> Record:
        if isinstance(reading, access_log.Event):
            return Record(self._topics.usage, reading.key, reading.value)
        log.warning(
            "an entry became a dead letter", reason=reading.reason, bytes=len(reading.payload)
        )
        return dead_letter(self._topics, reason=reading.reason, payload=reading.payload)

    async def _health(self, request: bytes, context: Context) -> bytes:
        try:
            # HealthCheckRequest has one field, a string: on the wire that is a StringValue.
            asked = StringValue.FromString(request).value
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a HealthCheckRequest")
        if asked not in {"", access_log.SERVICE}:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {asked!r}")
        return SERVING if self.serving else NOT_SERVING
