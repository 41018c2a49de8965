"""What lasts as long as the process, lasts."""

import asyncio

import pytest
import structlog.testing

from aforo_authz.serving import kept_up


async def test_a_part_that_breaks_is_logged_and_begins_again() -> None:
    begun = 0
    works = asyncio.Event()

    async def break_twice() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ZeroDivisionError
        works.set()
        await asyncio.sleep(60)

    with structlog.testing.capture_logs() as lines:
        running = asyncio.ensure_future(kept_up(break_twice, again_s=0.0))
        await works.wait()

    assert [line["log_level"] for line in lines] == ["error", "error"]
    assert all("break_twice" in line["part"] for line in lines)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_part_that_is_cancelled_ends() -> None:
    async def last() -> None:
        await asyncio.sleep(60)

    running = asyncio.ensure_future(kept_up(last))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
