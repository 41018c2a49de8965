"""How a wrong catalog is told: file, line, field, what is wrong, what to do."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from aforo_admin.domain.problems import Figure, Problem, place_of

CHOICES_SHOWN_MAX: Final = 30  # All built-in meters are among what can be shown.


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Fault:
    """One thing that is wrong in a file."""

    line: int  # Counted from 1; 0: the file could not be read at all.
    place: str  # Path of the field; empty: the file as such.
    message: str
    pair: tuple[Figure, Figure] | None = field(default=None, compare=False)  # As of a Problem.

    def told(self, name: str) -> str:
        line = f":{self.line}" if self.line else ""
        place = f"{self.place}: " if self.place else ""
        return f"{name}{line}: {place}{self.message}"


class CatalogError(Exception):
    """A catalog that can't be used: everything that is wrong with it.

    Args:
        name: The file's name as it should be shown.
        faults: At least one, by line.
    """

    def __init__(self, name: str, faults: Sequence[Fault]) -> None:
        self.name = name
        self.faults = tuple(faults)
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> list[str]:
        return [fault.told(self.name) for fault in self.faults]


class StoreError(Exception):
    """The catalog's database can't be used, or refuses; the message says what to do."""


class StoreAwayError(StoreError):
    """The catalog's database does not answer; it may later."""


class NoCatalogError(StoreError):
    """The database holds no catalog yet."""

    def __init__(self) -> None:
        super().__init__(
            "the database holds no catalog yet: `aforo-admin apply FILE` puts one there"
        )


class ChangedMeanwhileError(StoreError):
    """The database is no longer what differences were told from."""

    def __init__(self, *, seq: int, expected: int) -> None:
        super().__init__(
            f"the catalog is at change {seq} and no longer at {expected}: look at the differences "
            "again (apply --dry-run)"
        )


class NotAsShownError(StoreError):
    """A catalog's file is no longer the one that differences were told of."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} no longer says what it said when its differences were shown: look at them "
            "again (apply --dry-run)"
        )


def fault_of(problem: Problem) -> Fault:
    """Return a problem as it is told where there is no file."""
    return Fault(
        line=0, place=place_of(problem.path), message=message_of(problem), pair=problem.pair
    )


def message_of(problem: Problem) -> str:
    if not problem.kind:
        return problem.message
    return problem.message + advice(problem.given, kind=problem.kind, choices=problem.choices)


def advice(given: str, *, kind: str, choices: Iterable[str]) -> str:
    """Return what to add to a complaint about an unknown name: a near miss, and what there is."""
    names = list(choices)
    if not names:
        return f"; there are no {_plural(kind)}"
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    meant = f'; did you mean "{near[0]}"?' if near else ";"
    if len(names) > CHOICES_SHOWN_MAX:
        return f"{meant} there are {len(names)} {_plural(kind)}"
    return f"{meant} {_plural(kind)} are: {', '.join(names)}"


def _plural(kind: str) -> str:
    if kind.endswith("y"):
        return f"{kind[:-1]}ies"
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"
