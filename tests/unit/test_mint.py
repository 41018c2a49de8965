"""A minted key is random, shown once, and kept as a hash that the catalog takes."""

import hashlib
import io
import re
from datetime import UTC, datetime, timedelta

import pytest

from aforo_admin.__main__ import main
from aforo_admin.catalog_yaml import read_text
from aforo_admin.mint import mint_key, sha256_of_key


def test_a_key_has_a_recognisable_prefix_and_32_random_characters() -> None:
    keys = {mint_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(re.fullmatch(r"aforo_[A-Za-z0-9_-]{32}", key) for key in keys)


def test_the_printed_lines_go_into_a_catalog_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    day = datetime.now(UTC) + timedelta(days=30)
    arguments = ["--tenant", "acme", "--id", "ci", "--expires", f"{day:%Y-%m-%d}"]
    assert main(["mint", *arguments]) == 0

    key, _, lines = capsys.readouterr().out.partition("\n")
    text = (
        "version: 1\ncurrency: USD\nplans: {pro: {committed_fee: 1, features: []}}\n"
        + lines.strip("\n")
        + "\n    subscription: {id: s, plan: pro, started_at: 2026-01-01}\n"
    )
    (credential,) = read_text(text.encode(), name="c.yaml").tenants["acme"].credentials
    assert credential.credential_id == "ci"
    assert credential.identity == hashlib.sha256(key.encode()).hexdigest()
    assert credential.expires_at is not None


def test_an_id_that_yaml_would_misread_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mint", "--tenant", "2026", "--id", "null"]) == 0

    out = capsys.readouterr().out
    assert '  "2026":' in out
    assert '      - id: "null"' in out


@pytest.mark.parametrize(
    ("asked", "scopes"),
    [
        ([], ("usage:ingest",)),
        (["--scope", "quotas:read"], ("quotas:read",)),
        (
            ["--scope", "usage:ingest", "--scope", "quotas:read", "--scope", "quotas:read"],
            ("usage:ingest", "quotas:read"),
        ),
    ],
)
def test_an_ingest_key_has_the_scopes_that_were_asked_for(
    asked: list[str], scopes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mint", "--ingest", "bridge", *asked]) == 0

    key, _, lines = capsys.readouterr().out.partition("\n")
    catalog = read_text(f"version: 1\ncurrency: USD\n{lines}".encode(), name="c.yaml")
    (found,) = catalog.ingest_keys
    assert (found.key_id, found.scopes) == ("bridge", scopes)
    assert found.sha256 == sha256_of_key(key)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "whose key shall it be? Say --tenant ID"),
        (["--id", "ci"], "--ingest NAME for a program of yours"),
        (["--tenant", "acme", "--ingest", "bridge"], "leave out --tenant"),
        (["--ingest", "bridge", "--id", "ci"], "leave out --id"),
        (["--tenant", "acme", "--scope", "quotas:read"], "--scope: only keys made with --ingest"),
    ],
)
def test_a_key_is_made_for_somebody_and_for_one_of_both(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mint", *arguments]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err


def test_wrong_names_and_dates_are_refused_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mint", "--tenant", "A{", "--id", "", "--expires", "soon"]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert '--tenant: "A{" is no id' in said.err
    assert '--id: "" is no id' in said.err
    assert '--expires: "soon" is no date' in said.err


@pytest.mark.parametrize("given", [b"aforo_key", b"aforo_key\n", b"aforo_key\r\n"])
def test_a_key_from_stdin_is_hashed_without_its_line_end(
    given: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))

    assert main(["hash"]) == 0
    assert capsys.readouterr().out == sha256_of_key("aforo_key") + "\n"


@pytest.mark.parametrize("given", [b"", b"\n", b"one two", b"one\ntwo\n", b"x" * 5000])
def test_what_is_not_one_key_is_refused(
    given: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))

    assert main(["hash"]) == 2
    assert "expected one key" in capsys.readouterr().err
