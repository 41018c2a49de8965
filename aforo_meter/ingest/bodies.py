"""Bodies of requests, read within bounds: size, time, memory of all together, what unpacks."""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

from starlette.requests import ClientDisconnect, Request

from aforo_meter.ingest.problems import ProblemError

BODY_BYTES_MAX: Final = 10 * 1024 * 1024
# A body of events packs to a twentieth. Beyond this and the first 64 KiB it is made to unpack.
RATIO_MAX: Final = 200
RATIO_FREE_BYTES: Final = 64 * 1024
# What a refused client still sends is read a while: an answer before that would be lost with the
# connection, which is reset if it is closed with bytes unread.
DISCARD_BYTES_MAX: Final = 12 * 1024 * 1024
DISCARD_S: Final = 5.0
WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Budget:
    """Bytes of bodies that may be in memory at the same time, over all requests."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.held_bytes = 0

    @contextlib.contextmanager
    def upload(self, request: Request) -> Iterator["Upload"]:
        upload = Upload(request, self)
        try:
            yield upload
        finally:
            self.held_bytes -= upload.held_bytes

    def take(self, count: int) -> None:
        """Hold more.

        Raises:
            ProblemError: 503, there is no more.
        """
        if self.held_bytes + count > self._bytes_max:
            raise ProblemError(
                503, "Bodies of other requests fill the memory set aside for them.", retry_after_s=1
            )
        self.held_bytes += count


class Upload:
    """The body of one request, and what it holds of the budget."""

    def __init__(self, request: Request, budget: Budget) -> None:
        self._request = request
        self._budget = budget
        self._is_complete = False
        self.held_bytes = 0

    async def read(self, *, within_s: float) -> bytes | bytearray:
        """Return the body, unpacked.

        Raises:
            ProblemError: 413 too large, packed or unpacked; 415 packed in another way, or to an
                improbable ratio; 400 packed wrongly; 408 too slow; 503 no memory left for it.
            ClientDisconnect: The client left.
        """
        headers = self._request.headers
        coding = headers.get("content-encoding", "").strip().lower()
        if coding not in {"identity", ""} and coding not in WINDOW_BITS:
            raise ProblemError(415, "Content-Encoding: send gzip, deflate or nothing.")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > BODY_BYTES_MAX:
            raise _too_large()
        try:
            async with asyncio.timeout(within_s):
                packed = await self._packed()
        except TimeoutError:
            raise ProblemError(
                408, f"The body did not arrive within {within_s:g} seconds.", close=True
            ) from None
        if coding not in WINDOW_BITS:
            return packed
        body = _unpack(packed, WINDOW_BITS[coding])
        self._hold(len(body))
        return body

    async def discard(self) -> bool:
        """Read and forget what a refused client goes on sending, for a while.

        Return whether that was all: if not, the connection can't be used again.
        """
        if "expect" in self._request.headers:
            return self._is_complete  # Who asked before sending has its answer now.
        seen = 0
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(DISCARD_S):
                async for chunk in self._chunks():
                    seen += len(chunk)
                    if seen > DISCARD_BYTES_MAX:
                        break
        return self._is_complete

    async def _packed(self) -> bytearray:
        body = bytearray()
        async for chunk in self._chunks():
            if len(body) + len(chunk) > BODY_BYTES_MAX:
                raise _too_large()
            self._hold(len(chunk))
            body += chunk
        return body

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Return what arrives. Not Request.stream: that can't be gone on with after a refusal."""
        while not self._is_complete:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self._is_complete = not message.get("more_body", False)
            yield message.get("body", b"")

    def _hold(self, count: int) -> None:
        self._budget.take(count)
        self.held_bytes += count


def _unpack(packed: bytearray, window_bits: int) -> bytes:
    """Unpack at most so much that the bounds can be told to hold.

    Raises:
        ProblemError: They don't, or this is not how it was packed.
    """
    bytes_max = min(BODY_BYTES_MAX, max(RATIO_FREE_BYTES, len(packed) * RATIO_MAX))
    engine = zlib.decompressobj(wbits=window_bits)
    try:
        body = engine.decompress(packed, bytes_max + 1)
    except zlib.error:
        if window_bits != WINDOW_BITS["deflate"]:
            raise _not_packed() from None
        # Some clients leave out the header that deflate should have.
        engine = zlib.decompressobj(wbits=-15)
        try:
            body = engine.decompress(packed, bytes_max + 1)
        except zlib.error:
            raise _not_packed() from None
    if len(body) > bytes_max:
        if bytes_max == BODY_BYTES_MAX:
            raise _too_large()
        raise ProblemError(415, f"The body unpacks to more than {RATIO_MAX} times its size.")
    if not engine.eof or engine.unused_data:
        raise _not_packed()
    return body


def _not_packed() -> ProblemError:
    return ProblemError(400, "The body is not packed as Content-Encoding says, or is cut short.")


def _too_large() -> ProblemError:
    return ProblemError(
        413,
        f"A body has at most {BODY_BYTES_MAX} bytes (10 MiB), unpacked; send several.",
        close=True,
    )
