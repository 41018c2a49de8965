"""What is logged of a failure: where it was, and no values of variables."""

import subprocess
import sys

import pytest

FAILS = """
import structlog
from {package} import process

def work(password: str) -> None:
    raise ValueError("it does not work")

process.configure_logging("info")
try:
    work("s3cret" + "-word")
except ValueError:
    structlog.get_logger().exception("failed")
"""


@pytest.mark.parametrize("package", ["aforo_admin", "aforo_meter"])
def test_no_value_of_a_variable_is_logged(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILS.format(package=package)],
        check=True,
        capture_output=True,
        text=True,
    )

    assert "it does not work" in done.stderr
    assert "work" in done.stderr
    assert "s3cret-word" not in done.stderr
