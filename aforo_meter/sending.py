"""One signed POST of one message. When to try again is deliver's."""

import asyncio
import ssl
import urllib.parse
from dataclasses import dataclass
from importlib import metadata
from typing import Self

import httpx2

from aforo_meter.outbox import Message
from aforo_meter.public_addresses import AddressRefusedError, addresses_of
from aforo_meter.webhooks import signed_headers

ANSWER_BYTES_MAX = 64 * 1024
USER_AGENT = f"aforo-meter/{metadata.version('aforo')}"


class SendError(Exception):
    """The receiver did not take the message; the text says why, without the URL's path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    url: str
    key: bytes  # of the signature
    timeout_s: float
    allow_private_addresses: bool


class Sender:
    """Keeps connections to one receiver.

    Args:
        tls: For tests; by default the system's trusted authorities, or SSL_CERT_FILE.
    """

    def __init__(self, receiver: Receiver, *, tls: ssl.SSLContext | None = None) -> None:
        self._receiver = receiver
        self._url = urllib.parse.urlsplit(receiver.url)
        self._client = httpx2.AsyncClient(
            verify=tls or httpx2.create_ssl_context(),
            # A proxy from the environment would look the host up again, past our check.
            trust_env=False,
            follow_redirects=False,
            timeout=receiver.timeout_s,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, message: Message, *, now_s: int) -> None:
        """Post a message; a 2xx answer means that the receiver has it.

        Raises:
            SendError: It does not, or may not.
        """
        try:
            # One clock over all steps: a receiver that drips bytes resets every other one.
            async with asyncio.timeout(self._receiver.timeout_s):
                status = await self._post(message, now_s)
        except TimeoutError:
            raise SendError(f"no answer within {self._receiver.timeout_s:g} s") from None
        except AddressRefusedError as error:
            raise SendError(str(error)) from error
        except (httpx2.HTTPError, OSError) as error:
            raise SendError(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if httpx2.codes.is_redirect(status):
            raise SendError(f"HTTP {status}: redirects are not followed, set the final URL")
        if not httpx2.codes.is_success(status):
            raise SendError(f"HTTP {status}")

    async def _post(self, message: Message, now_s: int) -> int:
        """Return the status; from the first address that a connection can be made to."""
        host = self._url.hostname or ""
        port = self._url.port or {"http": 80, "https": 443}[self._url.scheme]
        addresses = await addresses_of(
            host, port, allow_private=self._receiver.allow_private_addresses
        )
        for address in addresses[:-1]:
            try:
                return await self._post_to(address, port, message, now_s)
            except httpx2.ConnectError:
                continue
        return await self._post_to(addresses[-1], port, message, now_s)

    async def _post_to(self, address: str, port: int, message: Message, now_s: int) -> int:
        bracketed = f"[{address}]" if ":" in address else address
        # The address stands in the URL, so that it is the one that was checked; the name is what
        # the receiver hears, and what its certificate has to be for.
        pinned = self._url._replace(netloc=f"{bracketed}:{port}", fragment="").geturl()
        headers = {
            "host": self._url.netloc,
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            **signed_headers(
                self._receiver.key,
                message_id=message.message_id,
                timestamp_s=now_s,
                payload=message.payload,
            ),
        }
        request = self._client.build_request(
            "POST",
            pinned,
            content=message.payload,
            headers=headers,
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
        return int(response.status_code)
