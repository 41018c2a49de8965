"""Every process reads the same URLs of a Redis: one table, held against all three packages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aforo_authz import redis_url as authz
from aforo_meter import redis_client as meter

PARSERS: list[Callable[[str], object]] = [authz.parse_redis_url, meter.parse]
NAMES = ["authz", "meter"]
SECRET = "s3cret"

each_package = pytest.mark.parametrize("parse", PARSERS, ids=NAMES)


@each_package
@pytest.mark.parametrize(
    "url",
    [
        "redis://a",
        "redis://ann:s%40crt@cache:6380/3",
        "redis://[::1]:6379?db=2",
        "rediss://cache/0?password=hunter2&db=1",
        "rediss://cache?ssl_cert_reqs=none",
        "rediss://cache?ssl_check_hostname=false",
        "unix:///run/redis.sock?db=1&password=pw",
        "redis-sentinel://:pw@a:1,b/2?service=main&sentinel_password=other",
        "rediss-sentinel://a?service=main",
        "redis-cluster://a:7000,b:7001",
        "rediss-cluster://ann:pw@a",
    ],
)
def test_all_take_the_same_urls(parse: Callable[[str], object], url: str) -> None:
    assert parse(url)


@each_package
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://{}a", "expected redis://"),
        ("redis://{}", "a host is missing"),
        ("redis://{}a:0", "port 0 does not exist"),
        ("redis://{}a/x", "expected redis://"),
        ("redis://{}[a", "expected redis://"),
        ("redis://{}a,b", "several hosts need"),
        ("redis://user:99999/s3cret@a", "^expected redis://"),
        ("redis-sentinel://{}a", "service="),
        ("redis://{}a?service=x", "service="),
        ("redis-cluster://{}a/1", "one database"),
        ("redis://{}a?ssl_ca_cert=/x", "unknown options"),
        ("redis://{}a?sentinel_password=x", "unknown options"),
        ("rediss://{}a?ssl_ca_certs=/nowhere.pem", "ssl_ca_certs"),
        ("redis://{}a?password_file=/nowhere", "not both"),
        ("redis://ann@a?db=1", "the user needs password_file"),
        ("redis://ann@a?password_file=/nowhere", "password_file /nowhere: No such file"),
    ],
)
def test_all_refuse_the_same_urls_and_none_quotes_a_password(
    parse: Callable[[str], object], url: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse(url.format(f"user:{SECRET}@"))

    assert SECRET not in str(caught.value)


def test_a_password_may_stand_in_a_file_and_is_in_no_representation(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    url = f"redis://ann@cache?password_file={file}"

    assert authz.parse_redis_url(url).login.password == SECRET
    assert meter.parse(url).login == {"username": "ann", "password": SECRET}
    assert not any(SECRET in repr(parse(url)) for parse in PARSERS)


@each_package
def test_an_empty_password_file_is_named(parse: Callable[[str], object], tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("\n")

    with pytest.raises(ValueError, match=f"password_file {file} is empty"):
        parse(f"redis://ann@cache?password_file={file}")
