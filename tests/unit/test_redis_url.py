import ssl

import pytest

from aforo_authz.redis_nodes import slot_of
from aforo_authz.redis_url import Kind, RedisUrlError, TcpNode, UnixNode, parse_redis_url


def test_one_server_by_host_or_socket() -> None:
    target = parse_redis_url("redis://ann:s%40crt@cache:6380/3")
    assert (target.kind, target.nodes) == (Kind.SERVER, (TcpNode("cache", 6380),))
    assert (target.login.username, target.login.password, target.login.db) == ("ann", "s@crt", 3)

    target = parse_redis_url("unix:///run/redis.sock?db=1&password=pw")
    assert target.nodes == (UnixNode("/run/redis.sock"),)
    assert (target.login.password, target.login.db) == ("pw", 1)

    assert parse_redis_url("redis://[::1]").nodes == (TcpNode("::1", 6379),)


def test_sentinels_name_a_service_and_may_have_a_login_of_their_own() -> None:
    target = parse_redis_url("redis-sentinel://:pw@a:1,b/2?service=main&sentinel_password=other")

    assert target.kind is Kind.SENTINEL
    assert target.nodes == (TcpNode("a", 1), TcpNode("b", 26379))
    assert (target.service, target.login.db) == ("main", 2)
    assert (target.login.password, target.guide_login.password) == ("pw", "other")


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    target = parse_redis_url("redis-cluster://a:7000,b:7001")

    assert target.kind is Kind.CLUSTER
    assert target.nodes == (TcpNode("a", 7000), TcpNode("b", 7001))


def test_two_s_mean_tls() -> None:
    assert parse_redis_url("redis://a").tls is None
    verified = parse_redis_url("rediss-cluster://a").tls
    assert verified is not None
    assert verified.verify_mode is ssl.CERT_REQUIRED
    trusting = parse_redis_url("rediss://a?ssl_cert_reqs=none").tls
    assert trusting is not None
    assert trusting.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://a", "expected redis://"),
        ("redis://", "a host is missing"),
        ("redis://a:0", "port 0 does not exist"),
        ("redis://a:99999", "port 99999 does not exist"),
        ("redis://a/x", "expected redis://"),
        ("redis://a,b", "several hosts need"),
        ("redis-sentinel://a", "service="),
        ("redis://a?service=x", "service="),
        ("redis-cluster://a/1", "one database"),
        ("redis://a?nonsense=1", "unknown options"),
        ("rediss://a?ssl_ca_certs=/nowhere.pem", "ssl_ca_certs"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, why: str) -> None:
    scheme, rest = url.split("://")
    with pytest.raises(RedisUrlError, match=why) as raised:
        parse_redis_url(f"{scheme}://user:s3cret@{rest}")
    assert "s3cret" not in str(raised.value)


def test_a_slot_is_what_the_specification_says() -> None:
    # Appendix A of the cluster specification: CRC16 of "123456789" is 0x31C3.
    assert slot_of("123456789") == 0x31C3
