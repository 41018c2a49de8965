"""Streams of access-log messages into ship, as fast as it reads: a process of its own.

It prints `ready`, and starts when a line comes in; at the end it prints how many messages it sent.
"""

import argparse
import asyncio
import itertools
import sys
import time
from typing import Any

import grpc.aio
import uvloop

from bench.access_logs import METHOD, messages


async def main(socket: str, *, streams: int, seconds: float) -> None:
    prepared = messages()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    end_s = time.monotonic() + seconds
    sent = await asyncio.gather(*[stream(socket, prepared, end_s) for _ in range(streams)])
    print(sum(sent), flush=True)


async def stream(socket: str, prepared: list[bytes], end_s: float) -> int:
    """Send on a connection of its own, as each worker of Envoy does."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        # Bytes in, bytes out: the stubs want serializers and a request iterator all the same.
        open_stream: Any = channel.stream_unary(METHOD, None, None)
        call = open_stream()
        for number in itertools.count():
            if time.monotonic() > end_s:
                await call.done_writing()
                await call
                return number
            await call.write(prepared[number % len(prepared)])
    raise AssertionError("counting does not end")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.ship_load", description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(given.socket, streams=given.streams, seconds=given.seconds))
