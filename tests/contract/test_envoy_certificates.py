"""Client certificates, with the TLS settings that envoy/README.md shows."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import certificate
from tests.contract.envoy_lab import envoy_lab

pytestmark = pytest.mark.contract

IDENTITY = "spiffe://example/ns/shop/sa/acme"


async def test_the_check_is_told_whom_a_verified_certificate_names(tmp_path: Path) -> None:
    server = certificate(tmp_path, "server", "DNS:localhost")
    client = certificate(tmp_path, "client", f"URI:{IDENTITY}")

    def edit(document: dict[str, Any]) -> None:
        (listener,) = document["static_resources"]["listeners"]
        listener["filter_chains"][0]["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
                ".DownstreamTlsContext",
                "require_client_certificate": True,
                "common_tls_context": {
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(server[0])},
                            "private_key": {"filename": str(server[1])},
                        }
                    ],
                    "validation_context": {"trusted_ca": {"filename": str(client[0])}},
                },
            },
        }

    context = ssl.create_default_context(cafile=str(server[0]))
    context.load_cert_chain(*client)
    async with envoy_lab(edit=edit) as lab:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", lab.envoy.port("ingress"), ssl=context, server_hostname="localhost"
        )
        writer.write(b"GET /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n")
        writer.write(b"x-forwarded-client-cert: URI=spiffe://example/other\r\n\r\n")
        answer = await reader.read()
        writer.close()

        assert answer.startswith(b"HTTP/1.1 200")
        (check,) = lab.authz.requests
        assert check.attributes.source.principal == IDENTITY
        # Its text would be kilobytes in every check, and says nothing more to Aforo.
        assert not check.attributes.source.certificate
        assert b"spiffe://example/other" not in answer
