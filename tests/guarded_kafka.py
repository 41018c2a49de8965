"""Kafka itself with TLS, users and the ACLs of ops/kafka; skipped without Java or Maven."""

import os
import subprocess
from pathlib import Path

from lab.kafka_java import Guard, JavaKafka
from lab.servers import ROOT, ServerStartError
from tests.certificates import certificate
from tests.missing import missing

USERS = ("aforo-ship", "aforo-ingest", "aforo-consume", "aforo-tools")


def guarded_kafka(folder: Path) -> JavaKafka:
    """Return one that is not started yet."""
    chain, key = certificate(folder, "kafka", "IP:127.0.0.1")
    passwords = {user: f"s3cret-{user}" for user in ("operator", *USERS)}
    try:
        return JavaKafka(
            log_dir=folder, guard=Guard(certificate=chain, key=key, passwords=passwords)
        )
    except ServerStartError as error:
        missing(f"no Kafka with TLS and users: {error}")


def give_rights(kafka: JavaKafka) -> None:
    """Run ops/kafka/acls.sh as its first lines say."""
    done = subprocess.run(
        [str(ROOT / "ops" / "kafka" / "acls.sh")],
        env={**os.environ, "KAFKA_ACLS": kafka.acls_command()},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
