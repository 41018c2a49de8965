"""TLS for TCP addresses: certificates from files, read again when they change."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

READABLE_BY_OTHERS = 0o004


class TlsError(Exception):
    """Files that TLS can't be served with; the message names them and the setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where the server's certificate is, and who may connect."""

    certificate: Path
    key: Path
    client_ca: Path | None = None  # Clients must show a certificate that it has signed.

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Return certificate, key and CA as they are now.

        Raises:
            TlsError: One can't be read.
        """
        try:
            client_ca = self.client_ca.read_bytes() if self.client_ca is not None else None
            return self.certificate.read_bytes(), self.key.read_bytes(), client_ca
        except OSError as error:
            raise TlsError(f"cannot read {error.filename}: {error.strerror}") from error


class Tls:
    """The context that new connections use.

    Raises:
        TlsError: The files can't be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._read = files.read()
        self.context = _context(files)
        if files.key.stat().st_mode & READABLE_BY_OTHERS:
            log.warning("the TLS key is readable by everybody: chmod 600", path=str(files.key))

    def refresh(self) -> None:
        """Use the files as they are now, for connections to come. Unusable ones change nothing."""
        try:
            found = self.files.read()
            if found == self._read:
                return
            self.context = _context(self.files)
        except TlsError as error:
            log.error("new TLS files can't be used; the old ones serve", error=str(error))
            return
        self._read = found
        log.info("TLS files were read again", certificate=str(self.files.certificate))


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(
            f"AFORO_AUTHZ_TLS_CERTIFICATE={files.certificate}, AFORO_AUTHZ_TLS_KEY={files.key}:"
            f" not a PEM certificate with its own key ({_plain(error)})"
        ) from error
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(
                f"AFORO_AUTHZ_TLS_CLIENT_CA={files.client_ca}: no PEM certificates"
                f" ({_plain(error)})"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _plain(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
