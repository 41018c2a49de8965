"""`make fuzz`: search for what must not be, for as long as told; or repeat what was found.

python -m tests.fuzz search [--seconds S] [--seed N]
python -m tests.fuzz replay http2|check FILE …   # in order; a finding's files are its last cases
python -m tests.fuzz keep                        # new entries of build/fuzz into tests/corpus
"""

import argparse
import sys
from pathlib import Path

import psutil
import uvloop

from tests.fuzz.check_target import CheckTarget
from tests.fuzz.engine import (
    CORPUS,
    Finding,
    Search,
    Target,
    distilled,
    load,
    now_s,
    save,
)
from tests.fuzz.http2_target import Http2Target
from tests.fuzz.noted import Noted

BUILD = Path("build") / "fuzz"
TURN_S = 1.0  # The targets take turns.
TELL_EVERY_S = 15.0


async def targets() -> list[Target]:
    """Return both targets, in this process and event loop."""
    noted = Noted()
    noted.listen()
    http2 = Http2Target(noted)
    await http2.begin()
    return [http2, CheckTarget(noted)]


async def search(seconds: float, seed: int) -> int:
    """Search; return the exit code."""
    searches = [
        Search(target, load(CORPUS / target.name) + load(BUILD / "corpus" / target.name), seed)
        for target in await targets()
    ]
    started_s = told_s = now_s()
    print(f"fuzzing for {seconds:.0f} s, seed {seed}")
    current = searches[0]
    try:
        for current in searches:
            await current.begin()
        while now_s() - started_s < seconds:
            for current in searches:
                turn_s = now_s()
                while now_s() - turn_s < TURN_S:
                    await current.step()
            if now_s() - told_s > TELL_EVERY_S:
                told_s = now_s()
                print(f"{told_s - started_s:5.0f} s  {_told(searches)}", flush=True)
    except Finding as finding:
        return _report(current.target, finding, seed)
    finally:
        for each in searches:
            save(BUILD / "corpus" / each.target.name, each.found)
    print(f"clean after {now_s() - started_s:.0f} s: {_told(searches)}; no findings, seed {seed}")
    return 0


def _told(searches: list[Search]) -> str:
    each = [f"{s.target.name} {s.runs:,} runs, {len(s.found)} new entries" for s in searches]
    return f"{'; '.join(each)}; {psutil.Process().memory_info().rss >> 20} MiB"


def _report(target: Target, finding: Finding, seed: int) -> int:
    folder = BUILD / "findings" / f"{target.name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / f"{number:02}" for number in range(len(finding.cases))]
    for name, case in zip(names, finding.cases, strict=True):
        name.write_bytes(case)
    print(f"FINDING in {target.name}: {finding} {finding.__cause__ or ''}")
    print(f"the last case is {names[-1]}; the ones before it are beside it")
    print(f"repeat with: python -m tests.fuzz replay {target.name} {names[-1]}")
    return 1


async def replay(name: str, files: list[Path]) -> int:
    """Run cases in order; return the exit code."""
    (target,) = [each for each in await targets() if each.name == name]
    run = Search(target, (), 0)
    for path in files:
        print(f"{path}:", flush=True)
        try:
            print("  ", *sorted(map(str, await run.outcome(path.read_bytes()))))
        except Finding as finding:
            print(f"  FINDING: {finding}")
            return 1
    return 0


async def keep() -> int:
    """Make the corpus the smallest that reaches what all known cases reach."""
    for target in await targets():
        folder = CORPUS / target.name
        kept = await distilled(target, load(folder) + load(BUILD / "corpus" / target.name))
        for path in folder.glob("*"):
            path.unlink()
        save(folder, kept)
        print(f"{target.name}: {len(kept)} entries, {sum(map(len, kept)):,} bytes")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    searching = commands.add_parser("search")
    searching.add_argument("--seconds", type=float, default=600.0)
    searching.add_argument("--seed", type=int, default=1)
    replaying = commands.add_parser("replay")
    replaying.add_argument("target", choices=["http2", "check"])
    replaying.add_argument("files", type=Path, nargs="+")
    commands.add_parser("keep")
    told = parser.parse_args()
    if told.command == "search":
        return uvloop.run(search(told.seconds, told.seed))
    return uvloop.run(replay(told.target, told.files) if told.command == "replay" else keep())


if __name__ == "__main__":
    sys.exit(main())
