"""Where Redis is: one server, a set watched by Sentinels, or a cluster, by URL."""

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

REDIS_PORT, SENTINEL_PORT = 6379, 26379
FORMS = (
    "redis://host:port/db, unix:///path, redis-sentinel://host:port,host:port/db?service=name or"
    " redis-cluster://host:port,host:port; rediss… for TLS; user:password@ in front of the hosts,"
    " special characters of a password percent-encoded, or user@ and ?password_file=/path"
)
TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


class RedisUrlError(ValueError):
    """Not a URL of a Redis. The message never quotes it: it may hold a password."""


class Kind(StrEnum):
    SERVER = "redis"
    SENTINEL = "redis-sentinel"
    CLUSTER = "redis-cluster"


@dataclass(frozen=True, slots=True)
class TcpNode:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixNode:
    path: str

    def __str__(self) -> str:
        return self.path


Node = TcpNode | UnixNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a connection says of itself."""

    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A Redis, however many servers it is made of."""

    kind: Kind
    nodes: tuple[Node, ...]  # The server itself, the Sentinels, or some nodes of the cluster.
    login: Login
    guide_login: Login  # At the Sentinels.
    service: str = ""  # What the Sentinels call the set.
    tls: ssl.SSLContext | None = None


def parse_redis_url(url: str) -> Target:
    """Parse a URL; the options of TLS are those of redis-py's URLs.

    Raises:
        RedisUrlError: It is none, or it names a file that can't be read.
    """
    try:
        return _parse(url)
    except RedisUrlError:
        raise
    except ValueError as error:  # urllib's own words may quote the password.
        raise RedisUrlError(f"expected {FORMS}") from error


def _parse(url: str) -> Target:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    secure = parts.scheme.startswith("rediss")
    scheme = "redis" + parts.scheme.removeprefix("rediss") if secure else parts.scheme
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = (unquote(part) for part in credentials.partition(":"))
    is_socket = scheme == "unix"
    if (
        "@" in parts.path and not is_socket
    ):  # A slash in the password: what we see of it is no port.
        raise RedisUrlError(f"expected {FORMS}")
    db = options.pop("db", "") or ("" if is_socket else parts.path.strip("/")) or "0"
    options = {"username": username, "password": password} | options
    login = _login(options, db=int(db))
    guide_login = _login(options, "sentinel_") if scheme == Kind.SENTINEL else Login()
    tls = _tls(options) if secure else None
    if is_socket and parts.path:
        target = Target(
            kind=Kind.SERVER, nodes=(UnixNode(unquote(parts.path)),), login=login, guide_login=login
        )
    else:
        kind = Kind(scheme)
        port = SENTINEL_PORT if kind is Kind.SENTINEL else REDIS_PORT
        target = Target(
            kind=kind,
            nodes=tuple(_node(text, port) for text in hosts.split(",")),
            login=login,
            guide_login=guide_login,
            service=options.pop("service", ""),
            tls=tls,
        )
    _check(target, options)
    return target


def _check(target: Target, unused_options: dict[str, str]) -> None:
    if unused_options:
        raise RedisUrlError(f"unknown options {sorted(unused_options)}; expected {FORMS}")
    if (target.kind is Kind.SENTINEL) != bool(target.service):
        raise RedisUrlError("?service=… names the set that Sentinels watch, and only they need it")
    if target.kind is Kind.SERVER and len(target.nodes) > 1:
        raise RedisUrlError(f"several hosts need redis-sentinel:// or redis-cluster://: {FORMS}")
    if target.kind is Kind.CLUSTER and target.login.db:
        raise RedisUrlError("a cluster has one database, 0")


def _login(options: dict[str, str], prefix: str = "", *, db: int = 0) -> Login:
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
    return Login(username=username, password=password, db=db)


def _node(text: str, default_port: int) -> TcpNode:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default_port)
    if not host.strip("[]"):
        raise RedisUrlError(f"expected {FORMS}; a host is missing")
    if not 0 < int(port) < 65536:  # noqa: PLR2004 - ports have 16 bits
        raise RedisUrlError(f"port {port} does not exist; expected {FORMS}")
    return TcpNode(host.strip("[]"), int(port))


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    chosen = {name: options.pop(name) for name in TLS_OPTIONS if name in options}
    try:
        context = ssl.create_default_context(cafile=chosen.get("ssl_ca_certs"))
        if "ssl_certfile" in chosen:
            context.load_cert_chain(chosen["ssl_certfile"], chosen.get("ssl_keyfile"))
    except OSError as error:
        raise RedisUrlError(f"ssl_ca_certs, ssl_certfile or ssl_keyfile: {error}") from error
    if chosen.get("ssl_check_hostname", "true").lower() in {"false", "no", "0"}:
        context.check_hostname = False
    if chosen.get("ssl_cert_reqs", "required") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
