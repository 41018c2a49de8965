"""How a step says what it saw, and what it expected."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
WAIT_S = 60.0  # A hang; what has to be quick says so itself.


class StepFailedError(Exception):
    """A step did not show what it should; the message says what was seen."""


def check(condition: object, expected: str, seen: object) -> None:
    """Fail the step unless the condition holds."""
    if not condition:
        raise StepFailedError(f"expected {expected}; saw {seen}")


async def until(
    look: Callable[[], Awaitable[T]],
    good: Callable[[T], object],
    expected: str,
    *,
    within_s: float = WAIT_S,
) -> tuple[T, float]:
    """Look again and again until it is good; return what was seen and the seconds it took."""
    started = time.monotonic()
    while True:
        seen = await look()
        took_s = time.monotonic() - started
        if good(seen):
            return seen, took_s
        check(took_s < within_s, f"{expected} within {within_s:.0f} s", seen)
        await asyncio.sleep(0.02)
