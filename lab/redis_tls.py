"""What a Redis needs to speak TLS: certificates, and a server that can. The wheel's speaks none."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.servers import ServerStartError


@dataclass(frozen=True, kw_only=True)
class RedisTls:
    """What a server shows, whom it believes, and whether its clients have to prove who they are.

    Servers of one topology show each other the same.
    """

    authority: Path
    chain: Path
    key: Path
    clients_prove: bool = False

    def settings(self, port: int) -> Mapping[str, str]:
        """Return a server's settings, as its configuration file names them."""
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": str(self.chain),
            "tls-key-file": str(self.key),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": "yes" if self.clients_prove else "no",
            "tls-replication": "yes",
            "tls-cluster": "yes",
        }

    def client(self) -> dict[str, Any]:
        """Return what redis-py is told, to come as a server of the same topology would."""
        files = {"certfile": self.chain, "keyfile": self.key, "ca_certs": self.authority}
        return {"ssl": True, **{f"ssl_{name}": str(file) for name, file in files.items()}}

    def query(self) -> str:
        """Return what a URL says of it."""
        return f"ssl_ca_certs={self.authority}"


def redis_with_tls() -> Path:
    """Return the program of AFORO_TEST_REDIS_TLS_BIN, or of Debian's package.

    Raises:
        ServerStartError: There is none.
    """
    named = os.environ.get("AFORO_TEST_REDIS_TLS_BIN") or shutil.which("redis-server")
    if named is None:
        raise ServerStartError(
            "no Redis that speaks TLS: install the package redis-server, or set"
            " AFORO_TEST_REDIS_TLS_BIN to such a program"
        )
    return Path(named)
