"""A Redis with the users of ops/redis, each with a password of its own."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from lab.redis_topologies import Login, Users
from lab.servers import ROOT, RedisServer

USERS_FILE = ROOT / "ops" / "redis" / "users.acl"
OPERATOR = "operator"


def password_of(user: str) -> str:
    """Return a password that needs care within a URL."""
    return f"s3cret@/:{user}"


def users_file(folder: Path) -> Path:
    """Write the file as the README beside it says, with a password for each user."""
    lines = [
        re.sub(r"^user (\S+) on ", lambda found: f"{found[0]}#{_hash(found[1])} ", line)
        for line in USERS_FILE.read_text().splitlines()
    ]
    lines.append(f"user {OPERATOR} on #{_hash(OPERATOR)} ~* &* +@all")
    path = folder / "users.acl"
    path.write_text("\n".join(lines) + "\n")
    return path


def topology_users(folder: Path) -> Users:
    """Return the same for servers that are more than one."""
    operator, replica, sentinel = (
        Login(user=user, password=password_of(user))
        for user in (OPERATOR, "aforo-replica", "aforo-sentinel")
    )
    return Users(file=users_file(folder), operator=operator, replica=replica, sentinel=sentinel)


def users() -> list[str]:
    return re.findall(r"^user (aforo-\S+) on ", USERS_FILE.read_text(), re.MULTILINE)


def url_of(user: str, folder: Path, hosts: str, *, scheme: str = "redis", more: str = "") -> str:
    """Return the URL of a process whose password stands in a file."""
    file = folder / f"{user}.password"
    file.write_text(password_of(user) + "\n")
    return f"{scheme}://{user}@{hosts}?password_file={file}{more}"


@contextmanager
def guarded_redis(folder: Path) -> Iterator[tuple[RedisServer, Any]]:
    """Run one; with a client that may do everything."""
    with (
        RedisServer(log_dir=folder, acl=users_file(folder)) as server,
        login(server, OPERATOR) as operator,
    ):
        yield server, operator


def refused(operator: Any) -> list[str]:  # noqa: ANN401 - redis-py's commands are half typed.
    """Return what users were refused, as Redis noted it."""
    return [
        f"{each['username']}: {each['reason']} {each['object']} ({each['context']})"
        for each in operator.acl_log()
    ]


def _hash(user: str) -> str:
    return hashlib.sha256(password_of(user).encode()).hexdigest()


def login(server: RedisServer, user: str) -> Any:  # noqa: ANN401
    """Return a client that is logged in."""
    return redis.Redis(port=server.port, username=user, password=password_of(user))
