"""The search: make a case, run it, keep it if it leads somewhere new, stop at what must not be.

Guided by what a case reaches: lines of aforo_authz, one after the other, and whatever a target
says of the answers. Deterministic for a seed and a number of runs, but for the kernel's timing.
"""

import hashlib
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any, Protocol

import psutil

import aforo_authz

PACKAGE = str(Path(aforo_authz.__file__).parent)
CORPUS = Path(__file__).resolve().parent.parent / "corpus"
KEPT_BYTES_MAX = 8192  # Of one entry, while a search goes on.
CORPUS_BYTES_MAX = 120_000  # Of one target's corpus, as it is committed.
WARM_RUNS = 3000  # Caches are full, and the allocator has what it needs.
GROWTH_BYTES_MAX = 128 << 20
MEMORY_EVERY = 256
RECENT = 16


class Finding(Exception):  # noqa: N818 - what is looked for, not what went wrong here
    """What must not be, and the cases that may have led to it, the last one last."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.cases: list[bytes] = []


class Target(Protocol):
    """What is fuzzed."""

    name: str

    def fresh(self, random: Random) -> bytes:
        """Make a valid case, or nearly."""
        ...

    def mutated(self, random: Random, case: bytes, other: bytes) -> bytes: ...

    async def run(self, case: bytes) -> Iterable[Hashable]:
        """Run a case; return what is remarkable of its outcome.

        Raises:
            Finding: Something is as it must not be.
        """
        ...


class Reach:
    """Which lines of aforo_authz were reached, and from which one before."""

    def __init__(self) -> None:
        self.arcs: set[Hashable] = set()
        self._ours: dict[CodeType, bool] = {}

    @contextmanager
    def traced(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, _event: str, _value: object) -> Callable[..., Any] | None:
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            ours = self._ours[code] = code.co_filename.startswith(PACKAGE)
        return self._tracer(code) if ours else None

    def _tracer(self, code: CodeType) -> Callable[..., Any]:
        arcs, last = self.arcs, 0

        def line(frame: FrameType, event: str, _value: object) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                arcs.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line


class Search:
    """One target's search.

    Args:
        target: What is fuzzed.
        corpus: Cases to begin with.
        seed: Of everything random.
    """

    def __init__(self, target: Target, corpus: Iterable[bytes], seed: int) -> None:
        self.target = target
        self.runs = 0
        self.found: list[bytes] = []  # New entries.
        self.reached: set[Hashable] = set()
        self._known = list(corpus)
        self._random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._reach = Reach()
        self._recent: deque[bytes] = deque(maxlen=RECENT)
        self._process = psutil.Process()
        self._warm_bytes = 0

    async def begin(self) -> None:
        """Run what is known already."""
        for case in self._known:
            await self.run(case)

    async def step(self) -> None:
        """Make one case and run it."""
        random = self._random
        if not self._known or random.random() < 0.1:
            case = self.target.fresh(random)
        else:
            # What was found last leads on more often than what everything began with.
            recent = self._known[-30:] if random.random() < 0.3 else self._known
            case = self.target.mutated(random, random.choice(recent), random.choice(self._known))
        if await self.run(case) and len(case) <= KEPT_BYTES_MAX:
            self._known.append(case)
            self.found.append(case)

    async def run(self, case: bytes) -> bool:
        """Run a case; return whether it reached anything new.

        Raises:
            Finding: With the cases that were run last.
        """
        self._recent.append(case)
        self.runs += 1
        try:
            told = await self.outcome(case)
            new = (told | self._reach.arcs) - self.reached
            self._look_at_memory()
        except Finding as finding:
            finding.cases = list(self._recent)
            raise
        except Exception as error:
            broken = Finding(repr(error))
            broken.cases = list(self._recent)
            raise broken from error
        self.reached |= new
        return bool(new)

    async def outcome(self, case: bytes) -> set[Hashable]:
        """Run a case; return what is remarkable of it, but for the lines that it reached."""
        self._reach.arcs.clear()
        with self._reach.traced():
            return set(await self.target.run(case))

    def _look_at_memory(self) -> None:
        if self.runs % MEMORY_EVERY:
            return
        used = self._process.memory_info().rss
        if self.runs < WARM_RUNS:
            self._warm_bytes = used
        elif self._warm_bytes and used - self._warm_bytes > GROWTH_BYTES_MAX:
            raise Finding(f"memory grew from {self._warm_bytes >> 20} to {used >> 20} MiB")


async def distilled(target: Target, cases: Iterable[bytes]) -> list[bytes]:
    """Return the smallest cases that together reach what all do, as far as there is room."""
    search = Search(target, (), seed=0)
    in_order = sorted(set(cases), key=lambda case: (len(case), case))
    for case in in_order:
        await search.run(case)
    # Once more: what was reached the first time may be a cache that was still empty.
    search.reached.clear()
    kept, size = [], 0
    for case in in_order:
        if await search.run(case) and size + len(case) <= CORPUS_BYTES_MAX:
            kept.append(case)
            size += len(case)
    return kept


def load(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()]


def save(folder: Path, cases: Iterable[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        (folder / hashlib.sha256(case).hexdigest()[:16]).write_bytes(case)


def now_s() -> float:
    return time.monotonic()
