"""How far a command is: a bar on a terminal, else a line every few seconds. On stderr."""

import shutil
import sys
import time
from typing import Final, TextIO

BAR_EVERY_S: Final = 0.1
LINE_EVERY_S: Final = 5.0
BAR_CELLS: Final = 24


class Progress:
    """Told of totals; shows them no more often than a reader needs.

    Args:
        what: What is going on, in a word or two.
        total: What makes it whole, in whatever is counted; 0: nothing to do.
        out: Where it is shown.
    """

    def __init__(self, what: str, total: int, out: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._out = out or sys.stderr
        self._is_terminal = self._out.isatty()
        self._started_s = time.monotonic()
        self._due_s = self._started_s + (0.0 if self._is_terminal else LINE_EVERY_S)
        self._is_shown = False

    def at(self, done: int, note: str = "") -> None:
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + (BAR_EVERY_S if self._is_terminal else LINE_EVERY_S)
            self._show(line(self._what, done, self._total, note))

    def end(self) -> None:
        """Leave the terminal's line to what is said next."""
        if self._is_shown and self._is_terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()
        self._is_shown = False

    def _show(self, text: str) -> None:
        self._is_shown = True
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns
            self._out.write("\r" + text[: columns - 1] + "\x1b[K")
        else:
            self._out.write(text + "\n")
        self._out.flush()


def line(what: str, done: int, total: int, note: str) -> str:
    """Return one line: what, a bar, how much of it in percent, and a note."""
    share = min(done, total) / total if total else 1.0
    filled = int(share * BAR_CELLS)
    bar = "█" * filled + "░" * (BAR_CELLS - filled)
    return f"{what} {bar} {int(share * 100):3d} %{'  ' + note if note else ''}"
