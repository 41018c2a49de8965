"""The load generator, against a real server: its figures must be believed before they are shown."""

import time

import pytest

from lab.load import LoadGenerator
from lab.ports import free_port
from lab.upstream import FakeLlm

pytestmark = pytest.mark.contract

FAST = b"GET /status/200 HTTP/1.1\r\nhost: a\r\n\r\n"
SLOW = b"GET /slow/200 HTTP/1.1\r\nhost: a\r\n\r\n"


async def test_it_sends_at_its_rate_and_counts_what_comes_after_the_warm_up() -> None:
    async with FakeLlm() as llm:
        started = time.monotonic()
        result = await LoadGenerator(
            port=llm.port,
            rate_per_s=500,
            duration_s=0.6,
            warm_up_s=0.2,
            request=lambda _: FAST,
            connections=8,
        ).run()
        took_s = time.monotonic() - started

        assert llm.tally.hits["/status/200"] == 300
    assert result.statuses == {200: 200}
    assert len(result.latencies_s) == 200
    assert not result.errors
    assert took_s >= 0.59


async def test_a_stall_costs_every_request_that_should_have_started_meanwhile() -> None:
    """One connection, a first answer after 200 ms: a closed loop would show one bad figure."""
    async with FakeLlm() as llm:
        result = await LoadGenerator(
            port=llm.port,
            rate_per_s=100,
            duration_s=0.3,
            request=lambda number: SLOW if number == 0 else FAST,
            connections=1,
        ).run()

    assert len(result.latencies_s) == 30
    assert result.quantile_ms(0.5) > 30
    assert sum(latency > 0.05 for latency in result.latencies_s) >= 10


async def test_a_server_that_is_not_there_is_an_error_and_not_a_fast_answer() -> None:
    generator = LoadGenerator(
        port=free_port(), rate_per_s=10, duration_s=0.1, request=lambda _: FAST
    )
    with pytest.raises(OSError, match=r"[Cc]onnect"):
        await generator.run()


async def test_each_request_gets_its_own_bytes_in_order() -> None:
    async with FakeLlm() as llm:
        await LoadGenerator(
            port=llm.port,
            rate_per_s=200,
            duration_s=0.1,
            request=lambda number: FAST.replace(b"/200", b"/%d" % (200 + number)),
            connections=4,
        ).run()

        assert [seen.target for seen in llm.last] == [f"/status/{200 + n}" for n in range(20)]
