"""One connection to one Redis: commands leave together, answers and news come back in order.

RESP3, so that what Redis tells of changed keys comes in order with the answers. Parsing and packing
are hiredis'. A command costs no task of its own: at tens of thousands a second that is what counts.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol, cast

import hiredis
import structlog

from aforo_authz.redis_url import Login, Node, Target, TcpNode, UnixNode

log = structlog.get_logger(__name__)

CONNECT_S_MAX = 1.0
HEARTBEAT_S = 1.0
SILENCE_S_MAX = 3.0  # A connection that answers no ping for so long is taken as dead.
PENDING_MAX = 20_000  # Unanswered commands; more than that is an outage, not a queue.
CLIENT_NAME = "aforo-authz"
_NOT_ENOUGH = object()

Answer = asyncio.Future[Any]


class Told:
    """Takes an answer as a future does, but hands it on at once: not a turn of the loop later.

    So what is told sees answers and news in the order in which Redis sent them.

    Args:
        tell: Called with Redis' answer, or with a RedisAnswerError. Must not raise.
    """

    __slots__ = ("_done", "_tell")

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self._tell = tell
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, answer: Any) -> None:  # noqa: ANN401 - any answer of Redis
        self._done = True
        self._tell(answer)

    set_exception = set_result


Receiver = Answer | Told


class Failure(StrEnum):
    """Why Redis could not be asked."""

    LOST = "lost"  # No connection, or it ended before the answer.
    TIMEOUT = "timeout"  # No answer within the budget.
    REFUSED = "refused"  # An error is the answer.


class RedisAnswerError(Exception):
    """Redis did not answer, or with an error."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure

    @property
    def is_of_the_value(self) -> bool:
        """Is it the value under the key that is wrong, whenever it is asked for?"""
        return "WRONGTYPE" in str(self)

    @property
    def is_unknown_script(self) -> bool:
        """Was a script asked for by its hash that this Redis has never seen, or has forgotten?"""
        return str(self).startswith("NOSCRIPT")


class Listener(Protocol):
    """Whom a connection tells what happens on it."""

    def on_changed(self, keys: list[str] | None) -> None:
        """Redis says that these keys were written; None: any may have been."""

    def on_redirect(self, error: str, command: bytes, answer: Receiver) -> None:
        """The key is elsewhere (MOVED, ASK): ask there, and settle the answer."""

    def on_lost(self, link: "Link") -> None:
        """Say that the connection has ended."""


class Link(asyncio.Protocol):
    """An open connection. Made by `connect`."""

    def __init__(self, node: Node, listener: Listener) -> None:
        self.node = node
        self.open = False
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOT_ENOUGH)
        self._pending: deque[tuple[Receiver, bytes]] = deque()
        self._outgoing: list[bytes] = []
        self._heard_s = self._beat_s = self._loop.time()
        self._heartbeat: asyncio.TimerHandle | None = None

    def send(self, command: bytes, answer: Receiver) -> None:
        """Send a command at the end of this turn of the loop; `answer` will be settled."""
        if not self.open:
            fail(answer, Failure.LOST, "no connection to Redis")
            return
        if len(self._pending) >= PENDING_MAX:
            fail(answer, Failure.TIMEOUT, f"Redis owes {PENDING_MAX} answers")
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(command)
        self._pending.append((answer, command))

    def ask(self, *command: str | bytes | int) -> Answer:
        """Send a command and return its answer. For what is not on the request's path."""
        answer: Answer = self._loop.create_future()
        self.send(packed(command), answer)
        return answer

    def close(self) -> None:
        if self.open:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self.open = True
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        pending, self._pending = self._pending, deque()
        for answer, _ in pending:
            fail(answer, Failure.LOST, f"the connection to Redis was lost: {error or 'closed'}")
        self._listener.on_lost(self)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        reader = self._reader
        try:
            reader.feed(data)
            while (message := reader.gets()) is not _NOT_ENOUGH:
                if type(message) is hiredis.PushNotification:
                    self._hear(message)
                else:
                    self._settle(message)
        except hiredis.ProtocolError as error:
            log.error("what came is not Redis' protocol", node=str(self.node), error=str(error))
            self._transport.abort()

    def _settle(self, message: Any) -> None:  # noqa: ANN401 - any answer of Redis
        if not self._pending:
            raise hiredis.ProtocolError("an answer that nobody asked for")
        answer, command = self._pending.popleft()
        if answer.done():
            return  # Whoever asked gave up; the command was carried out all the same.
        if not isinstance(message, hiredis.ReplyError):
            answer.set_result(message)
            return
        text = str(message)
        if text.startswith(("MOVED ", "ASK ")):
            self._listener.on_redirect(text, command, answer)
        else:
            fail(answer, Failure.REFUSED, text)

    def _hear(self, push: list[Any]) -> None:
        if push[0] == b"invalidate":
            keys = push[1]
            # Whatever anybody writes under the prefix arrives here, even what is no text.
            self._listener.on_changed(
                None if keys is None else [key.decode(errors="replace") for key in keys]
            )

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self.open:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def _beat(self) -> None:
        now_s = self._loop.time()
        if now_s - self._beat_s > 2 * HEARTBEAT_S:
            # It was this process that was held up: whether Redis is silent is still to be seen.
            self._heard_s = now_s - HEARTBEAT_S
        self._beat_s = now_s
        silent_s = now_s - self._heard_s
        if silent_s > SILENCE_S_MAX:
            log.warning("Redis fell silent: connection dropped", node=str(self.node))
            self._transport.abort()
            return
        if silent_s > HEARTBEAT_S / 2:
            _ignored(self.ask("PING"))
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat)


