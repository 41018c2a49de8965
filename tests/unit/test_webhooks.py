"""Standard Webhooks signatures."""

import base64
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.settings_deliver import DeliverSettings
from aforo_meter.webhooks import (
    NEW_SECRET,
    SignatureError,
    parse_secret,
    sign,
    signed_headers,
    verify,
)

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW_S = 1_795_000_000


def test_the_specifications_own_example_is_signed_as_it_says() -> None:
    """Source: the reference libraries' shared test vector."""
    key = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    payload = b'{"test": 2432232314}'

    signature = sign(
        key, message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp_s=1614265330, payload=payload
    )

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_is_read() -> None:
    assert parse_secret(SECRET) == KEY


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "starts with"),
        (SECRET.removeprefix("whsec_"), "starts with"),
        ("whsec_not base64!", "not base64"),
        ("whsec_" + base64.b64encode(b"short").decode(), "24 to 64 bytes"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "24 to 64 bytes"),
    ],
)
def test_a_wrong_secret_is_refused_without_being_repeated(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_secret(text)

    assert not text or text not in str(caught.value)
    assert str(caught.value).endswith(f"make one with: {NEW_SECRET}")


def test_the_command_that_a_complaint_names_makes_a_secret() -> None:
    made = [
        subprocess.run(["sh", "-c", NEW_SECRET], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]

    assert [len(parse_secret(text.strip())) for text in made] == [32, 32]
    assert made[0] != made[1]


def test_the_setting_says_how_to_make_a_secret() -> None:
    said = DeliverSettings.model_fields["webhook_secret"].description or ""

    assert NEW_SECRET in " ".join(said.split())


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.binary())
def test_what_is_signed_verifies(message_id: str, payload: bytes) -> None:
    headers = signed_headers([KEY], message_id=message_id, timestamp_s=NOW_S, payload=payload)

    assert verify(KEY, headers=headers, payload=payload, now_s=NOW_S) == message_id


@pytest.mark.parametrize("age_s", [-300, 300])
def test_clocks_may_differ_by_five_minutes(age_s: int) -> None:
    headers = signed_headers([KEY], message_id="m", timestamp_s=NOW_S, payload=b"{}")

    assert verify(KEY, headers=headers, payload=b"{}", now_s=NOW_S + age_s) == "m"


def test_one_of_several_signatures_is_enough_while_secrets_change() -> None:
    headers = signed_headers([KEY], message_id="m", timestamp_s=NOW_S, payload=b"{}")
    headers["webhook-signature"] = "v1,b2xk v1a,xyz " + headers["webhook-signature"]

    assert verify(KEY, headers=headers, payload=b"{}", now_s=NOW_S) == "m"


@pytest.mark.parametrize(
    ("change", "now_s", "complaint"),
    [
        ({}, NOW_S + 301, "301 s ago"),
        ({}, NOW_S - 301, "-301 s ago"),
        ({"webhook-id": "other"}, NOW_S, "no signature fits"),
        ({"webhook-timestamp": str(NOW_S + 1)}, NOW_S, "no signature fits"),
        ({"webhook-timestamp": "soon"}, NOW_S, "not a Unix time"),
        ({"webhook-timestamp": "²"}, NOW_S, "not a Unix time"),
        ({"webhook-signature": "v1,ü"}, NOW_S, "no signature fits"),
        ({"webhook-signature": ""}, NOW_S, "missing header webhook-signature"),
    ],
)
def test_a_changed_or_old_message_is_refused(
    change: dict[str, str], now_s: int, complaint: str
) -> None:
    headers = signed_headers([KEY], message_id="m", timestamp_s=NOW_S, payload=b"{}") | change

    with pytest.raises(SignatureError, match=complaint):
        verify(KEY, headers=headers, payload=b"{}", now_s=now_s)


def test_a_changed_body_is_refused() -> None:
    headers = signed_headers([KEY], message_id="m", timestamp_s=NOW_S, payload=b'{"a": 1}')

    with pytest.raises(SignatureError, match="no signature fits"):
        verify(KEY, headers=headers, payload=b'{"a": 2}', now_s=NOW_S)


def test_another_secret_is_refused() -> None:
    headers = signed_headers([KEY], message_id="m", timestamp_s=NOW_S, payload=b"{}")

    with pytest.raises(SignatureError, match="no signature fits"):
        verify(b"x" * 32, headers=headers, payload=b"{}", now_s=NOW_S)
