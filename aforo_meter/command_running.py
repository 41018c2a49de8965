"""How a command that waits for others is run, and how it says that it can't go on."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from aforo_meter import process
from aforo_meter.command_arguments import FAILED, CommandError, complain
from aforo_meter.ledger import LedgerError, LedgerUnavailableError

INTERRUPTED: Final = 128 + 2


def run_async(work: Coroutine[Any, Any, int]) -> int:
    """Run a command to its end; return its exit code, and say what is wrong in one line."""
    process.configure_logging("error")
    try:
        return asyncio.run(work)
    except CommandError as error:
        return complain(str(error), FAILED)
    except (LedgerError, LedgerUnavailableError) as error:
        return complain(str(error), FAILED)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
