"""Redis by URL, and a client for it: one server, a set watched by Sentinels, or a cluster.

aforo-admin uses it too. aforo-authz (`redis_url.py`) reads the same URLs; a test holds both to one
table of what they take and refuse.
"""

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPipeline
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as RedisTimeoutError

SERVER: Final = "redis"
SOCKET: Final = "unix"
SENTINEL: Final = "redis-sentinel"
CLUSTER: Final = "redis-cluster"
DEFAULT_PORTS: Final = {SERVER: 6379, SENTINEL: 26379, CLUSTER: 6379}
PORT_MAX: Final = 65535
FORMS: Final = (
    "redis://host:port/db, unix:///path, redis-sentinel://host:port,host:port/db?service=name or"
    " redis-cluster://host:port,host:port; rediss… for TLS; user:password@ in front of the hosts,"
    " special characters of a password percent-encoded, or user@ and ?password_file=/path"
)
TLS_OPTIONS: Final = (
    *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
)


class RedisUrlError(ValueError):
    """Not a URL of a Redis. The message never quotes it: it may hold a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A Redis, however many servers it is made of."""

    kind: str
    nodes: tuple[tuple[str, int], ...] = ()  # The server, the Sentinels, or some of the cluster.
    path: str = ""  # Of a UNIX socket.
    service: str = ""  # What the Sentinels call the set.
    db: int = 0
    login: Mapping[str, str] = field(default_factory=dict, repr=False)
    guide_login: Mapping[str, str] = field(default_factory=dict, repr=False)  # At the Sentinels.
    tls: Mapping[str, Any] = field(default_factory=dict)  # As redis-py names it; empty: in clear.


def connect(url: str, *, timeout_s: float, retry: Retry | None = None) -> Redis:
    """Return a client; it connects when it is first asked something.

    Args:
        url: One that `parse` takes.
        timeout_s: How long connecting, and an answer, may take.
        retry: What is tried again before an error is told; None: as redis-py does by itself.

    Raises:
        RedisUrlError: It is no such URL, or names a file that can't be read.
    """
    place = parse(url)
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    said: dict[str, Any] = {**timeouts, **place.login, **place.tls}
    if place.kind == CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in place.nodes]
        # Once more after a node went: by then it is known who took over.
        return cast("Redis", _Cluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 1), **said))
    again = {} if retry is None else {"retry": retry}
    said |= {"db": place.db, **again}
    if place.kind == SENTINEL:
        guides = {**timeouts, **again, **place.guide_login, **place.tls}
        guard = Sentinel((), sentinel_kwargs=guides)  # type: ignore[no-untyped-call]
        guard.sentinels = [_Guide(host=host, port=port, **guides) for host, port in place.nodes]
        return cast(
            "Redis", guard.master_for(place.service, connection_pool_class=_SentinelPool, **said)
        )
    if place.kind == SOCKET:
        return Redis(unix_socket_path=place.path, **said)
    ((host, port),) = place.nodes
    return Redis(host=host, port=port, **said)


def parse(url: str) -> Place:
    """Parse a URL, and look whether the files that it names can be read.

    Raises:
        RedisUrlError: It is none, or a file can't be read.
    """
    try:
        return _parse(url)
    except RedisUrlError:
        raise
    except ValueError:  # Its own words may quote a part of the password.
        raise RedisUrlError(f"expected {FORMS}") from None


def _parse(url: str) -> Place:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    secure = parts.scheme.startswith("rediss")
    kind = "redis" + parts.scheme.removeprefix("rediss") if secure else parts.scheme
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = (unquote(part) for part in credentials.partition(":"))
    if "@" in parts.path and kind != SOCKET:  # A slash in the password: what we see is no port.
        raise RedisUrlError(f"expected {FORMS}")
    tls = _tls(options) if secure else {}
    options = {"username": username, "password": password} | options
    login = _login(options)
    guide_login = _login(options, "sentinel_") if kind == SENTINEL else {}
    service = options.pop("service", "")
    db = options.pop("db", "") or ("" if kind == SOCKET else parts.path.strip("/")) or "0"
    if kind == SOCKET and parts.path:
        place = Place(kind=kind, path=unquote(parts.path), db=int(db), login=login)
    elif kind in DEFAULT_PORTS:
        place = Place(
            kind=kind,
            nodes=tuple(_node(text, DEFAULT_PORTS[kind]) for text in hosts.split(",")),
            service=service,
            db=int(db),
            login=login,
            guide_login=guide_login,
            tls=tls,
        )
    else:
        raise RedisUrlError(f"expected {FORMS}")
    _check(place, options)
    return place


