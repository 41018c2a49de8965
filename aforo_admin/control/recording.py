"""Who changes the catalog, why, and what: the one way for a change to reach the database.

A change takes the head's row first, so there is one writer at a time; its entries, the counter that
sync follows, and what it wrote are committed together, or not at all.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from django.db import transaction

MASKED_CHARS_KEPT: Final = 8
OF_NOBODY: Final = ""  # The tenant of what is about no tenant.


class Source(StrEnum):
    """The way by which a change came."""

    UI = "ui"
    REST = "rest"
    YAML = "yaml"
    SHELL = "shell"


class UnrecordedError(Exception):
    """A change for which nobody answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What happened to one row. Of a changed row, only the columns that differ."""

    kind: str
    name: str
    tenant_id: str
    before: dict[str, Any] | None  # None: there was no such row.
    after: dict[str, Any] | None  # None: there is none now.


@dataclass(slots=True, kw_only=True)
class Change:
    """Rows that change together."""

    actor: str
    source: Source
    reason: str
    at: datetime
    notes: list[Note] = field(default_factory=list)
    # Of tables of others: how to compare what was there with what is, as the change ends.
    compared: dict[object, Callable[[], Note | None]] = field(default_factory=dict)

    def note(self, row: Any, *, before: Any, after: Any) -> None:
        if before is not None and after is not None:
            differing = [name for name in after if before[name] != after[name]]
            if not differing:
                return
            before = {name: before[name] for name in differing}
            after = {name: after[name] for name in differing}
        kind = row._meta.verbose_name
        self.notes.append(
            Note(kind=kind, name=str(row), tenant_id=row.tenant_key, before=before, after=after)
        )

    def compare(self, key: object, note: Callable[[], Note | None]) -> None:
        """Have something compared as the change ends; the first who asks knows how it was."""
        self.compared.setdefault(key, note)

    def end(self) -> None:
        self.notes += [note for each in self.compared.values() if (note := each()) is not None]

    @property
    def tenants(self) -> frozenset[str]:
        """Whose rows have changed; OF_NOBODY among them: what is of no tenant has."""
        return frozenset(note.tenant_id for note in self.notes)


_current: ContextVar[Change | None] = ContextVar("change", default=None)


def current() -> Change:
    """Return the change that is under way.

    Raises:
        UnrecordedError: There is none.
    """
    change = _current.get()
    if change is None:
        raise UnrecordedError(
            "who changes this, and why? Do it within aforo_admin.store.change(actor=…, source=…)"
        )
    return change


@contextlib.contextmanager
def recorded(
    *,
    actor: str,
    source: Source,
    reason: str,
    lock: Callable[[], None],
    finish: Callable[[Change], None],
) -> Iterator[Change]:
    """Make changes in one transaction.

    Args:
        actor: Who answers for it.
        source: From where.
        reason: Why, in their words; may be empty.
        lock: Waits for other changes to end.
        finish: Checks the change and writes its record, before the commit. What it raises undoes
            the change.
    """
    if _current.get() is not None:
        raise UnrecordedError("a change is under way already: they can't be nested")
    with transaction.atomic():
        lock()
        # Only now: times in the record follow each other as the changes did.
        change = Change(actor=actor, source=source, reason=reason, at=datetime.now(UTC))
        token = _current.set(change)
        try:
            yield change
            change.end()
        finally:
            _current.reset(token)
        if change.notes:
            finish(change)


def told(value: Any, *, masked: bool) -> Any:
    """Return a column's value as the record keeps it, in JSON's terms."""
    if masked and value:
        return f"{str(value)[:MASKED_CHARS_KEPT]}…"
    return value.isoformat() if isinstance(value, datetime) else value
