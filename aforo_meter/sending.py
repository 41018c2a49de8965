"""One POST of one message to one endpoint. When to try again is deliver's."""

import asyncio
import ssl
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import Final, NamedTuple, Self

import httpx2

from aforo_meter.endpoints import Endpoint, Format
from aforo_meter.public_addresses import AddressRefusedError, addresses_of
from aforo_meter.slack_text import text_body
from aforo_meter.webhooks import signed_headers

ANSWER_BYTES_MAX: Final = 64 * 1024
# Of one endpoint: a name server that does not answer holds up this endpoint's attempts alone.
LOOKUPS_MAX: Final = 4
WAIT_S_MAX: Final = 86_400  # More than any policy waits.
SECONDS_DIGITS_MAX: Final = 9
USER_AGENT = f"aforo-meter/{metadata.version('aforo')}"


class SendError(Exception):
    """The receiver did not take the message; the text says why, without the URL's path."""

    def __init__(self, why: str, *, status: int | None = None, retry_after_ms: int = 0) -> None:
        super().__init__(why)
        self.status = status  # None: it never came to an answer.
        self.retry_after_ms = retry_after_ms  # Earlier, the receiver does not want it again.

    @property
    def is_gone(self) -> bool:
        """Does the receiver say that it wants no more messages?"""
        return self.status == httpx2.codes.GONE


class Answer(NamedTuple):
    status: int
    retry_after: str  # As it was sent; "" if it was not.


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What is sent: the body, and the headers that go with it."""

    headers: Mapping[str, str]
    body: bytes


def post_of(endpoint: Endpoint, *, message_id: str, payload: bytes, now_s: int) -> Post:
    """Return a message as the endpoint gets it: signed, or as a sentence."""
    headers = {"content-type": "application/json", "user-agent": USER_AGENT}
    if endpoint.format is Format.SLACK:
        return Post(headers=headers, body=text_body(payload))
    signed = signed_headers(
        endpoint.keys, message_id=message_id, timestamp_s=now_s, payload=payload
    )
    return Post(headers=headers | signed, body=payload)


class Sender:
    """Keeps connections to one endpoint.

    Args:
        tls: For tests; by default the system's trusted authorities, or SSL_CERT_FILE.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout_s: float,
        allow_private_addresses: bool,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._allow_private_addresses = allow_private_addresses
        self._url = urllib.parse.urlsplit(endpoint.url)
        self._lookups = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="lookup")
        self._client = httpx2.AsyncClient(
            verify=tls or httpx2.create_ssl_context(),
            # A proxy from the environment would look the host up again, past our check.
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def send(self, message_id: str, payload: bytes, *, now_s: int) -> int:
        """Post a message; return the status, 2xx: the receiver has it.

        Raises:
            SendError: It does not, or may not.
        """
        post = post_of(self._endpoint, message_id=message_id, payload=payload, now_s=now_s)
        try:
            # One clock over all steps: a receiver that drips bytes resets every other one.
            async with asyncio.timeout(self._timeout_s):
                status, retry_after = await self._post(post)
        except TimeoutError:
            raise SendError(f"no answer within {self._timeout_s:g} s") from None
        except AddressRefusedError as error:
            raise SendError(str(error)) from error
        except (httpx2.HTTPError, OSError) as error:
            raise SendError(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if httpx2.codes.is_redirect(status):
            why = f"HTTP {status}: redirects are not followed, set the final URL"
            raise SendError(why, status=status)
        if not httpx2.codes.is_success(status):
            waits_ms = retry_after_ms(retry_after, now_s=now_s)
            raise SendError(f"HTTP {status}", status=status, retry_after_ms=waits_ms)
        return status

    async def _post(self, post: Post) -> Answer:
        """Return the answer; from the first address that a connection can be made to."""
        host = self._url.hostname or ""
        port = self._url.port or {"http": 80, "https": 443}[self._url.scheme]
        addresses = await addresses_of(
            host, port, allow_private=self._allow_private_addresses, threads=self._lookups
        )
        for address in addresses[:-1]:
            try:
                return await self._post_to(address, port, post)
            except httpx2.ConnectError:
                continue
        return await self._post_to(addresses[-1], port, post)

    async def _post_to(self, address: str, port: int, post: Post) -> Answer:
        bracketed = f"[{address}]" if ":" in address else address
        # The address stands in the URL, so that it is the one that was checked; the name is what
        # the receiver hears, and what its certificate has to be for.
        pinned = self._url._replace(netloc=f"{bracketed}:{port}", fragment="").geturl()
        request = self._client.build_request(
            "POST",
            pinned,
            content=post.body,
            headers={"host": self._url.netloc, **post.headers},
            extensions={"sni_hostname": self._url.hostname},
        )
        response = await self._client.send(request, stream=True)
        try:
            read_bytes = 0
            async for chunk in response.aiter_raw():
                read_bytes += len(chunk)
                if read_bytes > ANSWER_BYTES_MAX:
                    break  # The status has said it all; the connection is closed.
        finally:
            await response.aclose()
        return Answer(int(response.status_code), response.headers.get("retry-after", ""))


def retry_after_ms(header: str, *, now_s: int) -> int:
    """Return the wait that a Retry-After header asks for: in seconds, or until a date; else 0.

    Source: RFC 9110, section 10.2.3
    """
    if header.isascii() and header.isdigit():
        return min(int(header[:SECONDS_DIGITS_MAX]), WAIT_S_MAX) * 1000
    try:
        until_s = parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError):
        return 0
    return min(max(0, int(until_s) - now_s), WAIT_S_MAX) * 1000
