"""What a test can't do without: skipped with the reason, or failed where everything is required."""

import os
from typing import Final, NoReturn

import pytest

REQUIRE_ALL: Final = "AFORO_REQUIRE_ALL"  # 1: as CI sets it.


def missing(why: object) -> NoReturn:
    """End a test for want of a server or a program.

    Args:
        why: What is missing, and what brings it.
    """
    if os.environ.get(REQUIRE_ALL) == "1":
        pytest.fail(str(why))
    pytest.skip(str(why))
