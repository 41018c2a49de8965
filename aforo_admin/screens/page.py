"""What the pages share that show figures: their frame, a part that renews itself, and time."""

from typing import Any, Final

from django.http import HttpRequest
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from aforo_admin.control.page import PageView
from aforo_admin.screens import stores

FRAGMENT: Final = "X-Aforo-Fragment"  # The script asks with it for the renewed part alone.
ROWS_PER_PAGE: Final = 50
SKIPPED_MAX: Final = 10_000_000
DIGITS_MAX: Final = 18


@method_decorator(never_cache, name="dispatch")
class ScreenView(PageView):
    """A page of figures. Its template extends `frame` and fills the block live."""

    refresh_s = 0  # How often its part is renewed; 0: only when somebody asks.

    def get_context_data(self, **given: Any) -> dict[str, Any]:
        fragment = FRAGMENT in self.request.headers
        now_micros = stores.now_micros()
        shown = {
            "frame": f"control/screens/{'fragment' if fragment else 'screen'}.html",
            "refresh_s": self.refresh_s,
            "now_micros": now_micros,
            **self.figures(now_micros),
        }
        return super().get_context_data(**given | shown)

    def figures(self, now_micros: int) -> dict[str, Any]:
        """Return what the page shows; `missing` says what could not be read."""
        raise NotImplementedError

    def asked(self, name: str, *, choices: tuple[str, ...] = ()) -> str:
        """Return a field of the address, if it is one of the choices."""
        value = self.request.GET.get(name, "").strip()
        return value if not choices or value in choices else ""

    def asked_number(self, name: str) -> int | None:
        """Return a number of the address, as far as databases count; None: it has none."""
        text = self.asked(name)
        return int(text[:DIGITS_MAX]) if text.isascii() and text.isdecimal() else None

    @property
    def skipped(self) -> int:
        """Return how many rows come before this page."""
        return min(self.asked_number("skip") or 0, SKIPPED_MAX)

    def pages(self, found: int) -> dict[str, str]:
        """Return the addresses of the pages before and after, of rows in an order.

        Args:
            found: How many rows were read: one more than a page has, if there are more.
        """
        after = self.skipped + ROWS_PER_PAGE if found > ROWS_PER_PAGE else None
        before = max(0, self.skipped - ROWS_PER_PAGE) if self.skipped else None
        return {
            name: self.address(skip=str(skip))
            for name, skip in (("previous", before), ("next", after))
            if skip is not None
        }

    def address(self, **changed: str) -> str:
        """Return this page's address with some of its fields changed."""
        query = self.request.GET.copy()
        for name, value in changed.items():
            query[name] = value
        return f"?{query.urlencode()}"


def may(request: HttpRequest, permission: str) -> bool:
    """Return whether whoever asks may do that."""
    return bool(request.user.has_perm(permission))
