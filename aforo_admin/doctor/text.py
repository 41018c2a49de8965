"""What was found, for people and for programs."""

import json
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from aforo_admin.domain.diagnosis import Finding, Seen, Severity, worst

COLUMNS: Final = 100
INDENT: Final = 20
SHOWN: Final = {Severity.FAULT: "FAULT", Severity.WARNING: "warning"}


def for_people(parts: Sequence[Seen]) -> str:
    """Return a line for what is well, and for what is not: what it means, and what to do."""
    findings = _findings(parts)
    lines = [line for finding in findings for line in _lines(finding)]
    return "\n".join([*lines, "", _sum(findings)])


def for_programs(parts: Sequence[Seen], *, own_build: str, at: datetime) -> str:
    """Return all as JSON: the fields of a finding are those of `Finding`."""
    findings = _findings(parts)
    document = {
        "at": at.isoformat(),
        "aforo": own_build,
        "worst": worst(findings),
        "versions": {name: told for part in parts for name, told in part.versions.items()},
        "builds": {name: told for part in parts for name, told in part.builds.items()},
        "findings": [
            {
                "part": each.part,
                "severity": each.severity,
                "what": each.what,
                "means": each.means,
                "do": each.do,
            }
            for each in findings
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _findings(parts: Sequence[Seen]) -> list[Finding]:
    return [finding for part in parts for finding in part.findings]


def _lines(finding: Finding) -> list[str]:
    head = f"{SHOWN.get(finding.severity, finding.severity):<8}{finding.part:<12}"
    lines = _wrapped(head, finding.what)
    if finding.means:
        lines += _wrapped(" " * (INDENT - 8) + "means   ", finding.means)
    if finding.do:
        lines += _wrapped(" " * (INDENT - 8) + "do      ", finding.do)
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        COLUMNS,
        initial_indent=head,
        subsequent_indent=" " * INDENT,
        break_long_words=False,  # An address stays one.
        break_on_hyphens=False,
    )


def _sum(findings: Sequence[Finding]) -> str:
    counts = dict.fromkeys(Severity, 0)
    for each in findings:
        counts[each.severity] += 1
    told = ", ".join(
        f"{count} {name}{'' if count == 1 else 's'}"
        for name, count in (
            ("fault", counts[Severity.FAULT]),
            ("warning", counts[Severity.WARNING]),
        )
    )
    return f"{counts[Severity.OK]} well, {told}; {counts[Severity.SKIPPED]} not looked at"
