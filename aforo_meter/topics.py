"""`aforo-meter topics`: create what the processes write to and read from. It changes no topic."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from aforo_meter.kafka_place import client_options, settings_of, start, told

DAY_MS: Final = 86_400_000
USAGE_DAYS: Final = 7  # How long consume may be away, and how far `replay` sees.
DEAD_LETTER_DAYS: Final = 90  # To repair a letter.
SAFE_REPLICATION: Final = 3  # From here on a write waits for two copies, and one broker may go.


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What new topics are to be like."""

    partitions: int
    replication: int
    usage_days: int = USAGE_DAYS
    dead_letter_days: int = DEAD_LETTER_DAYS

    def settings(self, name: str, *, replication: int) -> Mapping[str, str]:
        """Return a topic's settings, as k8s/overlays/strimzi has them too."""
        of_letters = is_of_dead_letters(name)
        days = self.dead_letter_days if of_letters else self.usage_days
        common = {
            "cleanup.policy": "delete",
            "retention.ms": str(days * DAY_MS),
            "min.insync.replicas": "2" if replication >= SAFE_REPLICATION else "1",
        }
        if of_letters:
            # They are kept whole: larger than what the other topic had no room for.
            return {**common, "max.message.bytes": "20971520"}
        return {**common, "compression.type": "producer", "max.message.bytes": "1048588"}


class TopicsError(Exception):
    """A topic could not be created; the message says which, and why."""


def is_of_dead_letters(name: str) -> bool:
    return "dlq" in re.split(r"[._-]", name)


async def create(
    bootstrap: str,
    names: Sequence[str],
    *,
    partitions: int,
    replication: int,
    usage_days: int = USAGE_DAYS,
    dead_letter_days: int = DEAD_LETTER_DAYS,
) -> AsyncIterator[str]:
    """Create topics that are not there yet, and say a line about each.

    Existing topics are left as they are: another number of partitions would move tenants to other
    partitions, and the ledger's positions with them. What else is not as wanted is told.

    Raises:
        TopicsError: The brokers can't be reached, or refuse.
    """
    wanted = Wanted(
        partitions=partitions,
        replication=replication,
        usage_days=usage_days,
        dead_letter_days=dead_letter_days,
    )
    admin = AIOKafkaAdminClient(**client_options(bootstrap))
    try:
        await start(admin)
        for name in names:
            yield await _create(admin, name, wanted)
    except (KafkaError, OSError) as error:
        raise TopicsError(
            f"kafka at {bootstrap} does not answer: {told(error)};"
            " does it run, is --bootstrap right?"
        ) from error
    finally:
        await admin.close()


async def _create(admin: AIOKafkaAdminClient, name: str, wanted: Wanted) -> str:
    settings = wanted.settings(name, replication=wanted.replication)
    topic = NewTopic(name, wanted.partitions, wanted.replication, topic_configs=settings)
    response = await admin.create_topics([topic])
    for _, code, *message in response.topic_errors:
        error = for_code(code)
        if error is TopicAlreadyExistsError:
            return await _existing(admin, name, wanted)
        if code:
            detail = message[0] if message and message[0] else error.__name__
            raise TopicsError(f"topic {name} was not created: {detail}")
    copies = f"{wanted.partitions} partitions, replication {wanted.replication}"
    return f"{name}: created, {copies}; {_listed(settings)}"


async def _existing(admin: AIOKafkaAdminClient, name: str, wanted: Wanted) -> str:
    (described,) = await admin.describe_topics([name])
    found = described["partitions"]
    unequal = "" if len(found) == wanted.partitions else f" (not the {wanted.partitions} asked for)"
    line = f"{name}: exists, {len(found)} partitions{unequal}"
    there = await settings_of(admin, name)
    if not there:
        return f"{line}; its settings were not told"
    # A topic that was made a moment ago may have no partitions yet, by this broker.
    replication = min((len(each["replicas"]) for each in found), default=wanted.replication)
    settings = wanted.settings(name, replication=replication)
    # The lab's broker tells only of what was said when the topic was made.
    other = {key: value for key, value in settings.items() if there.get(key) != value}
    if not other:
        return line
    differs = ", ".join(f"{key} is {there.get(key, 'not told')}" for key in other)
    return (
        f"{line}; {differs}. To have it as new ones: kafka-configs.sh --alter --entity-type topics"
        f" --entity-name {name} --add-config {_listed(other)}"
    )


def _listed(settings: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in settings.items())
