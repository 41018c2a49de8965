"""Hostile clients of ingest: each has a clear answer, and the others notice nothing."""

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from lab.servers import HANG_S, KafkaServer
from tests.conftest import KafkaAt
from tests.contract.ingest_lab import IngestLab, event, ingest_lab

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

MIB = 1024 * 1024
BODY_BYTES_MAX = 10 * MIB


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[IngestLab]:
    home = tmp_path_factory.mktemp("ingest-hostile")
    async with ingest_lab(
        kafka_server.bootstrap, home, consuming=False, body_timeout_s="2", requests_max="4"
    ) as made:
        yield made


async def undisturbed(lab: IngestLab) -> None:
    """Make sure that the next client is served as ever."""
    assert (await lab.batch(event("warm-up"))).counts == (1, 0, 0)


def padded(size: int) -> bytes:
    """Return a sound batch of exactly so many bytes: JSON may have any blanks in it."""
    text = json.dumps({"events": [event("warm-up")]}).encode()
    return text + b" " * (size - len(text))


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 64 * 1024):
        yield body[start : start + 64 * 1024]


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
async def test_a_body_may_have_10_mib_and_not_a_byte_more(lab: IngestLab, *, chunked: bool) -> None:
    for extra, status in ((0, 202), (1, 413)):
        body = padded(BODY_BYTES_MAX + extra)
        data = pieces(body) if chunked else body

        answer = await lab.post("/v1/ingest/batch", data=data)

        assert answer.status == status
        if extra:
            assert "10485760" in answer.problem
    await undisturbed(lab)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_packed_bodies_are_taken(lab: IngestLab, coding: str) -> None:
    text = json.dumps({"events": [event("warm-up") for _ in range(100)]}).encode()
    packed = gzip.compress(text) if coding == "gzip" else zlib.compress(text)

    answer = await lab.post("/v1/ingest/batch", data=packed, headers={"Content-Encoding": coding})

    assert answer.counts == (100, 0, 0)


@pytest.mark.parametrize(
    ("packed", "coding", "status"),  # Packed by the test: whoever only lists tests waits for none.
    [
        (lambda: gzip.compress(b" " * 200 * MIB), "gzip", 413),
        (lambda: gzip.compress(gzip.compress(b" " * 200 * MIB)), "gzip", 415),
        (lambda: zlib.compress(b" " * 50 * MIB), "deflate", 415),
        (lambda: b"\x1f\x8b" + b"\0" * 100, "gzip", 400),
        (lambda: b"{}", "br", 415),
        (lambda: b"{}", "gzip, gzip", 415),
    ],
    ids=["bomb", "bomb in a bomb", "deflated bomb", "no gzip", "brotli", "twice"],
)
async def test_a_bomb_is_refused_and_takes_no_memory(
    lab: IngestLab, packed: Callable[[], bytes], coding: str, status: int
) -> None:
    body = packed()
    process = psutil.Process(lab.program.pid)
    before_mb = process.memory_info().rss / MIB

    for _ in range(3):
        answer = await lab.post("/v1/ingest/batch", data=body, headers={"Content-Encoding": coding})
        assert answer.status == status
        assert answer.problem

    assert process.memory_info().rss / MIB < before_mb + 100  # Of 200 MiB.
    await undisturbed(lab)


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data"],
)
async def test_another_content_type_is_a_415(lab: IngestLab, content_type: str) -> None:
    answer = await lab.post("/v1/ingest", {}, headers={"Content-Type": content_type})

    assert answer.status == 415
    assert "application/json" in answer.problem


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"events": [' + b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"events": NaN}',
    ],
    ids=lambda body: repr(body)[:20],
)
async def test_what_is_no_json_is_a_400(lab: IngestLab, body: bytes) -> None:
    answer = await lab.post("/v1/ingest/batch", data=body)

    assert answer.status == 400
    assert answer.problem.startswith("the body is")
    await undisturbed(lab)


async def test_what_one_event_says_spoils_no_other(lab: IngestLab) -> None:
    """Numbers beyond all types, halves of characters, NULs, depths: each is its own event's."""
    sound = json.dumps(event("warm-up"))
    oddities = [
        ('"quantity": 1', '"quantity": 1e99999999999999999999'),
        ('"quantity": 1', '"quantity": ' + "9" * 5000),
        ('"quantity": 1', '"quantity": 1e-999999'),
        ('"customerId": "', '"customerId": "\\ud800'),
        ('"idempotencyKey": "', '"idempotencyKey": "\\u0000'),
        ('"quantity": 1', '"metadata": ' + '{"a":' * 60 + "1" + "}" * 60 + ', "quantity": 1'),
        ('"quantity": 1', '"metadata": {"a": "\\udc00"}, "quantity": 1'),
    ]
    odd = [json.dumps(event("warm-up")).replace(*pair, 1) for pair in oddities]

    answer = await lab.post("/v1/ingest/async-batch", data=f"[{','.join([*odd, sound])}]".encode())

    assert answer.counts == (1, 0, len(odd)), answer.data
    fields = [error["message"].partition(":")[0] for error in answer.data["errors"]]
    assert fields == [
        *("quantity", "quantity", "quantity", "customerId", "idempotencyKey"),
        *("metadata", "metadata"),
    ]


