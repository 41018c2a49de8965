"""Where webhooks may be posted, as far as the text of a URL tells. Names are looked up later."""

import ipaddress
import urllib.parse

from aforo_meter.public_addresses import ALLOW_PRIVATE, is_public


def check_url(text: str) -> str:
    """Return the URL if it is one that can be posted to.

    Raises:
        ValueError: It says what is expected, without the URL: that may be a secret.
    """
    url = urllib.parse.urlsplit(text)
    if url.scheme not in {"http", "https"}:
        raise ValueError("expected https://host/path, or http:// where nobody listens in")
    if "@" in url.netloc:
        raise ValueError("must not hold a user or password: the signature identifies us")
    if not url.hostname:
        raise ValueError("names no host")
    if not text.isascii():
        raise ValueError("has letters outside ASCII: write the host as xn--…, the path with %")
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has no valid port: it is a number from 1 to 65535")
    return text


def check_public(url: str) -> None:
    """Refuse at the start what every attempt would refuse: an address that is not public.

    Raises:
        ValueError: It names the host.
    """
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        public = host != "localhost" and is_public(ipaddress.ip_address(host))
    except ValueError:
        public = host != "localhost"
    if not public:
        raise ValueError(
            f"leads to {host}, which is not a public address; if that is meant, set"
            f" {ALLOW_PRIVATE}=true"
        )
