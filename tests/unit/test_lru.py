from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.lru import MISSING, Lru


def test_what_was_used_last_is_forgotten_last() -> None:
    lru = Lru(entries_max=2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.touch("a")
    lru.put("c", 3)

    assert list(lru) == ["a", "c"]
    assert lru.get("b", MISSING) is MISSING
    assert lru.evictions == 1


@given(
    puts=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50)), max_size=60),
    bytes_max=st.integers(1, 120),
    entries_max=st.integers(1, 5),
)
def test_both_bounds_hold_after_every_step(
    puts: list[tuple[str, int]], bytes_max: int, entries_max: int
) -> None:
    lru = Lru(entries_max=entries_max, bytes_max=bytes_max, bytes_of=lambda _key, size: size)

    for key, size in puts:
        lru.put(key, size)
        assert len(lru) <= entries_max
        assert lru.bytes == sum(lru.get(each, 0) for each in lru)
        assert lru.bytes <= bytes_max
        if size <= bytes_max:
            assert lru.get(key) == size

    for key in list(lru):
        lru.discard(key)
    assert lru.bytes == 0
