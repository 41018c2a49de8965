"""Apache Kafka itself, in KRaft mode: the broker that keeps over SIGKILL what it acknowledged.

It needs `java`, and the jars of a release: those in the folder that AFORO_TEST_KAFKA_JARS names
(`libs` of a Kafka that was unpacked somewhere), else Maven fetches them once into build/kafka.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.ports import free_port
from lab.servers import (
    ROOT,
    KafkaProgram,
    ServerStartError,
    accepts_tcp,
    scratch_dir,
)

VERSION = "4.0.0"
FETCH_S_MAX = 240.0
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>aforo.lab</groupId><artifactId>kafka</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
    <version>{VERSION}</version>
  </dependency><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
    <version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""
# One of all, quick to start, quick to notice who is gone: this is one machine.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners={listener}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={listener}://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map={listener}:{listener},CONTROLLER:PLAINTEXT
inter.broker.listener.name={listener}
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={data}
log.index.size.max.bytes=1048576
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=2
"""
# Over TLS only, who logs in only, and only what ACLs allow. The controller asks as nobody, on
# loopback.
GUARDED = """\
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required \
username="{operator}" password="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={certificate}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{operator};User:ANONYMOUS
"""
JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
CLUSTER_ID = "QWZvcm8tbGFiLWthZmthMQ"  # 16 bytes, as Kafka wants.


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Who may come, and what the broker shows them."""

    certificate: Path
    key: Path
    passwords: Mapping[str, str]  # By user. The first may do everything.

    @property
    def operator(self) -> str:
        return next(iter(self.passwords))

    def properties(self, home: Path) -> str:
        keystore = home / "keystore.pem"
        keystore.write_text(self.key.read_text() + self.certificate.read_text())
        return GUARDED.format(
            operator=self.operator,
            password=self.passwords[self.operator],
            keystore=keystore,
            certificate=self.certificate,
        )

    def users(self) -> list[str]:
        """Return the arguments by which users are there from the first moment."""
        return [
            part
            for user, password in self.passwords.items()
            for part in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]")
        ]


class JavaKafka(KafkaProgram):
    """One broker with its controller, on a directory of its own.

    Args:
        log_dir: Where all of it is.
        guard: TLS, users and ACLs; None: everybody may do everything.

    Raises:
        ServerStartError: There is no Java, or there are no jars and no way to fetch them.
    """

    knows_idempotence = True
    outlives_kill = True

    def __init__(self, *, log_dir: Path | None = None, guard: Guard | None = None) -> None:
        home = log_dir or scratch_dir("kafka-java")
        port = free_port()
        properties = home / "kafka.properties"
        properties.write_text(
            PROPERTIES.format(
                listener="SASL_SSL" if guard else "PLAINTEXT",
                port=port,
                controller_port=free_port(),
                data=(home / "kafka-data").as_posix(),
            )
            + (guard.properties(home) if guard else "")
        )
        java = shutil.which("java")
        if java is None:
            raise ServerStartError("no Kafka that outlives a kill: it needs java")
        run = [java, *JVM, "-cp", f"{jars()}/*"]
        format_ = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)]
        done = subprocess.run(
            [*run, *format_, *(guard.users() if guard else [])],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        if done.returncode != 0:
            raise ServerStartError(f"kafka can't format its directory:\n{done.stderr}")
        super().__init__(
            "kafka",
            [*run, "kafka.Kafka", str(properties)],
            port=port,
            ready=lambda: accepts_tcp(port),
            log_dir=home,
        )
        self._home = home
        self._guard = guard
        self._run = run

    @property
    def bootstrap(self) -> str:
        return self.as_user(self._guard.operator) if self._guard else super().bootstrap

    def as_user(self, user: str) -> str:
        """Return where it is for one of its users, whose password is put into a file."""
        assert self._guard is not None, "who may do everything is nobody"
        file = self._home / f"kafka-{user}.password"
        file.write_text(self._guard.passwords[user] + "\n")
        return (
            f"kafkas://{user}@{super().bootstrap}?password_file={file}"
            f"&ssl_ca_certs={self._guard.certificate}"
        )

    def acls_command(self) -> str:
        """Return how `kafka-acls.sh` is run here, as the operator."""
        assert self._guard is not None, "there are no ACLs"
        config = self._home / "operator.properties"
        config.write_text(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n"
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required"
            f' username="{self._guard.operator}"'
            f' password="{self._guard.passwords[self._guard.operator]}";\n'
            f"ssl.truststore.type=PEM\nssl.truststore.location={self._guard.certificate}\n"
        )
        where = f"--bootstrap-server {super().bootstrap} --command-config {config}"
        return f"{' '.join(self._run)} org.apache.kafka.tools.AclCommand {where}"


def jars() -> Path:
    """Return the folder of Kafka's jars; fetch them if they are not there.

    Raises:
        ServerStartError: That is not possible; the message says why.
    """
    named = os.environ.get("AFORO_TEST_KAFKA_JARS")
    if named:
        return Path(named)
    folder = ROOT / "build" / "kafka"
    libs = folder / f"libs-{VERSION}-with-tools"
    if libs.exists():
        return libs
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerStartError(
            "no Kafka that outlives a kill: it needs mvn, which fetches it, or"
            " AFORO_TEST_KAFKA_JARS: the libs of one that is there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # Others wait, and find them.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return libs if libs.exists() else _fetched(maven, folder, libs)


def _fetched(maven: str, folder: Path, libs: Path) -> Path:
    (folder / "pom.xml").write_text(POM)
    fresh = folder / f"fetching-{os.getpid()}"
    try:
        subprocess.run(
            [maven, "-q", "-B", PLUGIN, f"-DoutputDirectory={fresh}"],
            cwd=folder,
            capture_output=True,
            check=True,
            timeout=FETCH_S_MAX,
        )
        fresh.rename(libs)  # Whole, or not there.
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise ServerStartError(f"mvn could not fetch Kafka {VERSION}: {error}") from error
    return libs
