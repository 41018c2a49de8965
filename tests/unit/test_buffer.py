"""What is held between Envoy and Kafka."""

import asyncio

from aforo_meter.buffer import Buffer, Record


def make_records(count: int, *, size: int = 10) -> list[Record]:
    return [
        Record(topic="t", key=b"k", value=bytes([number % 256]) * size) for number in range(count)
    ]


async def test_records_leave_in_the_order_they_came() -> None:
    buffer = Buffer(records_max=100, bytes_max=10_000)
    records = make_records(7)
    buffer.add(records[:3])
    buffer.add(records[3:])

    assert [*await buffer.take(5), *await buffer.take(5)] == records


async def test_what_was_taken_is_held_until_it_is_released() -> None:
    buffer = Buffer(records_max=100, bytes_max=10_000)
    buffer.add(make_records(3))
    taken = await buffer.take(2)
    assert (buffer.held, buffer.held_bytes) == (3, 30)

    buffer.release(taken)
    assert (buffer.held, buffer.held_bytes) == (1, 10)

    buffer.release(await buffer.take(2))
    await asyncio.wait_for(buffer.emptied(), 1)


async def test_taking_waits_for_a_record() -> None:
    buffer = Buffer(records_max=100, bytes_max=10_000)
    taking = asyncio.create_task(buffer.take(5))
    await asyncio.sleep(0)
    assert not taking.done()

    records = make_records(1)
    buffer.add(records)
    assert await asyncio.wait_for(taking, 1) == records


async def test_a_full_buffer_lets_nobody_read_on_until_something_is_written() -> None:
    buffer = Buffer(records_max=3, bytes_max=10_000)
    buffer.add(make_records(4))
    assert not buffer.has_room
    reading = asyncio.create_task(buffer.room())
    taken = await buffer.take(2)
    await asyncio.sleep(0)
    assert not reading.done(), "taken is not written"

    buffer.release(taken)
    await asyncio.wait_for(reading, 1)


async def test_bytes_fill_it_as_well_as_records() -> None:
    buffer = Buffer(records_max=1000, bytes_max=100)
    buffer.add(make_records(2, size=50))

    assert not buffer.has_room


async def test_an_empty_message_changes_nothing() -> None:
    buffer = Buffer(records_max=1, bytes_max=100)
    buffer.add([])

    await asyncio.wait_for(buffer.emptied(), 1)
    await asyncio.wait_for(buffer.room(), 1)
