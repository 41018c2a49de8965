"""What tests of the doctor share: what it found, and the command as operators run it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from aforo_admin.domain.diagnosis import Finding, Seen, Severity
from lab.servers import ROOT


def found(seen: Seen | Iterable[Seen], text: str) -> Finding:
    """Return the one finding in whose words a text is."""
    parts = [seen] if isinstance(seen, Seen) else list(seen)
    findings = [finding for part in parts for finding in part.findings]
    matching = [finding for finding in findings if text in finding.what]
    assert len(matching) == 1, f"{text!r} is in {len(matching)} of {findings}"
    return matching[0]


def faults(seen: Seen) -> list[str]:
    return [each.what for each in seen.findings if each.severity is Severity.FAULT]


def assert_told(finding: Finding, severity: Severity) -> None:
    """What is wrong is told with what it means and what to do."""
    assert finding.severity is severity, finding
    assert finding.means
    assert finding.do


def doctor(
    *arguments: str, env: Mapping[str, str], timeout_s: float = 150
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "AFORO_" not in name}
    return subprocess.run(
        [sys.executable, "-m", "aforo_admin", "doctor", *arguments],
        env={**clean, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def document_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    return told
