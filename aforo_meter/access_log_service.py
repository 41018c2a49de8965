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

# A stream that is quiet for this long while we drain is closed. What Envoy sends until it hears of
# that is lost, and right after a message the next one is farthest: at 800 calls a second Envoy
# writes one each 34 ms. Closing at any moment lost 0 to 15 of 4,800 calls, closing so none.
LULL_S: Final = 0.01
STREAMS_CLOSE_S_MAX: Final = 2.0

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

    def drain(self) -> None:
        """Close each stream in its next lull."""
        self._close_at_s = asyncio.get_running_loop().time() + STREAMS_CLOSE_S_MAX
        self._draining.set()

    def handlers(self) -> tuple[grpc.GenericRpcHandler[Any, Any], ...]:
        stream = grpc.stream_unary_rpc_method_handler(self._stream)
        health = grpc.unary_unary_rpc_method_handler(self._health)
        return (
            grpc.method_handlers_generic_handler(access_log.SERVICE, {access_log.METHOD: stream}),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),
        )

    async def _stream(self, _: object, context: Context) -> bytes:
        reader = access_log.StreamReader(self._reader)
        draining = asyncio.ensure_future(self._draining.wait())
        self._metrics.streams += 1
        try:
            while True:
                read = asyncio.ensure_future(context.read())
                try:
                    await self._arrived(read, draining)
                finally:
                    # Envoy may leave at any time, which cancels us: what was read by then must be
                    # in the outflow, not in our hands.
                    ended = not self._keep(reader, read)
                if ended:
                    return access_log.CLOSING_RESPONSE
                if not self._outflow.has_room:
                    await self._outflow.room()
        finally:
            self._metrics.streams -= 1
            draining.cancel()

    async def _arrived(self, read: asyncio.Future[Any], draining: asyncio.Future[Any]) -> None:
        """Wait for a message; while draining only for a lull."""
        await asyncio.wait({read, draining}, return_when=asyncio.FIRST_COMPLETED)
        if draining.done() and not read.done():
            left_s = self._close_at_s - asyncio.get_running_loop().time()
            await asyncio.wait({read}, timeout=max(0.0, min(LULL_S, left_s)))

    def _keep(self, reader: access_log.StreamReader, read: asyncio.Future[Any]) -> bool:
        """Put what a message says into the outflow; return whether there was a message."""
        if not read.done():
            read.cancel()
            return False
        if read.cancelled() or read.exception() is not None or read.result() is END:
            return False
        self._outflow.add([self._record(one) for one in reader.read(read.result())])
        self._metrics.count(reader.counts)
        reader.counts.clear()
        return True

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
