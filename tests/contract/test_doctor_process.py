"""aforo-admin doctor as operators run it: usage, exit codes, and no password anywhere."""

import json

import pytest

from tests.contract.doctor_lab import doctor

pytestmark = pytest.mark.contract

SECRETS = ("s3cr3t-of-redis", "s3cr3t-of-ledger", "s3cr3t%of")
AWAY = {
    "AFORO_ADMIN_REDIS_URL": "redis://user:s3cr3t-of-redis@127.0.0.1:1/0",
    "AFORO_ADMIN_KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "AFORO_ADMIN_LEDGER_URL": "postgresql://aforo:s3cr3t-of-ledger@127.0.0.1:1/aforo",
    # No valid encoding: libpq would quote it.
    "AFORO_ADMIN_DATABASE_URL": "postgresql://aforo:s3cr3t%of-catalog@127.0.0.1:1/aforo",
}


def test_with_everything_away_it_says_so_of_each_and_tells_no_password() -> None:
    done = doctor("--envoy", "127.0.0.1:1", "--process", "authz=127.0.0.1:1", env=AWAY)

    assert done.returncode == 1
    assert done.stderr == ""
    for part in ("redis", "kafka", "ledger", "catalog", "envoy", "authz"):
        assert f"FAULT   {part:<12}" in done.stdout
    assert done.stdout.count("means   ") == done.stdout.count("do      ") == 6
    assert not any(secret in done.stdout for secret in SECRETS)


def test_for_programs_it_says_the_same() -> None:
    done = doctor("--json", env=AWAY)
    document = json.loads(done.stdout)

    assert done.returncode == 1
    assert document["worst"] == "fault"
    faults = {each["part"] for each in document["findings"] if each["severity"] == "fault"}
    assert faults == {"redis", "kafka", "ledger", "catalog"}
    assert not any(secret in done.stdout for secret in SECRETS)


def test_where_nothing_is_said_nothing_is_looked_at_and_nothing_is_wrong() -> None:
    done = doctor(env={})

    assert done.returncode == 0
    assert "skipped redis       not looked at: AFORO_ADMIN_REDIS_URL is not set" in done.stdout
    assert done.stdout.endswith("0 well, 0 faults, 0 warnings; 5 not looked at\n")


@pytest.mark.parametrize(
    ("arguments", "env", "told"),
    [
        (["--process", "nobody=127.0.0.1:1"], {}, "'nobody=127.0.0.1:1': expected NAME=HOST:PORT"),
        (["--process", "authz=127.0.0.1"], {}, "'127.0.0.1': expected host:port"),
        (["--envoy", "unix:"], {}, "expected host:port or unix:/path"),
        (["--timeout-s", "0"], {}, "'0': expected seconds, 0.5 to 300"),
        (
            ["--process", "ship=127.0.0.1:1", "--process", "ship=127.0.0.1:2"],
            {},
            "--process ship: given twice; name them ship-a and ship-b",
        ),
        ([], {"AFORO_ADMIN_KAFKA_BOOTSTRAP": "kafka"}, "AFORO_ADMIN_KAFKA_BOOTSTRAP: "),
        ([], {"AFORO_ADMIN_LEDGER_URL": "mysql://x:s3cr3t@y"}, "AFORO_ADMIN_LEDGER_URL: expected"),
    ],
    ids=str,
)
def test_wrong_usage_ends_with_2_and_names_what_and_how(
    arguments: list[str], env: dict[str, str], told: str
) -> None:
    done = doctor(*arguments, env=env)

    assert done.returncode == 2
    assert told in done.stderr
    assert "s3cr3t" not in done.stderr


def test_its_help_has_examples() -> None:
    done = doctor("--help", env={})

    assert done.returncode == 0
    assert "aforo-admin doctor --envoy 127.0.0.1:9901" in done.stdout
