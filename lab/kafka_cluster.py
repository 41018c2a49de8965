"""Three Kafka brokers that know idempotent producers: librdkafka's own stand-in, as a process.

The lab's other broker knows none, and the default of ship is to be one. Topics are made when they
are first named, with four partitions; nothing outlives the process. Run as a module it prints its
addresses, and serves until it is ended.
"""

import sys
from pathlib import Path
from typing import Any, Self

from lab.servers import Program, python_module, scratch_dir


class KafkaCluster:
    """A context manager that runs the brokers."""

    def __init__(self) -> None:
        home = scratch_dir("kafka-cluster")
        self._addresses = home / "addresses"
        self.program: Program = python_module(
            "kafka-cluster",
            "lab.kafka_cluster",
            str(self._addresses),
            env={},
            ready=self._addresses.exists,
            log_dir=home,
        )

    @property
    def bootstrap(self) -> str:
        return self._addresses.read_text()

    def __enter__(self) -> Self:
        self.program.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()  # It holds nothing, and librdkafka takes its time for a farewell.


def serve(addresses: Path) -> None:
    from confluent_kafka import Producer  # noqa: PLC0415 - only where it is started

    owner: Any = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 3})
    brokers = owner.list_topics(timeout=10).brokers.values()
    fresh = addresses.with_suffix(".new")
    fresh.write_text(",".join(f"{one.host}:{one.port}" for one in brokers))
    fresh.replace(addresses)
    while True:
        owner.poll(1)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
