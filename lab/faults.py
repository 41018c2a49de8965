"""Kills and freezes of processes at times that follow from a seed, while something else goes on."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from lab.servers import Program


class Kind(StrEnum):
    """What is done to a process."""

    KILL = "kill"  # SIGKILL; later it is started again.
    FREEZE = "freeze"  # SIGSTOP; later SIGCONT.


SLOT_S = 5.0  # One fault of each target in each.
LASTS_S_MAX = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One process, away for a while."""

    target: str
    kind: Kind
    at_s: float
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.target} {self.kind} {self.at_s:.1f}+{self.lasts_s:.1f}"


def schedule(
    seed: int, kinds: Mapping[str, Sequence[Kind]], *, span_s: float
) -> dict[str, list[Fault]]:
    """Return what happens to each target, in order of time; each kind at least once.

    Targets know nothing of each other, so that what they suffer overlaps as it may.
    """
    found = {}
    for target, possible in kinds.items():
        # Not for secrets: the same seed is to say the same.
        random = Random(f"{seed} {target}")  # noqa: S311
        count = max(len(possible), round(span_s / SLOT_S))
        chosen = [possible[number % len(possible)] for number in range(count)]
        random.shuffle(chosen)
        slot_s = span_s / count
        found[target] = [
            Fault(
                target=target,
                kind=kind,
                at_s=number * slot_s + random.uniform(0, 0.6) * slot_s,
                lasts_s=random.uniform(0.02, min(LASTS_S_MAX, 0.7 * slot_s)),
            )
            for number, kind in enumerate(chosen)
        ]
    return found


async def nothing(_: str) -> None:
    """Look at nothing."""


@dataclass(kw_only=True)
class Faults:
    """Does to programs what a schedule says.

    Args:
        programs: By the names of the schedule's targets. They are running.
        before_kill: Told of a target that runs and will be killed.
        after_kill: Told of a target that is dead, before it starts again.
    """

    programs: Mapping[str, Program]
    before_kill: Callable[[str], Awaitable[None]] = nothing
    after_kill: Callable[[str], Awaitable[None]] = nothing
    done: list[Fault] = field(default_factory=list)  # As it happened.
    ended: list[str] = field(default_factory=list)  # Who ended without being killed.

    async def inflict(self, planned: Mapping[str, Sequence[Fault]]) -> None:
        """Do all of it; on return every program runs again, though not all may be ready."""
        started_s = time.monotonic()
        works = [self._suffer(faults, started_s) for faults in planned.values()]
        await asyncio.gather(*works)

    async def _suffer(self, faults: Sequence[Fault], started_s: float) -> None:
        for fault in faults:
            await asyncio.sleep(max(0.0, started_s + fault.at_s - time.monotonic()))
            program = self.programs[fault.target]
            self._start_if_ended(fault.target)
            at_s = time.monotonic() - started_s
            if fault.kind is Kind.KILL:
                await self.before_kill(fault.target)
                await asyncio.to_thread(program.kill)
                await self.after_kill(fault.target)
                await asyncio.sleep(fault.lasts_s)
                program.start(wait=False)
            else:
                await asyncio.to_thread(program.freeze)
                try:
                    await asyncio.sleep(fault.lasts_s)
                finally:
                    program.thaw()
            self.done.append(
                Fault(target=fault.target, kind=fault.kind, at_s=at_s, lasts_s=fault.lasts_s)
            )

    def _start_if_ended(self, target: str) -> None:
        """Start what ended by itself, as a supervisor would, and remember that it did."""
        program = self.programs[target]
        if not program.running:
            self.ended.append(f"{target}: {program.log_tail(3)}")
            program.start(wait=False)

    async def recover(self) -> None:
        """Wait until every program is ready."""
        for target, program in self.programs.items():
            self._start_if_ended(target)
            await asyncio.to_thread(program.wait_ready)
