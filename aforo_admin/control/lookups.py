"""What an address may ask a list for."""

from typing import Any, Final

from django.http import HttpRequest

# How the filters beside a list compare, and the dates above it.
COMPARISONS: Final = frozenset({"exact", "in", "isnull", "gte", "gt", "lte", "lt"})
PARTS_OF_DATES: Final = frozenset({"year", "month", "day"})
OF_ROW_THERE: Final = 2  # `id__exact`: by what a row that is pointed to is known.


class LookupsMixin:
    """A list is asked for what its filters ask for, and for nothing else.

    Django takes any column of the row with any comparison from the address. A regular expression
    among them may hold the whole process for as long as it likes, whoever wrote it; and what is
    not shown could be guessed letter by letter.
    """

    list_filter: Any
    date_hierarchy: str | None

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:  # noqa: ARG002 - Django looks for their names.
        if any(_asks(lookup, str(column), COMPARISONS) for column in self.list_filter):
            return True
        day = self.date_hierarchy
        return day is not None and _asks(lookup, day, COMPARISONS | PARTS_OF_DATES)


def _asks(lookup: str, column: str, comparisons: frozenset[str]) -> bool:
    if lookup == column:
        return True
    if not lookup.startswith(f"{column}__"):
        return False
    rest = lookup.removeprefix(f"{column}__").split("__")
    return rest[-1] in comparisons and len(rest) <= OF_ROW_THERE
