"""`aforo-meter topics`: create what the processes write to and read from. It changes no topic."""

from collections.abc import AsyncIterator, Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from aforo_meter.kafka_place import client_options, start, told


class TopicsError(Exception):
    """A topic could not be created; the message says which, and why."""


async def create(
    bootstrap: str, names: Sequence[str], *, partitions: int, replication: int
) -> AsyncIterator[str]:
    """Create topics that are not there yet, and say a line about each.

    Existing topics are left as they are: another number of partitions would move tenants to other
    partitions, and the ledger's positions with them.

    Raises:
        TopicsError: The brokers can't be reached, or refuse.
    """
    admin = AIOKafkaAdminClient(**client_options(bootstrap))
    try:
        await start(admin)
        for name in names:
            yield await _create(admin, name, partitions=partitions, replication=replication)
    except (KafkaError, OSError) as error:
        raise TopicsError(
            f"kafka at {bootstrap} does not answer: {told(error)};"
            " does it run, is --bootstrap right?"
        ) from error
    finally:
        await admin.close()


async def _create(
    admin: AIOKafkaAdminClient, name: str, *, partitions: int, replication: int
) -> str:
    topic = NewTopic(name=name, num_partitions=partitions, replication_factor=replication)
    response = await admin.create_topics([topic])
    for _, code, *message in response.topic_errors:
        error = for_code(code)
        if error is TopicAlreadyExistsError:
            return await _existing(admin, name, partitions=partitions)
        if code:
            detail = message[0] if message and message[0] else error.__name__
            raise TopicsError(f"topic {name} was not created: {detail}")
    return f"{name}: created, {partitions} partitions"


async def _existing(admin: AIOKafkaAdminClient, name: str, *, partitions: int) -> str:
    (described,) = await admin.describe_topics([name])
    found = len(described["partitions"])
    unequal = "" if found == partitions else f" (not the {partitions} asked for)"
    return f"{name}: exists, {found} partitions{unequal}"
