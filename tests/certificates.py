"""Certificates for tests, made with openssl: self-signed, for a day."""

import shutil
import subprocess
from pathlib import Path

import pytest


def certificate(folder: Path, name: str, subject_alt_name: str) -> tuple[Path, Path]:
    """Make a self-signed certificate and its key; for such a one it is its own authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName={subject_alt_name}"),
            *("-keyout", str(key), "-out", str(chain)),
        ],
        check=True,
        capture_output=True,
    )
    return chain, key
