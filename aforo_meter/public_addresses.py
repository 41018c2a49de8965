"""Which addresses a webhook may be sent to: a guard against requests into our own network."""

import asyncio
import functools
import ipaddress
import socket
from concurrent.futures import Executor
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

ALLOW_PRIVATE: Final = "AFORO_METER_DELIVER_ALLOW_PRIVATE_ADDRESSES"
# Translators (NAT64) carry an IPv4 address in the last 32 bits.
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Their local prefixes may carry it anywhere (RFC 6052), so that none of these can be judged.
NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")


class AddressRefusedError(Exception):
    """A host leads to an address that is not on the public Internet."""


async def addresses_of(
    host: str, port: int, *, allow_private: bool, threads: Executor | None = None
) -> list[str]:
    """Look a host up and return its addresses, in the order to try them.

    The connection must go to one of these and not look the name up again, or a second answer could
    lead elsewhere.

    Args:
        host: A name, or an address in any spelling.
        port: Where the connection will go.
        allow_private: Addresses that are not public are meant too.
        threads: Where the lookup waits, which nothing can hurry; None: the loop's own.

    Raises:
        OSError: The name does not resolve.
        AddressRefusedError: One of its addresses is not public, and only those are allowed.
    """
    loop = asyncio.get_running_loop()
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await loop.run_in_executor(threads, look_up)
    texts = list(dict.fromkeys(str(place[0]) for _, _, _, _, place in found))
    if not allow_private:
        for text in texts:
            if not is_public(ipaddress.ip_address(text)):
                raise AddressRefusedError(
                    f"{host} leads to {text}, which is not a public address; if that is meant, "
                    f"set {ALLOW_PRIVATE}=true"
                )
    return texts


def is_public(address: IpAddress) -> bool:
    """Return whether an address is one of a single host on the public Internet.

    An IPv6 address that carries an IPv4 one is as public as that.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local or address in NAT64_LOCAL:
            return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
