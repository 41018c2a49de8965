"""What an operator may set, and what he is told if it is wrong."""

import pytest

from aforo_meter.listen import TcpAddress, UnixAddress, parse_address, parse_addresses
from aforo_meter.settings import ALL, SettingsError, describe, load, variable
from aforo_meter.settings_consume import ConsumeSettings
from aforo_meter.settings_deliver import DeliverSettings
from aforo_meter.settings_ship import ShipSettings

SECRET = "whsec_" + "QUJD" * 8
DELIVER = {
    "AFORO_METER_DELIVER_LEDGER_URL": "sqlite:////var/lib/aforo/ledger.db",
    "AFORO_METER_DELIVER_WEBHOOK_URL": "https://hooks.example.com/aforo",
    "AFORO_METER_DELIVER_WEBHOOK_SECRET": SECRET,
}


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ALL.values():
        for name in kind.model_fields:
            monkeypatch.delenv(variable(kind, name), raising=False)


def put(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def complaint_about(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    put(monkeypatch, **variables)
    (kind, *_) = [
        each
        for each in (DeliverSettings, ConsumeSettings, ShipSettings)
        if any(name.startswith(variable(each, "")) for name in variables)
    ] or [ShipSettings]
    with pytest.raises(SettingsError) as caught:
        load(kind)
    return str(caught.value)


def test_only_the_brokers_have_to_be_told_to_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, AFORO_METER_SHIP_KAFKA_BOOTSTRAP="a:9092,b:9092")
    settings = load(ShipSettings)

    assert settings.kafka_topic == "aforo.usage.v1"
    assert settings.unmetered_statuses == (401, 403, 429)


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        monkeypatch,
        AFORO_METER_SHIP_KAFKA_BOOTSTRAP="a:9092",
        AFORO_METER_SHIP_UNMETERED_PATHS="/ping, /up",
        AFORO_METER_SHIP_UNMETERED_STATUSES="",
    )
    settings = load(ShipSettings)

    assert settings.unmetered_paths == ("/ping", "/up")
    assert settings.unmetered_statuses == ()


def test_parts_of_quotas_are_a_list_that_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        monkeypatch,
        AFORO_METER_CONSUME_KAFKA_BOOTSTRAP="a:9092",
        AFORO_METER_CONSUME_REDIS_URL="redis://a/0",
        AFORO_METER_CONSUME_LEDGER_URL="sqlite:////l.db",
    )
    assert load(ConsumeSettings).quota_alerts_bp == (8000, 10_000)
    for text, expected in (("", ()), ("5000, 9500", (5000, 9500))):
        put(monkeypatch, AFORO_METER_CONSUME_QUOTA_ALERTS_BP=text)
        assert load(ConsumeSettings).quota_alerts_bp == expected


def test_a_missing_setting_is_named_with_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = complaint_about(monkeypatch)

    assert complaint.startswith("AFORO_METER_SHIP_KAFKA_BOOTSTRAP: not set. Kafka brokers")


def test_a_misspelt_setting_stops_the_start_with_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = complaint_about(
        monkeypatch,
        AFORO_METER_SHIP_KAFKA_BOOTSTRAP="a:9092",
        AFORO_METER_SHIP_KAFKA_IDEMPOTENT="false",
    )

    assert "did you mean AFORO_METER_SHIP_KAFKA_IDEMPOTENCE?" in complaint
    assert "aforo-meter check-config prints all" in complaint


