"""Which addresses a webhook may not be sent to."""

import ipaddress

import pytest

from aforo_meter.public_addresses import AddressRefusedError, addresses_of, is_public


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",  # carrier-grade NAT
        "169.254.169.254",  # cloud metadata
        "0.0.0.0",  # noqa: S104 - nothing is bound.
        "0.1.2.3",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.0.1",  # assignments of protocols
        "192.0.2.1",  # documentation
        "198.18.0.1",  # benchmarks
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd12:3456::1",
        "fec0::1",  # site-local, long gone
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",  # IPv4-compatible, long gone
        "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "64:ff9b:1::808:808",  # A local prefix of NAT64 may carry another address elsewhere.
        "64:ff9b:1:7f00:0:1:808:808",
        "::ffff:0:7f00:1",  # IPv4-translated
        "2002:7f00:1::1",  # 6to4 of 127.0.0.1
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo of 127.0.0.1
    ],
)
def test_addresses_of_ours_are_refused(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses_pass(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "::1"])
async def test_other_spellings_of_loopback_lead_nowhere(host: str) -> None:
    with pytest.raises(AddressRefusedError, match="ALLOW_PRIVATE_ADDRESSES"):
        await addresses_of(host, 80, allow_private=False)


async def test_where_private_addresses_are_meant_they_are_used() -> None:
    assert await addresses_of("127.0.0.1", 80, allow_private=True) == ["127.0.0.1"]
