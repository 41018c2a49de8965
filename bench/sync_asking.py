"""Asks a decision server at a fixed rate from a process of its own, for as long as it is let."""

import itertools
import multiprocessing
import random
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final, Self

import uvloop

from bench.check_client import CheckClient
from bench.check_requests import CheckRequests
from bench.read_model import PLAIN

TURN_S: Final = 1.0  # A turn has one connection: its first answer, which is late, is one of many.


@dataclass(slots=True)
class Answers:
    """What came of questions."""

    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0

    def p99_ms(self) -> float:
        ordered = sorted(self.latencies_s)
        return round(ordered[int(0.99 * len(ordered))] * 1000, 3)


class Asking:
    """Decisions asked while the body runs, for tenants drawn by Zipf's law.

    Args:
        port: Of the server, on 127.0.0.1.
        tenants: Of how many.
        rate_per_s: Checks a second.
    """

    def __init__(self, port: int, tenants: int, rate_per_s: float) -> None:
        self.answers = Answers()
        self._ours, theirs = multiprocessing.get_context("spawn").Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_ask, args=(theirs, port, tenants, rate_per_s)
        )

    def __enter__(self) -> Self:
        self._process.start()
        self._ours.recv()  # It is about to ask.
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send("enough")
        self.answers = self._ours.recv()
        self._process.join()


def _ask(owner: "Connection[Any, Any]", port: int, tenants: int, rate_per_s: float) -> None:
    requests = CheckRequests(PLAIN)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, tenants + 1)))
    count = round(TURN_S * rate_per_s)
    answers = Answers()
    owner.send("ready")
    while not owner.poll():
        chosen = random.choices(range(tenants), cum_weights=weights, k=count)  # noqa: S311
        messages = [requests.of(number) for number in chosen]
        client = CheckClient(
            port=port,
            rate_per_s=rate_per_s,
            count=count,
            message=messages.__getitem__,
            connections=1,
        )
        result = uvloop.run(client.run())
        answers.latencies_s += result.latencies_s
        answers.failed += result.errors.total()
    owner.send(answers)
