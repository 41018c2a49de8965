"""Asks a decision server at a fixed rate from a process of its own, for as long as it is let."""

import itertools
import multiprocessing
import random
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final, Self

import uvloop

from bench.check_client import CheckClient
from bench.check_requests import CheckRequests
from bench.read_model import PLAIN

TURN_S: Final = 1.0


class Asking:
    """Decisions asked while the body runs, for tenants drawn by Zipf's law.

    Args:
        port: Of the server, on 127.0.0.1.
        tenants: Of how many.
        rate_per_s: Checks a second.
    """

    def __init__(self, port: int, tenants: int, rate_per_s: float) -> None:
        self._ours, theirs = multiprocessing.get_context("spawn").Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_ask, args=(theirs, port, tenants, rate_per_s)
        )
        self._latencies_s: Sequence[float] = ()

    def p99_ms(self) -> float:
        ordered = sorted(self._latencies_s)
        return round(ordered[int(0.99 * len(ordered))] * 1000, 3)

    def __enter__(self) -> Self:
        self._process.start()
        self._ours.recv()  # It is about to ask.
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send("enough")
        self._latencies_s, errors = self._ours.recv()
        self._process.join()
        assert not errors, errors


def _ask(owner: "Connection[Any, Any]", port: int, tenants: int, rate_per_s: float) -> None:
    requests = CheckRequests(PLAIN)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, tenants + 1)))
    count = round(TURN_S * rate_per_s)
    latencies_s: list[float] = []
    errors: dict[str, int] = {}
    owner.send("ready")
    while not owner.poll():
        chosen = random.choices(range(tenants), cum_weights=weights, k=count)  # noqa: S311
        messages = [requests.of(number) for number in chosen]
        client = CheckClient(
            port=port, rate_per_s=rate_per_s, count=count, message=messages.__getitem__
        )
        result = uvloop.run(client.run())
        latencies_s += result.latencies_s
        errors |= result.errors
    owner.send((latencies_s, errors))
