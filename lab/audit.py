"""`make audit`: does anybody know a weakness of what constraints.txt pins?

Who can't be asked is told apart from who has said yes: without a network the rest of `make check`
still says something. AUDIT=required, as in CI, takes no silence for an answer.
"""

import json
import os
import subprocess
import sys
from typing import Any

from lab.servers import ROOT

OK, FAILED = 0, 1
COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--requirement", str(ROOT / "constraints.txt")),
    # The file is the whole list: nothing is installed, and no dependency is worked out.
    *("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"),
)


def main() -> int:
    required = os.environ.get("AUDIT") == "required"
    asked = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    try:
        report = json.loads(asked.stdout)
    except ValueError:
        return unheard(asked.stderr, required=required)
    return judged(report, required=required)


def judged(report: dict[str, Any], *, required: bool) -> int:
    """Say what a report says, and whether that will do. A skipped package is one not audited."""
    packages = report["dependencies"]
    skipped = [package for package in packages if "skip_reason" in package]
    found = weaknesses(report)
    print("\n".join(found) or f"{len(packages) - len(skipped)} packages: no known weakness")
    if skipped:
        return (
            FAILED if found else unheard(skipped[0]["skip_reason"], len(skipped), required=required)
        )
    return FAILED if found else OK


def weaknesses(report: dict[str, Any]) -> list[str]:
    """Return a line for each that is known: what has it, and what repairs it."""
    return [
        f"{package['name']} {package['version']}: {each['id']}; "
        f"repaired in {', '.join(each['fix_versions']) or 'no version yet'}"
        for package in report["dependencies"]
        for each in package.get("vulns", ())
    ]


def unheard(why: str, count: int = 0, *, required: bool) -> int:
    last = why.strip().splitlines()[-1:] or ["no answer"]
    print(f"NOT AUDITED ({count or 'all'} packages): {last[0]}", file=sys.stderr)
    return FAILED if required else OK


if __name__ == "__main__":
    sys.exit(main())
