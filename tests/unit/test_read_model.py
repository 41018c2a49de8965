"""Values of Redis that a newer writer, or a broken one, may have left."""

from collections.abc import Callable

import pytest

from aforo_authz import read_model
from aforo_authz.domain.access import Level
from aforo_authz.read_model import UnreadableValueError
from aforo_proto import margin_pb2, policy_pb2

KEY = "aforo:v1:{acme}:policy"


def policy(**fields: object) -> bytes:
    message = policy_pb2.Policy(tenant_id="acme", state=policy_pb2.SUBSCRIPTION_STATE_ACTIVE)
    message.MergeFrom(policy_pb2.Policy(**fields))  # type: ignore[arg-type]
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("number", "level"),
    [(-1, Level.NONE), (0, Level.NONE), (2, Level.THROTTLE), (3, Level.BLOCK), (9, Level.BLOCK)],
)
def test_a_level_of_the_future_is_taken_as_the_worst_one(number: int, level: Level) -> None:
    # As on the wire: the enum is open, and generated code refuses nothing when it reads.
    varint = number.to_bytes() if number >= 0 else b"\xff" * 9 + b"\x01"
    margin = read_model.margin_of("aforo:v1:{acme}:margin", b"\x18" + varint)
    override = b"\x62" + bytes([len(varint) + 1]) + b"\x08" + varint

    assert margin.level is level
    assert read_model.policy_of(KEY, policy() + override).override_level_max is level


def test_no_override_is_not_an_override_to_level_none() -> None:
    assert read_model.policy_of(KEY, policy()).override_level_max is None
    empty = policy(margin_override=policy_pb2.MarginOverride())
    assert read_model.policy_of(KEY, empty).override_level_max is Level.NONE


@pytest.mark.parametrize(
    ("read", "value", "why"),
    [
        (read_model.policy_of, b"", "unknown subscription state 0"),
        (read_model.policy_of, b"\x20\x63", "unknown subscription state 99"),
        (read_model.policy_of, b"\xff", "not a Policy"),
        (
            read_model.policy_of,
            policy(quotas=[policy_pb2.Quota(quota_id="q")]),
            "quota 'q': unknown window",
        ),
        (read_model.credential_of, b"", "unknown credential kind 0"),
        (read_model.margin_of, b"\xff", "not a Margin"),
        (read_model.consumed_of, b"\xff", "not a ConsumeState"),
        (
            read_model.rules_of,
            policy_pb2.Routes(
                rules=[policy_pb2.RouteRule(path_template="/a/**/b")]
            ).SerializeToString(),
            "may only stand at the end",
        ),
    ],
)
def test_what_cannot_be_understood_says_so(
    read: Callable[[str, bytes], object], value: bytes, why: str
) -> None:
    with pytest.raises(UnreadableValueError, match=why):
        read("aforo:v1:some:key", value)


def test_an_error_never_shows_the_whole_hash_of_a_credential() -> None:
    key = read_model.credential_key("0123456789abcdef" * 4)

    with pytest.raises(UnreadableValueError, match="aforo:v1:cred:01234567…:") as raised:
        read_model.credential_of(key, b"\xff")

    assert "0123456789" not in str(raised.value)


@pytest.mark.parametrize("status", [0, 2, 7])
def test_what_is_not_plainly_active_is_revoked(status: int) -> None:
    value = policy_pb2.Credential(
        tenant_id="acme", kind=policy_pb2.CREDENTIAL_KIND_API_KEY
    ).SerializeToString()

    assert read_model.credential_of(KEY, value + b"\x18" + bytes([status])).revoked


def test_a_weight_of_nothing_is_read_as_one() -> None:
    routes = policy_pb2.Routes(rules=[policy_pb2.RouteRule(path_template="/a")])

    rules = read_model.rules_of("aforo:v1:routes", routes.SerializeToString())

    assert rules.needs_of(method="GET", path="/a").weight_units == 1


def test_usage_is_kept_by_window() -> None:
    usage = margin_pb2.QuotaUsage(quota_id="q", window_start_micros=60_000_000, used_units=5)

    margin = read_model.margin_of(
        KEY, margin_pb2.Margin(quota_usages=[usage], partition=3).SerializeToString()
    )

    assert margin.used_units == {"q": (60, 5)}
    assert margin.period_end_micros is None
    assert margin.partition == 3


def test_of_a_margins_guards_those_with_a_level_are_kept_the_worst_first() -> None:
    message = margin_pb2.Margin(
        guards=[
            margin_pb2.GuardLevel(guard_id="quiet", level=margin_pb2.LEVEL_NONE),
            margin_pb2.GuardLevel(guard_id="warned", level=margin_pb2.LEVEL_WARN),
            margin_pb2.GuardLevel(
                guard_id="blocked", features=["chat"], level=margin_pb2.LEVEL_BLOCK
            ),
        ]
    )

    margin = read_model.margin_of("aforo:v1:{acme}:margin", message.SerializeToString())

    assert [(guard.guard_id, guard.level) for guard in margin.guards] == [
        ("blocked", Level.BLOCK),
        ("warned", Level.WARN),
    ]
    assert [guard.features for guard in margin.guards] == [frozenset({"chat"}), frozenset()]


def test_a_margin_of_a_writer_that_knows_no_guards_has_none() -> None:
    value = margin_pb2.Margin(level=margin_pb2.LEVEL_WARN).SerializeToString()

    assert read_model.margin_of("aforo:v1:{acme}:margin", value).guards == ()