async def connect(
    node: Node, login: Login, target: Target, listener: Listener, *, prefix: str | None
) -> tuple[Link, str]:
    """Open a connection and log in.

    Args:
        node: Where.
        login: As whom.
        target: What it belongs to; its TLS is used.
        listener: Told of changed keys, and of the end.
        prefix: Hear of writes to keys that begin so; None: of none.

    Returns:
        The connection, and the server's role: "master", "replica" or "sentinel".

    Raises:
        OSError, TimeoutError, RedisAnswerError: It can't be reached, or refuses.
    """
    loop = asyncio.get_running_loop()
    factory: Callable[[], Link] = lambda: Link(node, listener)  # noqa: E731 - used twice
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            if isinstance(node, UnixNode):
                _, link = await loop.create_unix_connection(factory, node.path)
            else:
                _, link = await loop.create_connection(
                    factory, node.host, node.port, ssl=target.tls
                )
            try:
                role = await _log_in(link, login)
                if prefix is not None:
                    await link.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
            except BaseException:
                link.close()
                raise
    except TimeoutError as error:  # It says nothing of itself.
        how = " by TLS" if target.tls and isinstance(node, TcpNode) else ""
        raise TimeoutError(f"{node} was not reached{how} within {CONNECT_S_MAX:g} s") from error
    return link, role


async def _log_in(link: Link, login: Login) -> str:
    hello: list[str] = ["HELLO", "3"]
    if login.password:
        hello += ["AUTH", login.username or "default", login.password]
    try:
        told = await link.ask(*hello, "SETNAME", CLIENT_NAME)
    except RedisAnswerError as error:
        if str(error).startswith("ERR unknown command"):
            # Not its own words: they quote the password.
            raise RedisAnswerError(
                error.failure, "the server is too old: Redis 6, Valkey or newer is needed"
            ) from None
        raise
    if not isinstance(told, dict):
        raise RedisAnswerError(Failure.REFUSED, f"what answers at {link.node} is no Redis")
    if login.db:
        await link.ask("SELECT", login.db)
    role: bytes = told.get(b"role", b"sentinel")  # Sentinels say nothing of a role.
    return role.decode()


def packed(command: tuple[str | bytes | int, ...]) -> bytes:
    written: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # any number of words
    return written


def fail(answer: Receiver, failure: Failure, message: str) -> None:
    """Settle an answer with an error, unless somebody else has settled it."""
    if not answer.done():
        answer.set_exception(RedisAnswerError(failure, message))


def _ignored(answer: Answer) -> None:
    # Else asyncio complains of an error that nobody looked at.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
