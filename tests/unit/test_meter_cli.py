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
    assert "AFORO_METER_DELIVER_WEBHOOK_URL: not set." in printed.err


@pytest.mark.parametrize("process", ["ship", "consume", "deliver"])
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
