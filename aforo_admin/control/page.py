"""What all pages beside the forms share: who may see them, and their frame."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.mixins import PermissionRequiredMixin
from django.views.generic import TemplateView

from aforo_admin.control.navigation import Page


class PageView(PermissionRequiredMixin, TemplateView):
    """One page. Its template extends control/page.html and fills the blocks lead and content."""

    page: Page | None = None  # Its line in navigation, which urls() gives it.
    raise_exception = True  # Who has logged in and may not see it is told so, not asked again.

    def get_permission_required(self) -> tuple[str, ...]:
        return (self._line.permission,)

    def get_context_data(self, **given: Any) -> dict[str, Any]:
        self.request.current_app = admin.site.name
        shared = admin.site.each_context(self.request)
        return {**super().get_context_data(**given), **shared, "title": self._line.title, **given}

    @property
    def _line(self) -> Page:
        assert self.page is not None, "urls() gives it"
        return self.page
