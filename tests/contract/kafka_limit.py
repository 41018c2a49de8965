"""Stands before a broker and refuses what is too large, as brokers with `max.message.bytes` do.

The lab's broker takes everything. What is refused never reaches it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from io import BytesIO
from typing import Any

from aiokafka.protocol import produce
from aiokafka.protocol.api import RequestHeader_v1, ResponseHeader_v0

from lab.ports import free_port
from lab.servers import KafkaServer

PRODUCE = 0
MESSAGE_TOO_LARGE = 10


class LimitedKafka:
    """A broker, reached through this port alone, that takes no batch above `batch_bytes_max`.

    Args:
        batch_bytes_max: How large a batch may be.
        topics: Of which topics; empty: of all.
    """

    def __init__(self, *, batch_bytes_max: int, topics: Collection[str] = ()) -> None:
        self.port = free_port()
        self.refusals = 0
        self._batch_bytes_max = batch_bytes_max
        self._topics = topics
        self._connections: set[asyncio.Task[None]] = set()
        self._broker = KafkaServer()
        advertised = self._broker.command.index("--advertised-listener-url") + 1
        self._broker.command[advertised] = f"tcp://{self.bootstrap}"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["LimitedKafka"]:
        await asyncio.to_thread(self._broker.start)
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await asyncio.to_thread(self._broker.stop)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._broker.port)
        try:
            while True:
                request = await frame(reader)
                answer = self._refusal(request)
                if answer is None:
                    to_writer.write(sized(request))
                    answer = await frame(to_reader)
                writer.write(sized(answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # One of them has left.
        finally:
            for one in (to_writer, writer):
                one.close()
                with contextlib.suppress(ConnectionError):
                    await one.wait_closed()

    def _refusal(self, request: bytes) -> bytes | None:
        """Return the answer to a request that holds too large a batch; None for any other."""
        stream = BytesIO(request)
        api, version, correlation_id, _ = RequestHeader_v1.SCHEMA.decode(stream)
        if api != PRODUCE:
            return None
        asked = getattr(produce, f"ProduceRequest_v{version}").decode(stream)
        batches = [
            len(batch)
            for topic, partitions in asked.topics
            if not self._topics or topic in self._topics
            for _, batch in partitions
        ]
        if max(batches, default=0) <= self._batch_bytes_max:
            return None
        self.refusals += 1
        kind = getattr(produce, f"ProduceResponse_v{version}")
        # Offset and time; since version 5 the first offset of the log too.
        rest = (-1,) * (3 if version >= 5 else 2)
        topics: Any = [
            (topic, [(number, MESSAGE_TOO_LARGE, *rest) for number, _ in partitions])
            for topic, partitions in asked.topics
        ]
        answer: bytes = ResponseHeader_v0(correlation_id).encode()
        return answer + bytes(kind(topics, 0).encode())


async def frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4))
    return await reader.readexactly(size)


def sized(content: bytes) -> bytes:
    return len(content).to_bytes(4) + content