def test_settings_of_the_other_processes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, AFORO_METER_SHIP_KAFKA_BOOTSTRAP="a:9092", **DELIVER)

    assert load(ShipSettings).kafka_bootstrap == "a:9092"


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("SHIP_KAFKA_BOOTSTRAP", "kafka", "'kafka' is not host:port"),
        ("SHIP_KAFKA_BOOTSTRAP", "http://kafka:9092", "expected host:port"),
        ("SHIP_LISTEN", "9192", "expected host:port"),
        ("SHIP_LISTEN", "unix:als.sock", "unix:/absolute/path"),
        ("SHIP_LISTEN", "unix:/" + "x" * 108, "at most 107 bytes"),
        ("SHIP_LISTEN", "localhost:99999", "at most 65535"),
        ("SHIP_METRICS_LISTEN", "unix:/m.sock", "over TCP"),
        ("SHIP_UNMETERED_STATUSES", "4o3", "'4o3': expected a whole number"),
        ("SHIP_UNMETERED_STATUSES", "403,99", "'99': expected at least 100"),
        ("SHIP_KAFKA_IDEMPOTENCE", "maybe", "'maybe': expected true or false"),
        ("SHIP_DRAIN_S", "-1", "'-1': expected at least 0"),
        ("CONSUME_BATCH_MS_MAX", "1s", "'1s': expected a whole number"),
        ("CONSUME_COMPLETENESS_THRESHOLD_BP", "10001", "expected at most 10000"),
        ("DELIVER_LOG_LEVEL", "loud", "'loud': expected 'debug', 'info', 'warning' or 'error'"),
        ("CONSUME_REDIS_URL", "http://cache", "expected redis://"),
        ("CONSUME_REDIS_URL", "redis://cache:port/0", "expected redis://"),
        ("CONSUME_REDIS_URL", "redis://:hunter2/hunter2@cache:6379/0", "percent-encoded"),
        ("DELIVER_WEBHOOK_URL", "ftp://example.com", "expected https"),
        ("DELIVER_WEBHOOK_URL", "https://", "names no host"),
        ("DELIVER_WEBHOOK_URL", "https://user:pw@example.com/", "user or password"),
        ("DELIVER_WEBHOOK_URL", "https://example.com:0/", "valid port"),
        ("DELIVER_WEBHOOK_URL", "https://example.com:port/", "valid port"),
        ("DELIVER_WEBHOOK_URL", "https://bücher.example/", "outside ASCII"),
        ("DELIVER_WEBHOOK_URL", "http://127.0.0.1:1/", "not a public address"),
        ("DELIVER_WEBHOOK_URL", "http://[::ffff:10.0.0.1]/", "not a public address"),
        ("DELIVER_WEBHOOK_URL", "http://localhost/", "ALLOW_PRIVATE_ADDRESSES=true"),
        ("DELIVER_WEBHOOK_SECRET", "hunter2", "starts with 'whsec_'"),
        ("DELIVER_LEDGER_URL", "sqlite:///ledger.db", "four slashes"),
        ("DELIVER_LEDGER_URL", "mysql://db/aforo", "sqlite:////absolute"),
        ("DELIVER_LEDGER_URL", "postgresql://db", "postgresql://user:password@host:5432/database"),
        ("DELIVER_LEDGER_URL", "postgresql://me:hunter2/hunter2@db", "percent-encoded"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    whole = {**(DELIVER if name.startswith("DELIVER") else {}), f"AFORO_METER_{name}": value}
    told = complaint_about(monkeypatch, **whole)

    assert f"AFORO_METER_{name}" in told
    assert complaint in told
    assert "hunter2" not in told


def test_private_addresses_may_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        monkeypatch,
        **DELIVER
        | {
            "AFORO_METER_DELIVER_WEBHOOK_URL": "http://127.0.0.1:8080/hooks",
            "AFORO_METER_DELIVER_ALLOW_PRIVATE_ADDRESSES": "true",
        },
    )

    assert load(DeliverSettings).allow_private_addresses


def test_what_is_in_force_is_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        monkeypatch,
        **DELIVER,
        AFORO_METER_CONSUME_KAFKA_BOOTSTRAP="a:9092",
        AFORO_METER_CONSUME_REDIS_URL="redis://user:hunter2@cache:6379/0",
        AFORO_METER_CONSUME_LEDGER_URL="sqlite:////var/lib/aforo/ledger.db",
    )
    shown = describe(load(DeliverSettings)) + describe(load(ConsumeSettings))

    assert "AFORO_METER_DELIVER_WEBHOOK_SECRET=(set)  # What they are signed with" in shown
    assert "redis://(masked)@cache:6379/0" in shown
    assert "hunter2" not in shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@cache:6379/0",
        "redis://user:a@hunter2@cache:6379/0",
        "rediss://cache/0?password=hunter2&db=1",
        "unix:///run/redis.sock?username=user&password=hunter2",
    ],
)
def test_a_password_is_not_shown_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    put(
        monkeypatch,
        AFORO_METER_CONSUME_KAFKA_BOOTSTRAP="a:9092",
        AFORO_METER_CONSUME_REDIS_URL=url,
        AFORO_METER_CONSUME_LEDGER_URL="sqlite:////var/lib/aforo/ledger.db",
    )

    assert "hunter2" not in describe(load(ConsumeSettings))


@pytest.mark.parametrize("kind", ALL.values())
def test_every_setting_says_what_it_is_for(kind: type[ShipSettings]) -> None:
    assert all(field.description for field in kind.model_fields.values())


def test_addresses_are_read() -> None:
    assert parse_addresses("0.0.0.0:9192, unix:/run/als.sock") == (
        TcpAddress(host="0.0.0.0", port=9192),  # noqa: S104 - read, not bound.
        UnixAddress(path="/run/als.sock"),
    )
    assert str(parse_address("[::1]:80")) == "[::1]:80"
