"""Topics as Kafka describes them, judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aforo_admin.domain.diagnosis import Seen

HOUR_MS: Final = 3_600_000
RETENTION_MIN_MS: Final = 24 * HOUR_MS
LETTERS_RETENTION_MIN_MS: Final = 30 * 24 * HOUR_MS
MESSAGE_BYTES_MIN: Final = 1_000_000
LETTER_BYTES: Final = 20_971_520
SAFE_REPLICAS: Final = 3  # From here on a write can wait for two copies, and one broker may go.
SAFE_IN_SYNC: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as it is."""

    name: str
    leaderless: tuple[int, ...] = ()  # Partitions that nobody can write to.
    thin: tuple[int, ...] = ()  # Partitions of which a replica lags behind.
    partitions: int = 0
    replicas: int = 0  # Of the partition that has the fewest.
    settings: Mapping[str, str] = field(default_factory=dict)  # Empty: it was not told.


def judge_topic(
    seen: Seen, topic: Topic, *, brokers: int, bootstrap: str, usage: Topic | None = None
) -> None:
    """Judge one topic of usage; or of dead letters, beside that of usage."""
    if not topic.partitions:
        seen.fault(
            f"there is no topic {topic.name}",
            "ship keeps what Envoy tells it in its spool, and nothing is charged",
            f"aforo-meter topics --bootstrap {bootstrap} --partitions N (how many:"
            " docs/operations.md, “Capacity”)",
        )
        return
    before = len(seen.findings)
    _judge_replicas(seen, topic, brokers)
    if topic.settings:
        _judge_settings(seen, topic)
        if usage is None:
            _judge_room(seen, topic)
        else:
            _judge_room_for_letters(seen, topic, usage)
    if len(seen.findings) == before:
        seen.ok(f"{topic.name}: {topic.partitions} partitions, each kept {topic.replicas} times")


def _judge_replicas(seen: Seen, topic: Topic, brokers: int) -> None:
    if topic.leaderless:
        seen.fault(
            f"{topic.name}: no broker leads partitions {_listed(topic.leaderless)}",
            "usage of their tenants waits in the spools",
            "start the brokers that are away",
        )
    elif topic.thin:
        seen.warning(
            f"{topic.name}: replicas of partitions {_listed(topic.thin)} are behind",
            "if their leaders went now, usage could be lost",
            "look at the brokers that are away or slow",
        )
    if brokers > 1 and topic.replicas < 2:  # noqa: PLR2004 - one copy, or more.
        seen.warning(
            f"{topic.name}: there is one copy of each record, on {brokers} brokers",
            "a broker's disk that fails takes usage with it that is not charged yet",
            "kafka-reassign-partitions.sh with three replicas; and min.insync.replicas=2",
        )


def _judge_settings(seen: Seen, topic: Topic) -> None:
    if "compact" in topic.settings.get("cleanup.policy", "delete"):
        seen.fault(
            f"{topic.name}: cleanup.policy is {topic.settings['cleanup.policy']}",
            "keys are tenants: of each tenant's usage all but the last event is removed",
            _altered(topic, "cleanup.policy=delete"),
        )
    in_sync = int(topic.settings.get("min.insync.replicas", SAFE_IN_SYNC))
    if topic.replicas >= SAFE_REPLICAS and in_sync < SAFE_IN_SYNC:
        seen.warning(
            f"{topic.name}: min.insync.replicas is {in_sync}, of {topic.replicas} replicas",
            "while the others are behind, one broker's disk alone has what was taken for written",
            _altered(topic, f"min.insync.replicas={SAFE_IN_SYNC}"),
        )


def _judge_room(seen: Seen, topic: Topic) -> None:
    retention_ms = _retention_ms(topic)
    if 0 <= retention_ms < RETENTION_MIN_MS:
        seen.warning(
            f"{topic.name}: records are kept for {retention_ms / HOUR_MS:.3g} h",
            "a ledger that is away for longer loses what was not charged by then",
            _altered(topic, f"retention.ms={7 * RETENTION_MIN_MS}"),
        )
    bytes_max = _bytes_max(topic)
    if bytes_max < MESSAGE_BYTES_MIN:
        seen.warning(
            f"{topic.name}: max.message.bytes is {bytes_max}",
            "batches are refused, and large events become dead letters",
            _altered(topic, "max.message.bytes=1048588"),
        )


def _judge_room_for_letters(seen: Seen, topic: Topic, usage: Topic) -> None:
    retention_ms = _retention_ms(topic)
    if 0 <= retention_ms < LETTERS_RETENTION_MIN_MS:
        seen.warning(
            f"{topic.name}: letters are kept for {retention_ms / HOUR_MS / 24:.3g} days",
            "usage that nobody has repaired by then is never charged",
            _altered(topic, f"retention.ms={3 * LETTERS_RETENTION_MIN_MS}"),
        )
    bytes_max, usage_bytes_max = _bytes_max(topic), _bytes_max(usage)
    if bytes_max <= usage_bytes_max:
        seen.warning(
            f"{topic.name}: max.message.bytes is {bytes_max}, that of {usage.name}"
            f" {usage_bytes_max}",
            "a letter holds all of what it is about: what is too large there is lost here",
            _altered(topic, f"max.message.bytes={max(LETTER_BYTES, 2 * usage_bytes_max)}"),
        )


def _retention_ms(topic: Topic) -> int:
    return int(topic.settings.get("retention.ms", "-1"))


def _bytes_max(topic: Topic) -> int:
    return int(topic.settings.get("max.message.bytes", MESSAGE_BYTES_MIN))


def _altered(topic: Topic, setting: str) -> str:
    return (
        "kafka-configs.sh --alter --entity-type topics --entity-name"
        f" {topic.name} --add-config {setting}"
    )


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in numbers)
