"""The settings of aforo-admin: what can't be used is said in a line, without its secrets."""

import pytest

from aforo_admin.settings import (
    RedisSettings,
    SettingsError,
    SyncSettings,
    load,
    without_password,
)


@pytest.mark.parametrize(
    "url",
    ["cache:6379", "http://cache", "redis://cache:port/0", "redis://:hunter2/hunter2@cache:6379/0"],
)
def test_an_address_that_is_none_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    environ = {"AFORO_ADMIN_REDIS_URL": url}
    monkeypatch.setenv("AFORO_ADMIN_REDIS_URL", url)

    with pytest.raises(SettingsError) as raised:
        load(RedisSettings, environ)

    assert str(raised.value).startswith("AFORO_ADMIN_REDIS_URL: expected redis://host:port/db")
    assert "percent-encoded" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@cache:6379/0",
        "redis://user:a@hunter2@cache:6379/0",
        "rediss://cache/0?password=hunter2&db=1",
    ],
)
def test_a_password_is_not_shown_wherever_it_stands(url: str) -> None:
    assert "hunter2" not in without_password(url)
    assert "(masked)" in without_password(url)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("REDIS_TIMEOUT_MS", "soon", "'soon': expected a whole number"),
        ("REDIS_TIMEOUT_MS", "9", "'9': expected at least 10"),
        ("SYNC_INTERVAL_S", "half a minute", "'half a minute': expected a number"),
        ("LOG_LEVEL", "loud", "'loud': expected 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_mistyped_value_is_told_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    environ = {
        "AFORO_ADMIN_CATALOG": "catalog.yaml",
        "AFORO_ADMIN_REDIS_URL": "redis://127.0.0.1:6379/0",
        f"AFORO_ADMIN_{name}": value,
    }
    for variable, given in environ.items():
        monkeypatch.setenv(variable, given)

    with pytest.raises(SettingsError) as raised:
        load(SyncSettings, environ)

    assert str(raised.value) == f"AFORO_ADMIN_{name}: {told}"
