"""Clients that send what is cheap for them and dear for us: it costs them their connection.

The server runs in a process of its own, whose memory is looked at: what a flood sends is not kept.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from aforo_authz.limits import Limits
from tests.contract.http2_server import ECHO, HANG, LATER, Http2Process
from tests.contract.raw_http2 import after, flood
from tests.http2_frames import (
    ACK,
    CALM,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL,
    INITIAL_WINDOW,
    INTERNAL,
    WINDOW_BYTES_MAX,
    continuation,
    data,
    encoded,
    frame,
    grpc_call,
    grpc_fields,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)

pytestmark = pytest.mark.contract

PARTS_MAX = 400_000  # Twenty times what any limit lets through.
TRIES_MAX = 5
GROWTH_KIB_MAX = 32 * 1024
CONTROL_FRAMES_MAX = 5000
BLOCK, HANG_BLOCK = encoded(grpc_fields(ECHO)), encoded(grpc_fields(HANG))
WHOLE = END_HEADERS | END_STREAM
WIDEST = settings((INITIAL_WINDOW, WINDOW_BYTES_MAX)) + window_update(0, WINDOW_BYTES_MAX - 65_535)


class Flood(NamedTuple):
    what: str
    part: Callable[[int], bytes]  # The n-th; streams 1 and below are the setup's.
    code: int | None  # Of GOAWAY; None: libnghttp2 may hang up before it can say why.
    setup: bytes = b""

    def __str__(self) -> str:
        return self.what


def stream(n: int) -> int:
    return 2 * n + 3


def same(part: bytes) -> Callable[[int], bytes]:
    return lambda _: part


ENTRY = encoded([("x", "v" * 4000)], indexed=True)  # Fills the receiver's table.
FLOODS = [
    # libnghttp2 names its limit of resets an internal error.
    Flood(
        "rapid reset (CVE-2023-44487)",
        lambda n: headers(stream(n), HANG_BLOCK, flags=WHOLE) + rst_stream(stream(n)),
        INTERNAL,
    ),
    Flood(
        "rapid reset of calls under way",
        lambda n: grpc_call(stream(n), LATER) + rst_stream(stream(n)),
        INTERNAL,
    ),
    Flood(
        "calls that we have to reset (CVE-2025-8671)",
        lambda n: headers(stream(n), BLOCK + encoded([("X", "")])),
        CALM,
    ),
    Flood(
        "lengths that we have to reset (CVE-2025-8671)",
        lambda n: (
            headers(stream(n), BLOCK + encoded([("content-length", "1")])) + data(stream(n), b"xx")
        ),
        CALM,
    ),
    Flood("more streams than agreed", lambda n: headers(stream(n), HANG_BLOCK), CALM),
    Flood(
        "CONTINUATION without end (CVE-2024-27316)",
        same(continuation(1, encoded([("x", "v" * 1000)]))),
        CALM,
        setup=headers(1, BLOCK, flags=0),
    ),
    Flood(
        "empty CONTINUATION",
        same(continuation(1, b"")),
        CALM,
        setup=headers(1, BLOCK, flags=0),
    ),
    Flood("SETTINGS (CVE-2019-9515)", same(settings()), CALM),
    Flood("SETTINGS with 32 entries", same(settings(*[(INITIAL_WINDOW, 65_535)] * 32)), CALM),
    Flood("PING (CVE-2019-9512)", same(ping()), CALM),
    Flood("acknowledgements of no ping", same(ping(flags=ACK)), CALM),
    Flood("WINDOW_UPDATE", same(window_update(0, 1)), CALM),
    Flood("PRIORITY (CVE-2019-9513)", lambda n: priority(stream(n), 0), CALM),
    Flood(
        "empty DATA (CVE-2019-9518)",
        same(data(1, flags=0)),
        CALM,
        setup=headers(1, BLOCK),
    ),
    Flood(
        "more DATA than the window",
        same(data(1, bytes(16_384), flags=0) * 40),
        FLOW_CONTROL,
        setup=headers(1, [(n, v) for n, v in grpc_fields(ECHO) if n != "content-type"]),
    ),
    Flood("unknown frames", same(frame(0xFA, 0, 0, b"abc")), CALM),
    Flood(
        "resets of a stream that is closed",
        same(rst_stream(1)),
        INTERNAL,
        setup=grpc_call(1, HANG) + rst_stream(1),
    ),
    Flood(
        "HPACK bomb: a large field named a thousand times",
        lambda n: headers(stream(n), BLOCK + b"\xbe" * 1000, flags=WHOLE),
        CALM,
        setup=headers(1, BLOCK + ENTRY, flags=WHOLE),
    ),
    Flood(
        "HPACK bomb: as large as allowed, in every call",
        lambda n: headers(stream(n), HANG_BLOCK + b"\xbe" * 3),
        CALM,
        setup=headers(1, BLOCK + ENTRY, flags=WHOLE),
    ),
    Flood(
        "a list of headers over the limit",
        lambda n: headers(stream(n), BLOCK + encoded([("x", "v" * 4000)] * 4)),
        CALM,
    ),
    Flood(
        "more headers than the limit",
        lambda n: headers(stream(n), BLOCK + encoded([("x", "")] * 130)),
        CALM,
    ),
]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest) -> Iterator[Http2Process]:
    # What is fast enough to be a flood depends on the machine; what is counted must not.
    limits = Limits(control_frames_per_s_max=CONTROL_FRAMES_MAX)
    with Http2Process(request.param, limits) as server:
        after(server, grpc_call(1, ECHO))
        yield server
        assert "Traceback" not in server.log


def answers(server: Http2Process) -> bool:
    return after(server, grpc_call(1, ECHO, b"x")).outcome(1) == "answered"


@pytest.mark.parametrize("case", FLOODS, ids=str)
def test_a_flood_costs_its_sender_the_connection_and_us_no_memory(
    server: Http2Process, case: Flood
) -> None:
    before_kib = server.peak_kib

    for _ in range(TRIES_MAX):
        seen = flood(server, case.setup, map(case.part, range(PARTS_MAX)))
        assert seen.ended
        if seen.goaways:
            break  # What arrives at a closed socket resets it, and may take the last word along.

    assert seen.goaways[-1:] == [case.code]
    assert server.peak_kib - before_kib < GROWTH_KIB_MAX
    assert answers(server)


def test_answers_that_nobody_reads_are_kept_up_to_a_bound(server: Http2Process) -> None:
    """CVE-2019-9517: a wide window of HTTP/2 over a shut one of TCP."""
    before_kib = server.peak_kib

    seen = flood(
        server,
        WIDEST,
        (grpc_call(stream(n), ECHO, bytes(1000)) for n in range(PARTS_MAX)),
        reads=False,
    )

    assert seen.ended
    assert server.peak_kib - before_kib < GROWTH_KIB_MAX
    assert answers(server)


def test_answers_behind_a_shut_window_are_kept_up_to_a_bound(server: Http2Process) -> None:
    """As many as calls may be under way: after that libnghttp2 refuses streams, and then it ends.

    An answer of Check is a few hundred bytes long.
    """
    before_kib = server.peak_kib

    seen = flood(
        server,
        settings((INITIAL_WINDOW, 0)),
        (grpc_call(stream(n), ECHO, bytes(500)) for n in range(PARTS_MAX)),
    )

    assert seen.goaways[-1:] == [CALM]
    assert server.peak_kib - before_kib < GROWTH_KIB_MAX
    assert answers(server)


def test_what_comes_for_a_stream_that_is_closed_is_read_and_dropped(server: Http2Process) -> None:
    """It may have crossed our answer (5.1), so libnghttp2 bears any amount. It costs its bytes."""
    before_kib = server.peak_kib
    closed = grpc_call(1, HANG) + rst_stream(1)

    seen = flood(server, closed, itertools.repeat(window_update(1, 1) * 1000, 300))

    assert not seen.goaways
    assert server.peak_kib - before_kib < GROWTH_KIB_MAX
    assert answers(server)


def test_the_memory_that_is_looked_at_shows_what_is_kept() -> None:
    """Else the bounds above would show nothing: here more is kept than they allow."""
    part = data(1, bytes(16_000), flags=0)
    halves = [
        headers(stream(n), BLOCK) + part.replace(b"\1", bytes([stream(n)])) * 60 for n in range(40)
    ]

    with Http2Process(limits=Limits(buffered_bytes_max=1 << 30)) as server:
        before_kib = server.peak_kib
        assert not after(server, settings(flags=ACK) + b"".join(halves)).ended

        assert server.peak_kib - before_kib > GROWTH_KIB_MAX
