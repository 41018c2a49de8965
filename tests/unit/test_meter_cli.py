"""The command line of the meter: what it prints, and with which code it ends."""

import os

import pytest

from aforo_meter.__main__ import main

SHIP = {"AFORO_METER_SHIP_KAFKA_BOOTSTRAP": "kafka:9092"}


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AFORO_METER_")]:
        monkeypatch.delenv(name)


def test_check_config_prints_what_is_in_force(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in SHIP.items():
        monkeypatch.setenv(name, value)

    assert main(["check-config", "ship"]) == 0
    assert "AFORO_METER_SHIP_KAFKA_BOOTSTRAP=kafka:9092  # " in capsys.readouterr().out


def test_check_config_tells_about_one_process_whatever_is_wrong_with_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in SHIP.items():
        monkeypatch.setenv(name, value)

    assert main(["check-config"]) == 2
    printed = capsys.readouterr()
    assert "# aforo-meter ship" in printed.out
    assert "AFORO_METER_DELIVER_LEDGER_URL: not set." in printed.err


@pytest.mark.parametrize("process", ["ship", "consume", "deliver", "ingest"])
def test_a_process_without_its_settings_does_not_start(
    process: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([process]) == 2
    assert f"AFORO_METER_{process.upper()}_" in capsys.readouterr().err


def test_a_ledger_that_is_not_named_by_its_full_path_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["migrate", "--ledger-url", "sqlite:///ledger.db"]) == 2
    assert "--ledger-url: expected sqlite:////absolute" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["shipp"], ["topics", "--partitions", "0"]])
def test_wrong_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage: aforo-meter" in capsys.readouterr().err


def test_ingest_shows_how_to_send_a_first_event(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["ingest", "--help"])

    assert caught.value.code == 0
    assert "curl -i http://127.0.0.1:9193/v1/ingest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        ("LEDGER_URL", "ledger.db", "sqlite:////absolute/path"),
        ("REDIS_URL", "localhost", "expected redis://"),
        ("AGE_DAYS_MAX", "0", "expected at least 1"),
        ("LISTEN", "9193", "expected host:port"),
        ("KEYS", "secret", "no such setting"),
    ],
)
def test_ingest_says_which_setting_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    value: str,
    complaint: str,
) -> None:
    for name, sound in (("KAFKA_BOOTSTRAP", "kafka:9092"), ("REDIS_URL", "redis://redis:6379/0")):
        monkeypatch.setenv(f"AFORO_METER_INGEST_{name}", sound)
    assert main(["check-config", "ingest"]) == 0
    capsys.readouterr()
    monkeypatch.setenv(f"AFORO_METER_INGEST_{setting}", value)

    assert main(["check-config", "ingest"]) == 2
    told = capsys.readouterr().err
    assert f"AFORO_METER_INGEST_{setting}" in told
    assert complaint in told
