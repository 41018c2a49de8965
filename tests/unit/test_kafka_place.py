"""Where Kafka is, as whom, and that the text of it holds no secret."""

import ssl
from pathlib import Path

import pytest

from aforo_meter.kafka_place import checked, client_options, parse

SECRET = "s3cret"


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    return file


def test_brokers_alone_are_spoken_to_in_clear() -> None:
    assert client_options("a:9092,b:9092") == {"bootstrap_servers": "a:9092,b:9092"}
    assert client_options("[::1]:9092") == {"bootstrap_servers": "[::1]:9092"}
    assert client_options("kafka://a:9092") == {"bootstrap_servers": "a:9092"}


def test_a_user_logs_in_over_tls_with_the_password_of_a_file(password: Path) -> None:
    said = client_options(f"kafkas://aforo-ship@a:9093,b:9093?password_file={password}")

    assert said["bootstrap_servers"] == "a:9093,b:9093"
    assert said["security_protocol"] == "SASL_SSL"
    assert said["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (said["sasl_plain_username"], said["sasl_plain_password"]) == ("aforo-ship", SECRET)
    assert said["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert said["ssl_context"].check_hostname


def test_scram_needs_no_tls_and_tls_needs_no_user(password: Path) -> None:
    scram = client_options(f"kafka://u@a:1?password_file={password}&sasl_mechanism=SCRAM-SHA-256")
    tls = client_options("kafkas://a:1?ssl_check_hostname=false")

    assert (scram["security_protocol"], scram["sasl_mechanism"]) == (
        "SASL_PLAINTEXT",
        "SCRAM-SHA-256",
    )
    assert tls["security_protocol"] == "SSL"
    assert not tls["ssl_context"].check_hostname


def test_a_changed_password_holds_for_the_next_connection(password: Path) -> None:
    text = f"kafkas://u@a:1?password_file={password}"
    client_options(text)
    password.write_text("another")

    assert client_options(text)["sasl_plain_password"] == "another"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kafka", "not host:port"),
        ("a:9092,", "not host:port"),
        ("a:99999", "not host:port"),
        (f"user:{SECRET}@a:9092", "expected host:port"),
        ("http://a:9092", "expected host:port"),
        (f"kafkas://user:{SECRET}@a:9092", "a password does not belong here"),
        ("kafkas://user@a:9092", "belong together"),
        ("kafkas://a:9092?password_file=/x", "belong together"),
        ("kafkas://a:9092?sasl_mechanism=PLAIN", "write user@"),
        ("kafkas://u@a:1?password_file=/x&sasl_mechanism=GSSAPI", "expected one of SCRAM"),
        ("kafka://u@a:1?password_file=/x&sasl_mechanism=PLAIN", "as it is"),
        ("kafka://a:1?ssl_ca_certs=/x", "write kafkas://"),
        ("kafkas://a:1?ssl_cafile=/x", "unknown options"),
        (f"kafkas://a:1?password={SECRET}", "unknown options"),
        ("kafkas://a:1?nonsense", "expected host:port"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse(text)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("password_file=/nowhere", "password_file /nowhere: No such file"),
        ("password_file={}&ssl_ca_certs=/nowhere.pem", "ssl_ca_certs"),
    ],
)
def test_a_file_that_is_not_there_is_told_at_the_start(
    query: str, why: str, password: Path
) -> None:
    with pytest.raises(ValueError, match=why):
        checked(f"kafkas://u@a:1?{query.format(password)}")
