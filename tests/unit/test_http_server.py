"""The lab's HTTP server: requests are found in bytes however these arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.http_server import BadRequestError, Reply, Request, head_of, take_request
from lab.load import is_complete

SIZED = b"POST /a?b=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n6;x=y\r\n\r\n\r\nlo\r\n0\r\n\r\n"
)
PLAIN = b"GET / HTTP/1.1\r\nX-A: 1\r\nx-a: 2\r\n\r\n"


@given(st.lists(st.sampled_from([SIZED, CHUNKED, PLAIN]), max_size=5), st.data())
def test_requests_are_found_however_their_bytes_are_split(
    requests: list[bytes], data: st.DataObject
) -> None:
    sent = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    received, found = bytearray(), []
    for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        received += sent[start:stop]
        while (request := take_request(received)) is not None:
            found.append(request.body)

    bodies = {SIZED: b"hello", CHUNKED: b"hel\r\n\r\nlo", PLAIN: b""}
    assert found == [bodies[request] for request in requests]
    assert not received


def test_header_names_are_in_lower_case_and_all_are_kept_in_order() -> None:
    request = take_request(bytearray(PLAIN))

    assert request is not None
    assert request.headers == (("x-a", "1"), ("x-a", "2"))
    assert request.header("x-a") == "1"


def test_a_target_is_split_into_path_and_query() -> None:
    request = take_request(bytearray(SIZED))

    assert request is not None
    assert (request.method, request.path, request.query) == ("POST", "/a", "b=1")


@pytest.mark.parametrize(
    "received",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
        b"x" * 200_000,
    ],
    ids=["no request line", "no length", "no chunk", "no end of the head"],
)
def test_what_is_not_http_is_refused(received: bytes) -> None:
    with pytest.raises(BadRequestError):
        take_request(bytearray(received))


@pytest.mark.parametrize(
    "response",
    [
        head_of(Reply(body=b"hello")) + b"hello",
        head_of(Reply(pieces=(b"a",))) + b"1\r\na\r\n0\r\n\r\n",
        head_of(Reply(status=204)),
    ],
    ids=["sized", "chunked", "without a body"],
)
def test_the_load_generator_sees_where_a_response_ends(response: bytes) -> None:
    assert is_complete(response)
    assert not any(is_complete(response[:cut]) for cut in range(len(response)))


def test_the_path_is_what_stands_before_the_query() -> None:
    assert Request(method="GET", target="/a", headers=(), body=b"").path == "/a"
