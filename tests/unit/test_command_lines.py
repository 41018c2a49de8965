"""What all subcommands of the three programs have in common: help, usage, quiet ends."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aforo_admin import __main__ as admin
from aforo_authz import __main__ as authz
from aforo_meter import __main__ as meter
from aforo_meter.command_arguments import LEDGER_URL_VARIABLE, REDIS_URL_VARIABLE
from aforo_meter.commands_answers import _choice, period

Main = Callable[[list[str]], int]


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield every subcommand, and theirs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield inner
                yield from commands(inner)


COMMANDS = [*commands(admin._parser()), *commands(meter._parser())]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.prog)
def test_every_subcommand_shows_an_example_of_itself(command: argparse.ArgumentParser) -> None:
    program, name = command.prog.split()[:2]
    examples = command.format_help().partition("example")[2]

    assert f"{program} {name}" in examples


@pytest.mark.parametrize(
    ("main", "arguments", "usage"),
    [
        (meter.main, ["explain", "acme", "--ful"], "usage: aforo-meter explain"),
        (meter.main, ["sessions", "list", "--ful"], "usage: aforo-meter sessions list"),
        (admin.main, ["prices", "list", "--ful"], "usage: aforo-admin prices list"),
        (admin.main, ["show", "acme", "globex"], "usage: aforo-admin show"),
    ],
)
def test_who_asks_wrongly_is_shown_how_the_subcommand_is_used(
    main: Main,
    arguments: list[str],
    usage: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(LEDGER_URL_VARIABLE, "sqlite:////l.db")
    monkeypatch.setenv(REDIS_URL_VARIABLE, "redis://x")
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(usage)


def test_what_a_command_itself_refuses_is_shown_with_its_usage_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEDGER_URL_VARIABLE, "sqlite:////l.db")
    monkeypatch.setenv(REDIS_URL_VARIABLE, "redis://x")

    assert meter.main(["forecast", "acme", "--all"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("usage: aforo-meter forecast")
    assert "not both, nor neither" in told


@pytest.mark.parametrize(
    "command",
    [
        *(["explain", "acme"], ["statement", "acme", "2026-11"], ["forecast", "--all"]),
        *(["rerate"], ["void", "--tenant", "acme"], ["close", "--all", "--ended-by", "2026-11-01"]),
        *(["completeness"], ["sessions", "list"], ["alerts", "list"]),
    ],
    ids=lambda command: command[0],
)
def test_the_ledger_and_redis_are_those_of_consume_unless_said(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(LEDGER_URL_VARIABLE, raising=False)
    monkeypatch.delenv(REDIS_URL_VARIABLE, raising=False)
    with pytest.raises(SystemExit):
        meter._parser().parse_args(command)
    assert "--ledger-url" in capsys.readouterr().err
    monkeypatch.setenv(LEDGER_URL_VARIABLE, "sqlite:////of/consume.db")
    monkeypatch.setenv(REDIS_URL_VARIABLE, "redis://of-consume:6379/0")

    by_setting = meter._parser().parse_args(command)
    said = meter._parser().parse_args([*command, "--ledger-url", "sqlite:////said.db"])

    assert by_setting.ledger_url == "sqlite:////of/consume.db"
    assert said.ledger_url == "sqlite:////said.db"
    assert getattr(said, "redis_url", "redis://of-consume:6379/0") == "redis://of-consume:6379/0"


@pytest.mark.parametrize(
    "arguments",
    [["acme", "2026-10"], ["acme", "--period", "2026-10"], ["--period", "2026-10", "acme"]],
)
def test_explain_takes_its_period_in_either_place(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEDGER_URL_VARIABLE, "sqlite:////l.db")
    monkeypatch.setenv(REDIS_URL_VARIABLE, "redis://x")
    now_micros = 1_795_000_000_000_000

    choice = _choice(meter._parser().parse_args(["explain", *arguments]), now_micros)
    in_force = _choice(meter._parser().parse_args(["explain", "acme"]), now_micros)

    assert (choice.tenant_id, choice.at_micros) == ("acme", period("2026-10")(now_micros))
    assert in_force.at_micros is None


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("aforo_admin", ["prices", "list", "catalog.example.yaml"]),
        ("aforo_meter", ["migrate", "--dry-run", "--ledger-url", "sqlite:///{folder}/new.db"]),
    ],
)
def test_who_reads_no_further_hears_no_complaint(
    module: str, arguments: list[str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *(one.format(folder=tmp_path) for one in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()  # As `head` does, before a line is written.
    _, told = process.communicate()

    assert told == b""
    assert process.returncode == 128 + 13


@pytest.mark.parametrize("bootstrap", ["foo", "kafka:9092,foo"])
def test_brokers_that_are_no_address_are_refused(
    bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        meter.main(["topics", "--bootstrap", bootstrap])

    assert caught.value.code == 2
    assert "'foo' is not host:port" in capsys.readouterr().err


def test_a_misspelt_setting_is_told_without_a_list_of_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFORO_METER_CONSUME_LEDGER_ULR", "sqlite:////l.db")

    near = "did you mean AFORO_METER_CONSUME_LEDGER_URL?"

    assert meter.main(["consume"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"aforo-meter: AFORO_METER_CONSUME_LEDGER_ULR: no such setting; {near}",
        "without it, aforo-meter check-config prints all",
    ]


def test_no_key_is_minted_that_has_expired(capsys: pytest.CaptureFixture[str]) -> None:
    assert admin.main(["mint", "--tenant", "acme", "--expires", "2020-01-01"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--expires: 2020-01-01 is past" in printed.err


def test_authz_explains_no_path_without_its_slash(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        authz.main(["explain", "--tenant", "acme", "--path", "v1/chat"])

    assert caught.value.code == 2
    assert "'v1/chat' is no path: it begins with a slash" in capsys.readouterr().err
