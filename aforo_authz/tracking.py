"""Hears from Redis which keys changed: server-assisted client-side caching, in broadcast mode."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from redis.asyncio import Redis

HEARTBEAT_S = 1.0
SILENCE_S_MAX = 3.0  # A connection that answers no ping for so long is taken as dead.


async def follow(redis: Redis, prefix: str) -> AsyncGenerator[list[str] | None, None]:
    """Yield the keys that changed under a prefix; None when any may have.

    The first answer is None: what was read before this connection existed may be old. The
    stream ends with an error when the connection does; the caller starts anew.

    Args:
        redis: A client for this purpose alone, with protocol 2: the connection redirects
            invalidation to itself, as messages of a channel. It is closed at the end.
        prefix: Keys that begin so.

    Raises:
        RedisError, OSError, TimeoutError: Redis can't be reached, or fell silent.
    """
    try:
        pool: Any = redis.connection_pool  # Untyped upstream.
        connection = await pool.get_connection()
        try:
            await connection.send_command("CLIENT", "ID")
            client_id = await connection.read_response()
            await connection.send_command(
                *("CLIENT", "TRACKING", "ON", "REDIRECT", client_id, "BCAST", "PREFIX", prefix)
            )
            await connection.read_response()
            await connection.send_command("SUBSCRIBE", "__redis__:invalidate")
            await connection.read_response()
            yield None
            async for keys in _messages(connection):
                yield keys
        finally:
            await connection.disconnect()
            await pool.release(connection)
    finally:
        await redis.aclose()


async def _messages(connection: Any) -> AsyncIterator[list[str] | None]:  # noqa: ANN401 - untyped
    waiting_for_pong = 0
    while True:
        try:
            message = await connection.read_response(timeout=HEARTBEAT_S, disconnect_on_error=False)
        except TimeoutError:
            message = None
        if message is None:
            waiting_for_pong += 1
            if waiting_for_pong * HEARTBEAT_S > SILENCE_S_MAX:
                raise TimeoutError(f"Redis was silent for {SILENCE_S_MAX} s")
            await connection.send_command("PING")
            continue
        waiting_for_pong = 0
        if message[0] == b"message":
            keys = message[2]
            # Whatever anybody writes under the prefix arrives here, even what is no text.
            yield None if keys is None else [key.decode(errors="replace") for key in keys]
