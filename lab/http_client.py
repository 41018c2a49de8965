"""An HTTP client for tests and the demo: says exactly what it sends, keeps all it receives."""

import io
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from yarl import URL

TIMEOUT_S = 30.0
LARGE_BYTES = 1 << 20  # aiohttp wants more than that as a file.


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response, read to its end."""

    status: int
    headers: tuple[tuple[str, str], ...]  # Names in lower case, in the order they came.
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:  # noqa: ANN401 - any JSON
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return the first header of this (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)

    def events(self) -> list[Any]:
        """Return what the server-sent events carry, without OpenAI's closing `[DONE]`."""
        data = [line[5:].strip() for line in self.text.splitlines() if line.startswith("data:")]
        return [json.loads(text) for text in data if text != "[DONE]"]


class HttpClient:
    """Speaks to one origin, with the paths and headers exactly as given."""

    def __init__(self, origin: str, *, api_key: str | None = None) -> None:
        self._origin = origin.rstrip("/")
        self._api_key = api_key
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=0),
            # What a stand-in keeps for itself, e.g. cookies, would make requests differ.
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None, "the client was not started"
        await self._session.close()

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.send("GET", path, headers=headers)

    async def post(
        self, path: str, value: object, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send `value` as JSON."""
        return await self.send("POST", path, headers=headers, value=value)

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        value: object = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request and read its answer.

        Args:
            path: As it shall stand on the wire: neither normalised nor encoded.
            headers: Pairs, where a name shall come twice.
            value: Sent as JSON, unless there is a `body`.
        """
        async with self._request(method, path, headers, value, body) as response:
            content = await response.read()
            return Answer(status=response.status, headers=_headers(response), body=content)

    async def stream(
        self, path: str, value: object, *, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Post JSON and yield the answer's pieces as they arrive.

        Closing the generator early closes the connection, as a client that goes away does.
        """
        async with self._request("POST", path, headers, value, None) as response:
            async for piece in response.content.iter_any():
                yield piece

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None,
        value: object,
        body: bytes | None,
    ) -> "aiohttp.client._RequestContextManager":
        assert self._session is not None, "use `async with HttpClient(...)`"
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
        names = {name.lower() for name, _ in pairs}
        if self._api_key is not None and "x-api-key" not in names:
            pairs.append(("x-api-key", self._api_key))
        if body is None and value is not None:
            body = json.dumps(value).encode()
            if "content-type" not in names:
                pairs.append(("content-type", "application/json"))
        return self._session.request(
            method,
            URL(self._origin + path, encoded=True),
            headers=pairs,
            data=io.BytesIO(body) if body is not None and len(body) > LARGE_BYTES else body,
            allow_redirects=False,
        )


def _headers(response: aiohttp.ClientResponse) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in response.headers.items())
