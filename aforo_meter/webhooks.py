"""Standard Webhooks signatures: made by deliver, checked by receivers. It sends nothing.

Source: https://github.com/standard-webhooks/standard-webhooks, specification 1.0.0
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret.
SECRET_BYTES_MIN = 24
SECRET_BYTES_MAX = 64
NEW_SECRET = f"echo {SECRET_PREFIX}$(head -c 32 /dev/urandom | base64)"  # For a shell.
MAKE_ONE = f"make one with: {NEW_SECRET}"
TOLERANCE_S = 300

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"


class SignatureError(Exception):
    """A message is not what its signature says, or too old to be believed."""


def parse_secret(text: str) -> bytes:
    """Return the key in `whsec_` + base64. The message of an error never repeats the secret.

    Raises:
        ValueError: Not such a text, or a key of fewer than 24 or more than 64 bytes.
    """
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook secret starts with {SECRET_PREFIX!r}; {MAKE_ONE}")
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"what follows {SECRET_PREFIX!r} is not base64; {MAKE_ONE}") from None
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ValueError(
            f"a webhook secret holds {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, this one"
            f" {len(key)}; {MAKE_ONE}"
        )
    return key


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Return the keys of one secret, or of several that are separated by white space.

    Raises:
        ValueError: There is none, or one of them is none.
    """
    return tuple(parse_secret(part) for part in text.split() or [""])


def sign(key: bytes, *, message_id: str, timestamp_s: int, payload: bytes) -> str:
    """Return the value of `webhook-signature`: `v1,` and base64 of HMAC-SHA256."""
    signed = f"{message_id}.{timestamp_s}.".encode() + payload
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def signed_headers(
    keys: Sequence[bytes], *, message_id: str, timestamp_s: int, payload: bytes
) -> dict[str, str]:
    """Return the three headers that go with `payload`: a signature by each key.

    While a secret is being changed a receiver may know the old one or the new: one fits.
    """
    assert keys, "a message is signed"
    signatures = (
        sign(key, message_id=message_id, timestamp_s=timestamp_s, payload=payload) for key in keys
    )
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp_s),
        SIGNATURE_HEADER: " ".join(signatures),
    }


def verify(
    key: bytes,
    *,
    headers: Mapping[str, str],
    payload: bytes,
    now_s: int,
    tolerance_s: int = TOLERANCE_S,
) -> str:
    """Check a received message and return its id, by which a receiver recognises repeats.

    `headers` go by lower-case name; the signature's may hold several, separated by spaces, while a
    secret is being changed: one that fits is enough. `payload` is the body before any parsing.

    Raises:
        SignatureError: A header is missing, no signature fits, or the time is off by more than
            `tolerance_s`.
    """
    missing = [
        name for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER) if not headers.get(name)
    ]
    if missing:
        raise SignatureError(f"missing header {', '.join(missing)}")
    message_id, timestamp = headers[ID_HEADER], headers[TIMESTAMP_HEADER]
    if not timestamp.isascii() or not timestamp.isdigit():
        raise SignatureError(f"{TIMESTAMP_HEADER} is not a Unix time in seconds")
    timestamp_s = int(timestamp)
    expected = sign(key, message_id=message_id, timestamp_s=timestamp_s, payload=payload).encode()
    given = headers[SIGNATURE_HEADER].encode().split(b" ")
    if not any([hmac.compare_digest(expected, one) for one in given]):  # noqa: C419 - same time for all.
        raise SignatureError("no signature fits: another secret, or the body was changed")
    if abs(now_s - timestamp_s) > tolerance_s:
        raise SignatureError(f"signed {now_s - timestamp_s} s ago, allowed are {tolerance_s}")
    return message_id
