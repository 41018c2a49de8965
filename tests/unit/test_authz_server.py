"""What both transports share, without a network: addresses and health."""

from pathlib import Path

import pytest

from aforo_authz.health import NOT_SERVING, SERVING, Health
from aforo_authz.server import AddressError, TcpAddress, UnixAddress, parse_address


def test_health_says_no_before_the_read_model_is_loaded_and_we_listen_and_while_draining() -> None:
    ready = False
    health = Health(lambda: ready)

    assert health.check(b"", None) == NOT_SERVING
    ready = True
    assert health.check(b"", None) == NOT_SERVING
    health.listening = True
    assert health.check(b"", None) == SERVING
    health.draining = True
    assert health.check(b"", None) == NOT_SERVING


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9001", TcpAddress("127.0.0.1", 9001)),
        ("[::1]:9001", TcpAddress("::1", 9001)),
        ("unix:/run/a.sock", UnixAddress(Path("/run/a.sock"))),
    ],
)
def test_addresses_are_understood(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["9001", "host:", "host:x", "host:70000", "unix:a.sock"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)
