"""Where Kafka is and as whom to go there, in one text that holds no secret.

`host:port,host:port`, or a URL where TLS or a login is wanted. A password stands in a file only, so
the text can be shown in logs, messages and lists of processes. The file is read with each
connection: a new password needs no restart.
"""

import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

FORMS: Final = (
    "expected host:port,host:port, or kafkas://user@host:port,host:port?password_file=/path"
    "&ssl_ca_certs=/path (kafka://… without TLS)"
)
MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
FILES: Final = ("password_file", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
OPTIONS: Final = (*FILES, "sasl_mechanism", "ssl_check_hostname")
PORT_MAX: Final = 65535
REMEDIES: Final = (  # By what aiokafka logs of a connection that failed.
    ("SaslAuthenticationFailed", "check user@, and what stands in password_file"),
    ("UnsupportedSaslMechanism", "set sasl_mechanism to one that the broker takes"),
    ("WRONG_VERSION_NUMBER", "there is no TLS at this port: write kafka://"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "name the file of the authority that signed the broker's certificate: ssl_ca_certs=/path",
    ),
    (
        "closed",
        "brokers that want TLS or a login end others: kafkas://user@host:port?password_file=/path",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPlace:
    """Brokers to begin with, and how to speak to them."""

    brokers: str  # host:port, separated by commas.
    secure: bool = False
    user: str = ""  # Empty: as nobody, or as the certificate says.
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def mechanism(self) -> str:
        return self.options.get("sasl_mechanism", MECHANISMS[0])


def parse(text: str) -> KafkaPlace:
    """Read where Kafka is; no file is opened.

    Raises:
        ValueError: It says what is wrong. A password in the text is not quoted.
    """
    scheme, separator, rest = text.rpartition("://")
    if not separator:
        return KafkaPlace(brokers=_brokers(text))
    if scheme not in {"kafka", "kafkas"}:
        raise ValueError(FORMS)
    where, _, query = rest.partition("?")
    user, _, brokers = where.rpartition("@")
    if ":" in user:
        raise ValueError(
            "a password does not belong here, where logs and lists of processes show it: write it"
            " to a file, and kafkas://user@host:port?password_file=/path"
        )
    try:
        options = dict(parse_qsl(query, strict_parsing=bool(query)))
    except ValueError:
        raise ValueError(FORMS) from None
    place = KafkaPlace(
        brokers=_brokers(brokers.rstrip("/")),
        secure=scheme == "kafkas",
        user=unquote(user),
        options=options,
    )
    _check(place)
    return place


def checked(text: str) -> str:
    """Return the text if it can be used now, with the files that it names.

    Raises:
        ValueError: It says what is wrong.
    """
    try:
        client_options(text)
    except OSError as error:
        raise ValueError(str(error)) from None
    return text


def client_options(text: str) -> dict[str, Any]:
    """Return what aiokafka's clients are told of where, how, and as whom.

    Raises:
        ValueError: It is not written as such.
        OSError: A file that it names can't be read; the message names the option.
    """
    place = parse(text)
    said: dict[str, Any] = {"bootstrap_servers": place.brokers}
    if place.secure or place.user:
        layers = ("SASL_" if place.user else "") + ("SSL" if place.secure else "PLAINTEXT")
        said["security_protocol"] = layers
    if place.secure:
        said["ssl_context"] = _tls(place.options)
    if place.user:
        said |= {
            "sasl_mechanism": place.mechanism,
            "sasl_plain_username": place.user,
            "sasl_plain_password": _password(Path(place.options["password_file"])),
        }
    return said


async def start(client: Any) -> None:  # noqa: ANN401 - aiokafka ships no types.
    """Start one of aiokafka's clients. An error carries, as a note, why no broker could be reached.

    aiokafka only logs that: a wrong password, and a certificate that nobody knows, would look as if
    Kafka were away.
    """
    ears = _Ears(level=logging.ERROR)
    theirs = logging.getLogger("aiokafka")
    theirs.addHandler(ears)
    try:
        await client.start()
    except Exception as error:
        if ears.heard:
            error.add_note(_explanation(ears.heard))
        raise
    finally:
        theirs.removeHandler(ears)


async def settings_of(admin: Any, topic: str) -> dict[str, str]:  # noqa: ANN401 - as above.
    """Return a topic's settings in force; nothing if we may not see them."""
    # All settings are read by this module, and whoever needs no Kafka does without its client.
    from aiokafka.admin.config_resource import (  # noqa: PLC0415
        ConfigResource,
        ConfigResourceType,
    )

    asked = ConfigResource(ConfigResourceType.TOPIC, topic)
    return {
        str(entry[0]): str(entry[1])
        for response in await admin.describe_configs([asked])
        for code, _message, _type, _name, entries in response.resources
        if not code
        for entry in entries
    }


def told(error: BaseException) -> str:
    """Return an error's words, with what `start` has noted."""
    words = str(error) or type(error).__name__
    return " ".join([words, *getattr(error, "__notes__", ())])


class _Ears(logging.Handler):
    heard = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.heard = record.getMessage()


def _explanation(heard: str) -> str:
    remedy = next((remedy for sign, remedy in REMEDIES if sign in heard), "")
    return f"({heard}{'; ' if remedy else ''}{remedy})"


def _check(place: KafkaPlace) -> None:
    unknown = sorted(place.options.keys() - set(OPTIONS))
    if unknown:
        raise ValueError(f"unknown options {unknown}; there are {', '.join(OPTIONS)}")
    if place.mechanism not in MECHANISMS:
        raise ValueError(f"sasl_mechanism: expected one of {', '.join(MECHANISMS)}")
    if bool(place.user) != ("password_file" in place.options):
        raise ValueError("user@ and password_file belong together: as whom, and how it is proved")
    if "sasl_mechanism" in place.options and not place.user:
        raise ValueError("sasl_mechanism says how a user logs in: write user@ before the hosts")
    if not place.secure and any(name.startswith("ssl_") for name in place.options):
        raise ValueError("ssl_… needs TLS: write kafkas://")
    if not place.secure and place.user and place.mechanism == "PLAIN":
        raise ValueError("PLAIN sends the password as it is: write kafkas://, or use SCRAM-SHA-512")


def _brokers(text: str) -> str:
    for part in text.split(","):
        found = re.fullmatch(r"\s*[^\s:/@]+:(\d{1,5})\s*|\s*\[[0-9a-fA-F:]+\]:(\d{1,5})\s*", part)
        if not found or not 0 < int(found[1] or found[2]) <= PORT_MAX:
            shown = "" if "@" in part else f"{part!r} is not host:port; "
            raise ValueError(f"{shown}{FORMS}")
    return text


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise OSError(f"ssl_ca_certs, ssl_certfile or ssl_keyfile: {error}") from None
    if options.get("ssl_check_hostname", "true").lower() in {"false", "no", "0"}:
        context.check_hostname = False
    return context


def _password(file: Path) -> str:
    try:
        password = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise OSError(f"password_file {file}: {why}") from None
    if not password:
        raise OSError(f"password_file {file} is empty")
    return password
