"""By what the ledger knows an event again."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.domain.seen import KEY_BYTES, event_key, time_of

TIMES = st.integers(min_value=1_577_836_800_000_000, max_value=4_102_444_799_999_999)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(TEXTS, TEXTS, st.none() | TIMES), min_size=2, max_size=20))
def test_one_key_for_each_tenant_id_and_second(
    events: list[tuple[str, str, int | None]],
) -> None:
    known = {
        (tenant_id, event_id, None if at_micros is None else at_micros // 1_000_000)
        for tenant_id, event_id, at_micros in events
    }
    keys = {event_key(tenant, event, at_micros=at) for tenant, event, at in events}

    assert len(keys) == len(known)
    assert {len(key) for key in keys} == {KEY_BYTES}


@given(st.lists(TIMES, min_size=2, max_size=20))
def test_keys_of_a_gateway_lie_in_the_order_of_time(times: list[int]) -> None:
    in_order = sorted(times)
    keys = [time_of(at) for at in in_order]

    assert keys == sorted(keys)
    for (one, other), (key, next_key) in zip(pairwise(in_order), pairwise(keys), strict=True):
        assert (key == next_key) == (one // 1_000_000 == other // 1_000_000)


def test_where_the_tenant_ends_is_no_matter_of_chance() -> None:
    assert event_key("ab", "c") != event_key("a", "bc")
    assert event_key("ab", "c", at_micros=5) != event_key("a", "bc", at_micros=5)