def _check(place: Place, unused_options: Mapping[str, str]) -> None:
    if unused_options:
        raise RedisUrlError(f"unknown options {sorted(unused_options)}; expected {FORMS}")
    if (place.kind == SENTINEL) != bool(place.service):
        raise RedisUrlError("?service=… names the set that Sentinels watch, and only they need it")
    if place.kind == SERVER and len(place.nodes) > 1:
        raise RedisUrlError(f"several hosts need redis-sentinel:// or redis-cluster://: {FORMS}")
    if place.kind == CLUSTER and place.db:
        raise RedisUrlError("a cluster has one database, 0")


def _login(options: dict[str, str], prefix: str = "") -> dict[str, str]:
    """Take who logs in out of the options; a password may stand in a file."""
    username = options.pop(f"{prefix}username", "")
    password = options.pop(f"{prefix}password", "")
    file = options.pop(f"{prefix}password_file", "")
    if file:
        if password:
            raise RedisUrlError(f"give a password or {prefix}password_file, not both")
        try:
            password = Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not text"
            raise RedisUrlError(f"{prefix}password_file {file}: {why}") from None
        if not password:
            raise RedisUrlError(f"{prefix}password_file {file} is empty")
    if username and not password:
        raise RedisUrlError(f"the user needs {prefix}password_file=/path, or a password in the URL")
    said = {"username": username, "password": password}
    return {name: value for name, value in said.items() if value}


def _node(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default_port)
    if not host.strip("[]"):
        raise RedisUrlError(f"expected {FORMS}; a host is missing")
    if not 0 < int(port) <= PORT_MAX:
        raise RedisUrlError(f"port {port} does not exist; expected {FORMS}")
    return host.strip("[]"), int(port)


def _tls(options: dict[str, str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: options.pop(name) for name in TLS_OPTIONS if name in options}
    try:  # Now, rather than with each connection.
        context = ssl.create_default_context(cafile=chosen.get("ssl_ca_certs"))
        if "ssl_certfile" in chosen:
            context.load_cert_chain(chosen["ssl_certfile"], chosen.get("ssl_keyfile"))
    except OSError as error:
        raise RedisUrlError(f"ssl_ca_certs, ssl_certfile or ssl_keyfile: {error}") from None
    named = str(chosen.get("ssl_check_hostname", "true")).lower() not in {"false", "no", "0"}
    verified = chosen.get("ssl_cert_reqs", "required") != "none"
    chosen["ssl_cert_reqs"] = "required" if verified else "none"
    chosen["ssl_check_hostname"] = named and verified
    return {"ssl": True, **chosen}


class _GuideError(RedisConnectionError):
    """Shown by its words: redis-py shows others of a Sentinel by their kind alone."""

    def __repr__(self) -> str:
        return str(self)


class _Guide(Redis):
    """A Sentinel, shown by its address where redis-py tells what is wrong with it."""

    def __repr__(self) -> str:
        where = self.connection_pool.connection_kwargs
        return f"{where['host']}:{where['port']}"

    async def sentinel_masters(self) -> Any:  # noqa: ANN401
        try:
            return await super().sentinel_masters()
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise _GuideError(str(error) or type(error).__name__) from error


class _SentinelPool(SentinelConnectionPool):
    """Ends with its own connections those to the Sentinels, too."""

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        await super().disconnect(inuse_connections)
        for guide in self.sentinel_manager.sentinels:
            await guide.aclose()


class _Cluster(RedisCluster):
    """A cluster asked like one server: what names several keys goes to each node for its own."""

    async def initialize(self, *some: Any, **more: Any) -> RedisCluster:  # noqa: ANN401
        with _told_alike():
            return await super().initialize(*some, **more)

    async def execute_command(self, *some: Any, **more: Any) -> Any:  # noqa: ANN401
        with _told_alike():
            return await super().execute_command(*some, **more)

    async def mget(self, keys: Any, *more: Any) -> Any:  # noqa: ANN401
        return await self.mget_nonatomic(keys, *more)

    async def mset(self, mapping: Any) -> Any:  # noqa: ANN401
        return await self.mset_nonatomic(mapping)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:  # noqa: ANN401, ARG002
        return _Pipeline(self, transaction)  # type: ignore[abstract] # For its typing alone.


class _Pipeline(ClusterPipeline):
    async def execute(self, *some: Any, **more: Any) -> list[Any]:  # noqa: ANN401
        with _told_alike():
            return await super().execute(*some, **more)


@contextlib.contextmanager
def _told_alike() -> Iterator[None]:
    """Tell of a cluster that can't be used as of a server: redis-py's error for it is another."""
    try:
        yield
    except RedisClusterException as error:
        raise RedisConnectionError(str(error)) from error
