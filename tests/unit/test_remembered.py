"""What is put together from remembered values is what they say: never older, never unfollowed."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aforo_authz import read_model
from aforo_authz.domain.access import CredentialKind, Known, Level
from aforo_authz.policies import Presented
from aforo_authz.remembered import Remembered
from tests.authz_redis import presented
from tests.authz_samples import make_credential, make_margin, make_policy

TENANTS = range(4)
PARTITIONS = range(2)


def remembered(entries_max: int = 1000) -> Remembered:
    return Remembered(entries_max=entries_max, bytes_max=1 << 20, strangers_max=10)


def caller(number: int) -> Presented:
    return presented(f"key-{number}")


def tenant_id(number: int) -> str:
    return f"tenant-{number}"


def put_caller(memory: Remembered, number: int, *, units: int = 0) -> None:
    key = read_model.credential_key(caller(number).sha256_hex)
    memory.put(key, make_credential(tenant_id=tenant_id(number)))
    put_policy(memory, number, units)
    put_margin(memory, number, units)
    memory.put(read_model.consumed_key(0), None)


def put_policy(memory: Remembered, number: int, units: int | None) -> None:
    policy = (
        None if units is None else make_policy(tenant_id=tenant_id(number), features=[str(units)])
    )
    memory.put(read_model.policy_key(tenant_id(number)), policy)


def put_margin(memory: Remembered, number: int, units: int | None, *, partition: int = 0) -> None:
    margin = (
        None
        if units is None
        else replace(make_margin(Level.NONE), as_of_micros=units, partition=partition)
    )
    memory.put(read_model.margin_key(tenant_id(number)), margin)


def found(memory: Remembered, number: int, *, stale: bool = False) -> Known:
    known = memory.find(caller(number), stale=stale)
    assert isinstance(known, Known), f"not remembered: {known}"
    return known


numbers = st.sampled_from(TENANTS)
values = st.none() | st.integers(1, 3)
steps = st.one_of(
    st.tuples(st.just("credential"), numbers, st.none() | numbers),
    st.tuples(st.just("policy"), numbers, values),
    st.tuples(st.just("margin"), numbers, values),
    st.tuples(st.just("consumed"), st.sampled_from(PARTITIONS), values),
    st.tuples(st.just("find"), numbers, st.none()),
    st.tuples(st.just("stale"), numbers, st.none()),
)


@given(st.integers(4, 20), st.lists(steps, max_size=60))
def test_who_is_known_is_known_by_values_that_are_remembered_now(
    entries_max: int, story: list[tuple[str, int, int | None]]
) -> None:
    memory = remembered(entries_max)
    memory._composed_max = len(TENANTS)  # So that values are forgotten before what is composed.
    for number in TENANTS:
        put_caller(memory, number)
    for what, number, value in story:
        if what == "credential":
            credential = None if value is None else make_credential(tenant_id=tenant_id(value))
            memory.put(read_model.credential_key(caller(number).sha256_hex), credential)
        elif what == "policy":
            put_policy(memory, number, value)
        elif what == "margin":
            put_margin(memory, number, value, partition=number % len(PARTITIONS))
        elif what == "consumed":
            memory.put(read_model.consumed_key(number), value)
        else:
            memory.find(caller(number), stale=what == "stale")
        for each in TENANTS:
            known = memory.find(caller(each), stale=False)
            assert known == anew(memory, each)


def anew(memory: Remembered, number: int) -> Known | list[str]:
    """Put together what a memory that composed nothing yet would."""
    fresh = remembered()
    for key in memory:
        fresh.put(key, memory.entries.get(key))
    return fresh.find(caller(number), stale=False)


def test_a_caller_stays_the_same_object_while_others_come_and_change() -> None:
    memory = remembered()
    put_caller(memory, 0)
    before = found(memory, 0)

    put_caller(memory, 1)
    put_policy(memory, 1, 2)

    assert found(memory, 0) is before
    put_policy(memory, 0, 2)
    assert found(memory, 0) is not before


def test_the_word_of_a_consumer_reaches_everyone_of_its_partition_and_nobody_else() -> None:
    memory = remembered()
    for number in TENANTS:
        put_caller(memory, number)
        put_margin(memory, number, 1, partition=number % 2)
    memory.put(read_model.consumed_key(1), 5)
    before = [found(memory, number) for number in TENANTS]

    memory.put(read_model.consumed_key(1), 6)

    after = [found(memory, number) for number in TENANTS]
    assert [known.margin_confirmed_micros for known in after] == [0, 6, 0, 6]
    assert [a is b for a, b in zip(after, before, strict=True)] == [True, False, True, False]


def test_who_calls_often_is_not_forgotten_for_many_who_call_once() -> None:
    memory = remembered(entries_max=400)
    put_caller(memory, 0)

    for number in range(1, 5000):
        put_caller(memory, number)
        found(memory, number)
        found(memory, 0)


def test_a_composed_caller_is_nobody_by_a_credential_of_another_kind() -> None:
    memory = remembered()
    put_caller(memory, 0)
    found(memory, 0)

    other = presented("key-0", CredentialKind.CERTIFICATE)

    assert memory.find(other, stale=False) == Known(presented=True)
    assert found(memory, 0, stale=True).stale
