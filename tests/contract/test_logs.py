"""One schema for the log of every process (docs/log.schema.json), and nothing secret in it."""

import json
import subprocess
import sys
from typing import Any

import fastjsonschema
import pytest

from lab.servers import ROOT

pytestmark = pytest.mark.contract

SCHEMA = ROOT / "docs" / "log.schema.json"
PACKAGES = ("aforo_authz.log", "aforo_meter.process", "aforo_admin.process")
# A fault while a secret is in a variable; and what a library says.
FAULT = """
import importlib, logging, sys, structlog
importlib.import_module(sys.argv[1]).configure_logging("info")

def fail(password):
    raise ValueError("the words of the error")

try:
    fail("s3cr3t")
except ValueError:
    structlog.get_logger().exception("it broke", tenant="acme")
logging.getLogger("a.library").critical("it says %s", "so")
"""


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_fault_is_told_by_its_text_and_place_and_never_with_the_values_there(
    package: str,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULT, package],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    valid = fastjsonschema.compile(json.loads(SCHEMA.read_text()))
    ours, librarys = (valid(line) for line in lines_of(done.stderr))

    assert (ours["event"], ours["level"], ours["tenant"]) == ("it broke", "error", "acme")
    assert "ValueError: the words of the error" in ours["exception"]
    assert "s3cr3t" not in ours["exception"].replace('fail("s3cr3t")', "")
    assert (librarys["event"], librarys["level"]) == ("it says so", "critical")
