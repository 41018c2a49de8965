"""How far an import came: a small file beside the one that is imported, replaced as a whole."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from aforo_meter.command_arguments import CommandError
from aforo_meter.import_file import Place

VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What Kafka has of a file."""

    digest: str  # SHA-256 of the file.
    topic: str
    bootstrap: str
    offset: int = 0  # In the unpacked file: behind the last row that is settled.
    line: int = 0
    sent: int = 0
    rejected: int = 0
    rejected_bytes: int = 0  # Of the file of rejected lines: what is beyond is written again.
    checked: bool = False  # All of the file was found to be sound.
    done: bool = False

    @property
    def place(self) -> Place:
        return Place(offset=self.offset, line=self.line)


def path_of(path: Path) -> Path:
    return path.with_name(path.name + ".aforo-import")


def rejected_path_of(path: Path) -> Path:
    return path.with_name(path.name + ".rejected")


def load(path: Path, fresh: State) -> State:
    """Return where an import stands; `fresh` if it was never begun.

    Raises:
        CommandError: What was begun was another file, or goes elsewhere.
    """
    place = path_of(path)
    try:
        text = place.read_text()
    except FileNotFoundError:
        return fresh
    except OSError as error:
        raise CommandError(f"{place} can't be read: {error.strerror}") from error
    try:
        fields = json.loads(text)
        version = fields.pop("version")
        found = State(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CommandError(f"{place} is damaged; remove it to begin again: {_AGAIN}") from None
    if version != VERSION:
        raise CommandError(f"{place} is of another version of aforo-meter; go on with that")
    if found.digest != fresh.digest:
        raise CommandError(
            f"{path} is not the file that was begun at {found.line} lines: it changed; bring the"
            f" old one back, or remove {place} to import this one: {_AGAIN}"
        )
    if (found.topic, found.bootstrap) != (fresh.topic, fresh.bootstrap):
        raise CommandError(
            f"{path} was begun into {found.topic} at {found.bootstrap}; go on there,"
            f" or remove {place}"
        )
    return found


_AGAIN: Final = (
    "rows with an idempotencyKey count once, others count again if the file is not the same"
)


def save(path: Path, state: State) -> None:
    """Write down where an import stands.

    Raises:
        CommandError: It can't be written; what was sent counts once all the same.
    """
    place = path_of(path)
    fresh = place.with_name(place.name + ".new")
    try:
        fresh.write_text(json.dumps({"version": VERSION, **asdict(state)}))
        os.replace(fresh, place)  # noqa: PTH105 - both in one folder: it is there whole, or not.
    except OSError as error:
        raise CommandError(
            f"{place} can't be written: {error.strerror}; the import remembers there how far it is"
        ) from error


def moved(state: State, *, offset: int, line: int, sent: int) -> State:
    return replace(state, offset=offset, line=line, sent=state.sent + sent)
