"""The price book to be read: prices in force, what will change, and the history of one."""

from typing import Any, Final

from aforo_admin.domain.price_listing import Line, change_bp, coming_changes
from aforo_admin.screens import stores
from aforo_admin.screens.page import ROWS_PER_PAGE, ScreenView
from aforo_admin.screens.prices_reading import read_book
from aforo_meter.domain.prices import Precedence, PriceEntry

COMING_SHOWN: Final = 12
WORDS_MAX: Final = 8
WHOSE: Final = (str(Precedence.OWN), str(Precedence.BUILT_IN))


class PricesView(ScreenView):
    template_name = "control/screens/prices.html"

    def figures(self, now_micros: int) -> dict[str, Any]:
        words, whose = self.asked("q"), self.asked("whose", choices=WHOSE)
        missing = stores.Missing()
        book = stores.run(read_book(missing))
        every = book.lines if book is not None else ()
        wanted = words.lower().split()[:WORDS_MAX]
        found = [
            line
            for line in every
            if line.matches(wanted) and whose in ("", str(line.of.precedence))
        ]
        rows = found[self.skipped : self.skipped + ROWS_PER_PAGE + 1]
        coming = coming_changes(found, now_micros)
        return {
            "missing": missing.said,
            "book": book,
            "q": words,
            "whose": whose,
            "choices": WHOSE,
            "lines": len(found),
            "rows": [_row(line, now_micros) for line in rows[:ROWS_PER_PAGE]],
            "coming": [_coming(line, entry) for line, entry in coming[:COMING_SHOWN]],
            "coming_more": max(0, len(coming) - COMING_SHOWN),
            **self.pages(len(rows)),
        }


class PriceView(ScreenView):
    """One price: all that it was, is and will be."""

    template_name = "control/screens/price.html"

    def figures(self, now_micros: int) -> dict[str, Any]:
        wanted = {
            name: self.asked(name)
            for name in ("precedence", "provider", "model", "meter", "tier", "from", "to")
        }
        missing = stores.Missing()
        book = stores.run(read_book(missing))
        lines = [
            line for line in (book.lines if book is not None else ()) if _named(line) == wanted
        ]
        return {
            "missing": missing.said,
            "book": book,
            "line": lines[0] if lines else None,
            "history": _history(lines[0], now_micros) if lines else [],
        }


def _named(line: Line) -> dict[str, str]:
    """Return the fields of an address that name a line."""
    of = line.of
    return {
        "precedence": str(of.precedence),
        "provider": of.provider,
        "model": of.model,
        "meter": of.meter,
        "tier": str(of.tier_input_tokens_from),
        "from": str(of.day_from_s),
        "to": str(of.day_to_s),
    }


def _row(line: Line, now_micros: int) -> dict[str, Any]:
    coming = line.coming(now_micros)
    return {
        "line": line,
        "named": _named(line),
        "now": line.now(now_micros),
        "next": coming[0] if coming else None,
    }


def _coming(line: Line, entry: PriceEntry) -> dict[str, Any]:
    place = line.entries.index(entry)
    before = line.entries[place - 1] if place else None
    return {
        "line": line,
        "named": _named(line),
        "entry": entry,
        "before": before,
        "change_bp": change_bp(before, entry),
    }


def _history(line: Line, now_micros: int) -> list[dict[str, Any]]:
    """Return the entries of a line, the last one first."""
    now = line.now(now_micros)
    pairs = zip(line.entries, (None, *line.entries), strict=False)
    return [
        {
            "entry": entry,
            "change_bp": change_bp(before, entry),
            "first": before is None,
            "state": "now"
            if entry is now
            else "coming"
            if entry in line.coming(now_micros)
            else "past",
        }
        for entry, before in pairs
    ][::-1]
