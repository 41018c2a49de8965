import json

import pytest

from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import Reason
from aforo_authz.server import TcpAddress
from aforo_authz.settings import PREFIX, Settings, SettingsError, describe, load, masked


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load(variables)


def test_without_variables_the_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch)

    assert settings.addresses == [TcpAddress("127.0.0.1", 9191)]
    assert settings.transport == "ngh2"
    assert not settings.peer_certificate
    assert settings.metrics_listen == ""


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_several_addresses_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, AFORO_AUTHZ_LISTEN="127.0.0.1:9001, unix:/run/a.sock")

    assert [str(each) for each in settings.addresses] == ["127.0.0.1:9001", "unix:/run/a.sock"]


@pytest.mark.parametrize("name", ["AFORO_AUTHZ_REDIS_TIMOUT_MS", "aforo_authz_redis_timout_ms"])
def test_an_unknown_setting_stops_the_start_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(SettingsError, match=f"{name}: unknown.*mean AFORO_AUTHZ_REDIS_TIMEOUT_MS"):
        loaded(monkeypatch, **{name: "20"})


def test_an_unknown_setting_that_is_near_to_none_lists_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SettingsError, match=r"known: AFORO_AUTHZ_CACHE_ENTRIES_MAX, .*TRANSPORT"):
        loaded(monkeypatch, AFORO_AUTHZ_XYZZY="1")


def test_variables_of_other_processes_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, AFORO_METER_SHIP_LISTEN="x", PATH="/bin")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", ()),
        ("sub", ("sub",)),
        ("payload.sub", ("payload", "sub")),
        ('["payload", "https://example.com/id"]', ("payload", "https://example.com/id")),
    ],
)
def test_a_claims_path_is_names_between_dots_or_a_list_of_names(
    monkeypatch: pytest.MonkeyPatch, path: str, names: tuple[str, ...]
) -> None:
    settings = loaded(monkeypatch, AFORO_AUTHZ_JWT_CLAIM_PATH=path)

    assert settings.jwt_claim_names == names


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("LISTEN", "", "names no address"),
        ("LISTEN", " , ", "names no address"),
        ("LISTEN", "9001", "'9001' is no address: write host:port or unix:/path"),
        ("LISTEN", "127.0.0.1:9001,unix:a.sock", "needs an absolute path"),
        ("METRICS_LISTEN", "127.0.0.1:1,127.0.0.1:2", "must be one host:port"),
        ("METRICS_LISTEN", "9090", "'9090' is no address"),
        ("REDIS_URL", "http://redis", "expected redis://host:port/db"),
        ("REDIS_URL", "redis://host:99999/0", "expected redis://host:port/db"),
        ("REDIS_TIMEOUT_MS", "0", "'0': expected at least 1"),
        ("REDIS_TIMEOUT_MS", "10001", "'10001': expected at most 10000"),
        ("REDIS_TIMEOUT_MS", "soon", "'soon': expected a whole number"),
        ("IDLE_S_MAX", "0", "'0': expected more than 0"),
        ("IDLE_S_MAX", "5 min", "'5 min': expected a number"),
        ("PEER_CERTIFICATE", "maybe", "'maybe': expected true or false"),
        ("STALE_MAX_S", "0", "'0': expected at least 1"),
        ("JWT_CLAIM_PATH", "payload..sub", "write payload.sub"),
        ("JWT_CLAIM_PATH", '["payload", 1]', "write payload.sub"),
        ("JWT_CLAIM_PATH", '["payload"', "write payload.sub"),
        ("LOG_LEVEL", "loud", "'loud': expected 'debug', 'info', 'warning' or 'error'"),
        ("LOG_SAMPLE_RATIO", "1.5", "'1.5': expected at most 1"),
        ("TRANSPORT", "http", "'http': expected 'ngh2' or 'grpcio'"),
        ("DENIALS", "{bad", "not JSON"),
        ("DENIALS", "[]", "valid dictionary"),
        ("DENIALS", '{"no_reason": {"status": 403}}', "'no_reason': expected 'unauthenticated'"),
        ("DENIALS", '{"allowed": {"status": 403}}', "'allowed' is no refusal"),
        ("DENIALS", '{"quota_exceeded": {"stattus": 403}}', r"unknown keys \['stattus'\]"),
        ("DENIALS", '{"quota_exceeded": {"status": 200}}', "a number from 400 to 599"),
        ("DENIALS", '{"quota_exceeded": {"status": "403"}}', "a number from 400 to 599"),
    ],
)
def test_an_unusable_value_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    with pytest.raises(SettingsError, match=rf"AFORO_AUTHZ_{name}.*{why}"):
        loaded(monkeypatch, **{PREFIX + name: value})


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(monkeypatch, AFORO_AUTHZ_LOG_LEVEL="loud", AFORO_AUTHZ_REDIS_TIMEOUT_MS="0")

    assert len(str(raised.value).splitlines()) == 2


SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@host/0",
        f"redis://user:{SECRET}@host:6379/0",
        f"redis://user:{SECRET}@{SECRET}@host:6379/0",
        f"rediss://host/0?password={SECRET}",
        f"rediss://host/0?db=1&password={SECRET}&ssl_cert_reqs=none",
        f"unix://user:{SECRET}@/run/redis.sock",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    assert SECRET not in masked(url)
    assert SECRET not in describe(Settings(redis_url=url))
    assert "***" in masked(url)


@pytest.mark.parametrize(
    "url", [f"redis://:{SECRET}/x@host/0", f"nope://:{SECRET}@host", f"redis://h:{SECRET}/0"]
)
def test_an_error_over_a_url_does_not_quote_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(monkeypatch, AFORO_AUTHZ_REDIS_URL=url)

    assert SECRET not in str(raised.value)


def test_each_setting_in_force_is_shown_with_what_it_is_for() -> None:
    lines = describe(Settings()).splitlines()

    assert len(lines) == len(Settings.model_fields)
    assert (
        "AFORO_AUTHZ_METRICS_LISTEN=  # host:port of /metrics, /livez and /readyz. Empty: off."
        in lines
    )
    assert all(line.rpartition("  # ")[2] for line in lines)


def test_the_description_is_what_can_be_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"quota_exceeded": {"status": 403, "title": "Enough"}}
    settings = loaded(
        monkeypatch,
        AFORO_AUTHZ_DENIALS=json.dumps(words),
        AFORO_AUTHZ_PEER_CERTIFICATE="true",
        AFORO_AUTHZ_REDIS_URL="unix:///run/redis.sock?db=1",
    )

    lines = [line.rpartition("  # ")[0] for line in describe(settings).splitlines()]
    described = dict(line.split("=", 1) for line in lines)

    assert set(described) == {PREFIX + name.upper() for name in Settings.model_fields}
    assert loaded(monkeypatch, **described) == settings


def test_the_owners_words_for_a_refusal_replace_the_default_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = '{"quota_exceeded": {"status": 403, "title": "Enough"}}'
    settings = loaded(monkeypatch, AFORO_AUTHZ_DENIALS=words)

    denial = settings.denial_of(Reason.QUOTA_EXCEEDED)

    assert (denial.status, denial.title) == (403, "Enough")
    assert denial.code == DENIALS[Reason.QUOTA_EXCEEDED].code
    assert settings.denial_of(Reason.UNAUTHENTICATED) == DENIALS[Reason.UNAUTHENTICATED]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AFORO_AUTHZ_LISTEN": "127.0.0.1:9001"}, "needs UNIX sockets only in LISTEN"),
        ({"AFORO_AUTHZ_LISTEN": "unix:/a, 127.0.0.1:9001"}, "needs UNIX sockets only in LISTEN"),
        ({"AFORO_AUTHZ_TRANSPORT": "grpcio"}, "needs TRANSPORT=ngh2"),
        ({"AFORO_AUTHZ_DRAIN_NOTICE_S": "3"}, "set one"),
    ],
)
def test_taking_over_goes_with_unix_sockets_and_without_a_notice(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    good = {"AFORO_AUTHZ_LISTEN": "unix:/run/a.sock", "AFORO_AUTHZ_TAKE_OVER": "true"}
    assert loaded(monkeypatch, **good).take_over

    with pytest.raises(SettingsError, match=f"AFORO_AUTHZ_TAKE_OVER.*{words}"):
        loaded(monkeypatch, **(good | variables))