def tool_names(count: int, batch: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, count, batch):
        yield [
            event(
                "warm-up",
                metricName="mcp_server.tool_invocations",
                productType="MCP_SERVER",
                toolName=f"tool-{number}",
                agentId=f"agent-{number}",
                sessionId=f"session-{number}",
                metadata={f"name-{number}": number},
            )
            for number in range(start, start + batch)
        ]


async def test_endless_tool_names_agents_and_sessions_take_no_more_memory(lab: IngestLab) -> None:
    """A sample of ten million: by then everything that is remembered has reached its bound."""
    process = psutil.Process(lab.program.pid)
    sizes = []
    for index, events in enumerate(tool_names(60_000, 1000)):
        assert (await lab.batch(*events)).counts == (1000, 0, 0)
        if index % 20 == 19:
            sizes.append(process.memory_info().rss / MIB)

    assert sizes[-1] < sizes[0] + 40, sizes
    assert sizes[-1] < 250, sizes
    text = await lab.metric("aforo_ingest_events_total")
    assert text >= 60_000


async def test_unknown_keys_take_no_more_memory(lab: IngestLab) -> None:
    process = psutil.Process(lab.program.pid)
    before_mb = process.memory_info().rss / MIB

    for start in range(0, 3000, 100):
        answers = [await lab.post("/v1/ingest", {}, key=f"guess-{start + n}") for n in range(100)]
        assert {answer.status for answer in answers} == {401}

    assert process.memory_info().rss / MIB < before_mb + 20


@pytest.mark.parametrize(
    ("occurred", "problem"),
    [
        ("2099-01-01T00:00:00Z", "at most 5 minutes ahead"),
        (0, "at most 90 days old"),
        (1.8e12, "at most 5 minutes ahead"),  # Milliseconds, where seconds are meant.
        ("9999-12-31T23:59:59Z", "at most 5 minutes ahead"),
    ],
)
async def test_a_clock_that_is_wrong_is_told(
    lab: IngestLab, occurred: object, problem: str
) -> None:
    answer = await lab.batch(event("warm-up", occurredAt=occurred), event("warm-up"))

    assert answer.counts == (1, 0, 1)
    assert problem in answer.data["errors"][0]["message"]


def ask_raw(port: int, *parts: bytes, wait_s: float = 30.0) -> bytes:
    """Send parts as they are, and return all that comes until the server closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(wait_s)
        try:
            for part in parts:
                connection.sendall(part)
            while more := connection.recv(65_536):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass  # It did not read on; what it said stands.
    return answer


HEAD = b"POST /v1/ingest HTTP/1.1\r\nhost: a\r\nx-api-key: the-key-of-the-lab\r\n"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([HEAD + b"x-long: " + b"x" * 20_000 + b"\r\n\r\n"], b"431"),
        ([HEAD + b"x-a: b\r\n" * 5000 + b"\r\n"], b"431"),
        ([b"POST /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n"], b"431"),
        ([b"no http at all\r\n\r\n"], b"400"),
        ([HEAD + b"content-length: x\r\n\r\n"], b"400"),
        ([HEAD + b"content-length: 100\r\n\r\n{"], b"408"),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{"], b"408"),
        ([b"POST /v1/ingest HTTP/1.1\r\nhost"], b"408"),
    ],
    ids=["long", "many", "path", "none", "length", "slow body", "slow chunk", "slow head"],
)
async def test_what_is_no_request_or_never_ends_is_answered_and_closed(
    lab: IngestLab, parts: list[bytes], status: bytes
) -> None:
    answer = await asyncio.to_thread(ask_raw, lab.port, *parts)

    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert b"application/problem+json" in answer
    await undisturbed(lab)


async def test_more_requests_than_it_may_have_are_told_to_come_again(lab: IngestLab) -> None:
    slow = [
        asyncio.create_task(
            asyncio.to_thread(ask_raw, lab.port, HEAD + b"content-length: 9\r\n\r\n")
        )
        for _ in range(4)  # Each takes a thread, of which there are six on two cores.
    ]
    answers = []
    while not all(one.done() for one in slow):
        answers.append(await lab.post("/v1/ingest", event("warm-up")))
    refused = [answer for answer in answers if answer.status != 202]

    assert refused
    for answer in refused:
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.problem
    # Those that found no place are refused at once, and closed like the others.
    assert {one.result()[9:12] for one in slow} <= {b"408", b"503"}
    await undisturbed(lab)


async def test_clients_that_leave_are_forgotten(lab: IngestLab) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", lab.port), 5) as connection:
            connection.sendall(HEAD + b"content-length: 100000\r\n\r\n" + b"x" * 50_000)

    text = ""
    async with asyncio.timeout(HANG_S):
        while text != "0.0 0.0":
            text = " ".join(
                [
                    str(await lab.metric("aforo_ingest_requests_under_way")),
                    str(await lab.metric("aforo_ingest_body_bytes")),
                ]
            )
    await undisturbed(lab)
