"""What a long command shows of itself."""

import io

import pytest

from aforo_meter.progress import Progress, line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "total", "share"),
    [(0, 10, "  0 %"), (5, 10, " 50 %"), (10, 10, "100 %"), (11, 10, "100 %"), (0, 0, "100 %")],
)
def test_a_line_says_how_much_is_done(done: int, total: int, share: str) -> None:
    assert line("reading", done, total, "").endswith(share)


def test_a_terminal_gets_a_bar_that_leaves_no_trace() -> None:
    out = Terminal()
    progress = Progress("reading", 10, out)

    progress.at(5, "3 events")
    progress.end()

    assert "░  50 %  3 events" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_file_gets_no_bar_and_nothing_of_what_is_quick() -> None:
    out = io.StringIO()
    progress = Progress("reading", 10, out)

    progress.at(5)
    progress.end()

    assert out.getvalue() == ""
