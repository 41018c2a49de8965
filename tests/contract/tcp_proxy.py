"""Stands between a client and a server: can hold answers back, lose them, or cut the line."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable


class TcpProxy:
    """Forwards to one port of this machine, and speaks TLS for it if told to. In one event loop."""

    def __init__(self, to_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._to_port = to_port
        self._tls = tls
        self._gates: set[asyncio.Event] = set()  # One a connection; closed: answers are held.
        self._pipes: set[asyncio.Task[None]] = set()
        self.port = 0
        self.requests = 0  # Reads of what clients sent; what is written at once is read at once.
        self.cut = False
        self.swallowing = False
        self.answer_delay_s = 0.0  # How much later than the server spoke its words arrive.

    def lead_to(self, port: int) -> None:
        """Take new connections there; those that exist stay, as behind a Service."""
        self._to_port = port

    def hold_answers(self) -> None:
        """Keep what the server says on the connections that exist, in order, until `let_go`."""
        for gate in self._gates:
            gate.clear()

    def let_go(self) -> None:
        for gate in self._gates:
            gate.set()

    def cut_lines(self) -> None:
        """End every connection, and every one to come at once, until `mend_lines`."""
        self.cut = True
        for pipe in self._pipes:
            pipe.cancel()

    def swallow(self) -> None:
        """Lose every byte, of new connections as well, and end none, until `mend_lines`."""
        self.swallowing = True

    def mend_lines(self) -> None:
        if self.swallowing:
            # What was lost would have been sent again, or the connection given up: it has gaps.
            for pipe in self._pipes:
                pipe.cancel()
        self.cut = self.swallowing = False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["TcpProxy"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut_lines()
            await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.close()
            return
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.close()
            return
        gate = asyncio.Event()
        gate.set()
        self._gates.add(gate)
        for source, sink, gates in ((reader, to_writer, ()), (to_reader, writer, (gate,))):
            pipe = asyncio.ensure_future(self._forward(source, sink, gates))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        gates: Iterable[asyncio.Event],
    ) -> None:
        loop = asyncio.get_running_loop()
        due_s = 0.0
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await source.read(65_536):
                self.requests += not gates
                for gate in gates:
                    await gate.wait()
                if self.swallowing:
                    continue
                if gates and (self.answer_delay_s or loop.time() < due_s):
                    # Never two at the same time: what was said first arrives first.
                    due_s = max(due_s + 1e-6, loop.time() + self.answer_delay_s)
                    loop.call_at(due_s, sink.write, data)
                else:
                    sink.write(data)
                    await sink.drain()
        sink.close()
