"""Certificates for tests, made with openssl: self-signed, or signed by an authority, for a day."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.missing import missing

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def certificate(folder: Path, name: str, subject_alt_name: str) -> tuple[Path, Path]:
    """Make a self-signed certificate and its key; for such a one it is its own authority."""
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    _openssl(
        *("req", "-x509", *NEW_KEY, "-days", "1", "-subj", f"/CN={name}"),
        *("-addext", f"subjectAltName={subject_alt_name}"),
        *("-keyout", str(key), "-out", str(chain)),
    )
    return chain, key


@dataclass(frozen=True, kw_only=True)
class Authority:
    """Signs others' certificates."""

    chain: Path
    key: Path

    def certificate(self, name: str, subject_alt_name: str, *, days: int = 1) -> tuple[Path, Path]:
        """Return a certificate and its key, beside its own; with days below 0 it has expired."""
        kinds = ("pem", "key", "csr")
        chain, key, asked = (self.chain.with_name(f"{name}.{kind}") for kind in kinds)
        _openssl(
            *("req", *NEW_KEY, "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName={subject_alt_name}"),
            *("-keyout", str(key), "-out", str(asked)),
        )
        _openssl(
            *("x509", "-req", "-in", str(asked), "-copy_extensions", "copy", "-days", str(days)),
            *("-CA", str(self.chain), "-CAkey", str(self.key), "-CAcreateserial"),
            *("-out", str(chain)),
        )
        return chain, key


def authority(folder: Path, name: str = "authority") -> Authority:
    chain, key = certificate(folder, name, f"DNS:{name}")
    return Authority(chain=chain, key=key)


def _openssl(*arguments: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("no openssl to make certificates with")
    subprocess.run([openssl, *arguments], check=True, capture_output=True)
