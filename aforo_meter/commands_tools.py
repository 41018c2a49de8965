"""What people run by hand: import, dead letters, replay, search, corrections, answers."""

from typing import Any

from aforo_meter import (
    commands_answers,
    commands_corrections,
    commands_dlq,
    commands_events,
    commands_import,
    commands_replay,
)


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add these commands to the others."""
    commands_import.add(commands)
    commands_dlq.add(commands)
    commands_replay.add(commands)
    commands_events.add(commands)
    commands_corrections.add(commands)
    commands_answers.add(commands)
