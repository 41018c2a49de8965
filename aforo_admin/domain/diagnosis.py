"""What is wrong with an installation: findings, and what follows when parts are compared."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Final

SECOND_MICROS: Final = 1_000_000
SKEW_WARNING_MICROS: Final = 1 * SECOND_MICROS
SKEW_FAULT_MICROS: Final = 60 * SECOND_MICROS


class Severity(StrEnum):
    """How bad a finding is, the worst last."""

    OK = "ok"
    SKIPPED = "skipped"  # It could not be looked at, or nobody said where it is.
    WARNING = "warning"  # It works, and will not for long, or not in every case.
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    part: str  # "redis", "kafka", … or the name of a process.
    severity: Severity
    what: str  # What was seen.
    means: str = ""  # What follows from it; empty if nothing does.
    do: str = ""  # What an operator does about it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What time a part has, beside ours."""

    part: str
    ahead_micros: int  # Of ours; negative: behind.
    unsure_micros: int  # The true difference is within so much of it.


@dataclass(slots=True)
class Seen:
    """What a look at one part brought back."""

    part: str
    findings: list[Finding] = field(default_factory=list)
    clocks: list[Clock] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)  # Of servers, by part.
    builds: dict[str, str] = field(default_factory=dict)  # Of Aforo, by process.
    # Of the usage topic: partition → the first offset that there is, and the next one.
    offsets: dict[int, tuple[int, int]] = field(default_factory=dict)
    # Partition → the next offset that the ledger wants; None: no ledger was read.
    positions: dict[int, int] | None = None
    # Partition → until when its usage is in the margins, Unix time.
    confirmed: dict[int, int] = field(default_factory=dict)

    def ok(self, what: str) -> None:
        self._add(Severity.OK, what)

    def skipped(self, what: str, do: str = "") -> None:
        self._add(Severity.SKIPPED, what, do=do)

    def warning(self, what: str, means: str, do: str) -> None:
        self._add(Severity.WARNING, what, means, do)

    def fault(self, what: str, means: str, do: str) -> None:
        self._add(Severity.FAULT, what, means, do)

    def _add(self, severity: Severity, what: str, means: str = "", do: str = "") -> None:
        self.findings.append(
            Finding(part=self.part, severity=severity, what=what, means=means, do=do)
        )


def compare(parts: Iterable[Seen], *, own_build: str) -> Seen:
    """Return what shows only when parts are laid side by side."""
    parts = list(parts)
    seen = Seen("together")
    _compare_clocks(seen, [clock for part in parts for clock in part.clocks])
    builds = {name: build for part in parts for name, build in part.builds.items()}
    _compare_builds(seen, builds, own_build)
    offsets = {number: ends for part in parts for number, ends in part.offsets.items()}
    for part in parts:
        if part.positions is not None and offsets:
            _compare_positions(seen, part.positions, offsets)
        if part.confirmed and (silent := sorted(set(offsets) - set(part.confirmed))):
            seen.warning(
                f"no consume confirms margins of partitions {', '.join(map(str, silent))}",
                "their tenants' margins go stale, and block nobody then",
                "is every consume of the group up? its log says which partitions it has",
            )
    return seen


def _compare_clocks(seen: Seen, clocks: list[Clock]) -> None:
    apart = list(_apart([Clock(part="this machine", ahead_micros=0, unsure_micros=0), *clocks]))
    for one, other, micros in apart:
        (seen.fault if micros >= SKEW_FAULT_MICROS else seen.warning)(
            f"the clocks of {one} and {other} are {_seconds(micros)} apart or more",
            "usage counts in a wrong hour or period, quotas begin at different times, and ages"
            " (of margins, of the last sync) are wrong by as much",
            "let the machines follow one time server: chronyc tracking, or timedatectl",
        )
    if clocks and not apart:
        names = ", ".join(clock.part for clock in clocks)
        seen.ok(f"clocks agree within {_seconds(SKEW_WARNING_MICROS)}: {names}")


def _apart(clocks: list[Clock]) -> Iterator[tuple[str, str, int]]:
    """Yield pairs that surely disagree, and by how much at least."""
    for one, other in combinations(clocks, 2):
        unsure_micros = one.unsure_micros + other.unsure_micros
        micros = abs(one.ahead_micros - other.ahead_micros) - unsure_micros
        if micros >= SKEW_WARNING_MICROS:
            yield one.part, other.part, micros


def _seconds(micros: int) -> str:
    return f"{micros // SECOND_MICROS} s"


def _compare_builds(seen: Seen, builds: Mapping[str, str], own_build: str) -> None:
    others = {name: build for name, build in builds.items() if build != own_build}
    if others:
        told = ", ".join(f"{name} {build}" for name, build in sorted(others.items()))
        seen.warning(
            f"not all are aforo {own_build}, as this command is: {told}",
            "fine during an upgrade, in any order; afterwards the older ones lack what it brought",
            "finish the upgrade: restart what is older",
        )
    elif builds:
        seen.ok(f"aforo {own_build} everywhere: {', '.join(sorted(builds))}")


def _compare_positions(
    seen: Seen, positions: Mapping[int, int], offsets: Mapping[int, tuple[int, int]]
) -> None:
    behind = 0
    for partition, (first, end) in sorted(offsets.items()):
        wanted = positions.get(partition, 0)
        behind += max(end - max(wanted, first), 0)
        if wanted < first and partition in positions:
            seen.fault(
                f"partition {partition}: the ledger wants offset {wanted}, Kafka begins at {first}",
                f"{first - wanted} records went by before they were charged: consume stops",
                "is there a copy of them? docs/operations.md, “A position that Kafka no longer"
                " has”; then raise the topic's retention.ms",
            )
        elif wanted > end:
            seen.fault(
                f"partition {partition}: the ledger wants offset {wanted}, Kafka ends at {end}",
                "the topic was made anew, or this is another Kafka's ledger: consume stops",
                "does consume have the bootstrap and the ledger that belong together?",
            )
    for partition in sorted(set(positions) - set(offsets)):
        seen.fault(
            f"the ledger has a position of partition {partition}, which Kafka has not",
            "this is another Kafka's ledger, or the topic was made anew",
            "does consume have the bootstrap and the ledger that belong together?",
        )
    seen.ok(f"{behind} records are in Kafka and not yet in the ledger")


def worst(findings: Iterable[Finding]) -> Severity:
    """Return how bad the worst finding is."""
    order = list(Severity)
    return max((each.severity for each in findings), key=order.index, default=Severity.OK)
