"""What came of a command of ours is told as one error, so that who plays rounds catches one."""

import pytest

from lab.stack import StackCommandError, run_aforo


def test_a_command_that_does_not_end_in_time_has_failed() -> None:
    with pytest.raises(StackCommandError, match="aforo_meter --help did not end within"):
        run_aforo("aforo_meter", "--help", within_s=0.001)


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(StackCommandError, match=r"(?s)aforo_meter nonsense ended with 2.*nonsense"):
        run_aforo("aforo_meter", "nonsense")
