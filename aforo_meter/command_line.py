"""What every subcommand has of the command line itself: whose usage is shown, and how it ends."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

CUT_OFF: Final = 128 + 13  # As the shell tells of a program that SIGPIPE ended.


class Parser(argparse.ArgumentParser):
    """Complains with the usage of the subcommand that was asked for, not with everybody's.

    Options know the innermost parser that has read them as `parser`.
    """

    def __init__(self, **more: Any) -> None:  # noqa: ANN401 - of ArgumentParser.
        # Examples stand as they are written.
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter} | more)
        self.set_defaults(parser=self)

    # argparse lets the outermost parser complain of what none of them knows.
    def parse_known_args(  # type: ignore[override] # Its overloads are about other namespaces.
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def until_read(run: Callable[[], int]) -> int:
    """Run a command; end quietly if who reads it, `head` for one, has enough."""
    try:
        code = run()
        sys.stdout.flush()  # Else Python writes what is left at its end, and complains there.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CUT_OFF
    return code
