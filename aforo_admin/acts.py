"""What is done to something outside the catalog's database: first on the record, then done.

The two can't commit together. So the record may tell of what was not done, and then says so in a
second entry; nothing is done that it does not tell of.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeVar

from aforo_admin.control.recording import Change, Note

T = TypeVar("T")

BEGUN: Final = "begun"
FAILED: Final = "failed, or not known to be done"

NewChange = Callable[[], AbstractContextManager[Change]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that is done to a thing: to a session, a "kill"."""

    what: str
    kind: str
    name: str
    tenant_id: str

    def note(self, made: Change, *, before: str | None, after: str) -> None:
        made.notes.append(
            Note(
                kind=self.kind,
                name=self.name,
                tenant_id=self.tenant_id,
                before={self.what: before},
                after={self.what: after},
            )
        )


def do(act: Act, work: Callable[[], T | None], change: NewChange) -> T | None:
    """Record an act, do it, and record if that fails. Return what came of it.

    Args:
        act: What is done, for the record.
        work: Does it; None, or what it raises: it is not done.
        change: Begins a change by who answers for the act. Two of them may be needed.
    """
    with change() as made:
        act.note(made, before=None, after=BEGUN)
    done: T | None = None
    try:
        done = work()
    finally:
        if done is None:
            with change() as made:
                act.note(made, before=BEGUN, after=FAILED)
    return done
