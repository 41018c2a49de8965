"""One caller who names another tool in every call, beside one who does not.

Access-log entries go into a real ship, over Kafka and a consumer into a ledger. What must hold:
each call of both is charged, the caller's rows are bounded, and so is what ship and consumer need.
Run as a module (`make names`) it plays NAMES of them and prints a line now and then.
"""

import argparse
import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from aforo_meter.domain.rating import TOOLS_MAX
from bench.access_logs import METHOD, make_entry
from lab.servers import ROOT, KafkaProgram, scratch_dir
from lab.stack import Options, Stack
from tests.e2e.money_traffic import catalog
from tests.e2e.rounds_of_kills import broker_for_kills

LOUD, QUIET = "loud", "quiet"
QUIET_EVERY = 100  # One call in so many is the other caller's.
ENTRIES = 50  # In a message.
LAG_MAX = (
    200_000  # Calls that are sent and not yet in the ledger: memory of the broker is no matter.
)
LOOK_S = 1.0
STALLED_S_MAX = 60.0
UID, TOOL = "u" * 36, "t" * 24


@dataclass(kw_only=True)
class Flood:
    """What came of it."""

    names: int
    loud_calls: int = 0
    quiet_calls: int = 0
    loud_tools: int = 0
    hours: int = 0
    rows: int = 0
    rss_mb: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: bool, problem: str) -> None:  # noqa: FBT001 - as `assert` has it
        if not condition:
            self.problems.append(problem)

    def __str__(self) -> str:
        memory = ", ".join(
            f"{name} {sizes[0]:.0f} → {sizes[-1]:.0f} MB (most {max(sizes):.0f})"
            for name, sizes in self.rss_mb.items()
        )
        return (
            f"{self.names} names: {self.loud_calls} calls of the loud caller and"
            f" {self.quiet_calls} of the quiet one charged; {self.loud_tools} names of tools and"
            f" {self.rows} rows of charges in {self.hours} hours; {memory}; {self.seconds:.0f} s; "
            + ("good" if not self.problems else "BROKEN: " + " | ".join(self.problems))
        )


def quiet_calls_of(names: int) -> int:
    return names // QUIET_EVERY


class Entries:
    """Messages of the access log, put together from bytes: protobuf would take most of the time."""

    def __init__(self) -> None:
        self._loud = _pieces(_entry(LOUD, TOOL))
        self._quiet = _pieces(_entry(QUIET, TOOL))

    def message(self, first: int, count: int, *, is_quiet: bool = False) -> bytes:
        """Return a message of so many calls, numbered on from the first."""
        kind = "q" if is_quiet else "l"
        start, middle, end = self._quiet if is_quiet else self._loud
        entries = []
        for number in range(first, first + count):
            uid = f"{kind}{number:035}".encode()
            tool = b"search".ljust(len(TOOL), b"-") if is_quiet else b"tool-%019d" % number
            # Metadata before tags, as protobuf orders fields; lengths are those of the sample.
            entries.append(start + _ordered(middle, uid, tool) + end)
        return _framed(entries)


def _entry(tenant_id: str, tool: str) -> HTTPAccessLogEntry:
    entry = make_entry(0)
    common = entry.common_properties
    common.custom_tags["uid"] = UID
    metadata = common.metadata.filter_metadata
    metadata["envoy.filters.http.ext_authz"].update(
        {"tenant": tenant_id, "subscription": f"{tenant_id}-sub"}
    )
    metadata["envoy.filters.http.mcp"].update({"method": "tools/call", "params": {"name": tool}})
    return entry


def _pieces(entry: HTTPAccessLogEntry) -> tuple[bytes, tuple[bytes, bool], bytes]:
    """Cut a serialized entry at its id and its tool's name, whichever comes first."""
    whole = entry.SerializeToString(deterministic=True)
    marks = sorted((whole.index(mark.encode()), mark) for mark in (UID, TOOL))
    (first, one), (second, other) = marks
    return (
        whole[:first],
        (whole[first + len(one) : second], one == UID),
        whole[second + len(other) :],
    )


def _ordered(middle: tuple[bytes, bool], uid: bytes, tool: bytes) -> bytes:
    between, is_uid_first = middle
    return uid + between + tool if is_uid_first else tool + between + uid


def _framed(entries: Sequence[bytes]) -> bytes:
    head = StreamAccessLogsMessage()
    head.identifier.node.id = "flood"
    logs = b"".join(b"\x0a" + _varint(len(entry)) + entry for entry in entries)
    data: bytes = head.SerializeToString()
    return data + b"\x12" + _varint(len(logs)) + logs


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


async def send(socket: str, ledger: Path, names: int) -> None:
    """Send all calls over one stream, never too far ahead of the ledger."""
    entries = Entries()
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        open_stream: Any = channel.stream_unary(METHOD, None, None)
        call = open_stream()
        quiet = 0
        for first in range(0, names, ENTRIES):
            await call.write(entries.message(first, min(ENTRIES, names - first)))
            if first % QUIET_EVERY == 0 and quiet < quiet_calls_of(names):
                await call.write(entries.message(quiet, 1, is_quiet=True))
                quiet += 1
            if first % (LAG_MAX // 4) == 0:
                await _let_catch_up(ledger, first)
        await call.done_writing()
        await call


async def _let_catch_up(ledger: Path, sent: int) -> None:
    while sent - sum(calls_in(ledger).values()) > LAG_MAX:  # noqa: ASYNC110 - of others
        await asyncio.sleep(0.1)


def calls_in(ledger: Path) -> dict[str, int]:
    query = (
        "SELECT tenant_id, SUM(quantity_micros) FROM charge WHERE meter = 'api.calls'"
        " GROUP BY tenant_id"
    )
    return {tenant_id: micros // 1_000_000 for tenant_id, micros in _rows(ledger, query)}


def _rows(ledger: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=30)) as sql:
        return sql.execute(query, values).fetchall()


def play(names: int, *, kafka: KafkaProgram | None) -> Flood:
    """Play it on an installation of its own."""
    started_s = time.monotonic()
    home = kafka.log_path.parent if kafka else scratch_dir("names")
    path = home / "catalog.yaml"
    path.write_text(catalog(dict.fromkeys((LOUD, QUIET), Fraction(1_000_000))))
    found = Flood(names=names)
    stack = Stack(Options(catalog=path, home=home, kafka=kafka, gateway=False))
    with stack, stack.ships[0], _sender(stack, names) as sender:
        try:
            _watch(stack, found, sender)
        except TimeoutError as error:
            found.problems.append(str(error))
        _judge(found, stack)
    found.seconds = time.monotonic() - started_s
    if found.problems:
        found.problems.append(f"logs in {home}")
    else:
        shutil.rmtree(home)
    return found


@contextmanager
def _sender(stack: Stack, names: int) -> Iterator[subprocess.Popen[bytes]]:
    """Send from a process of its own, so that looking costs it nothing."""
    command = [sys.executable, "-m", "tests.e2e.flood_of_names", "--names", str(names)]
    command += ["--send", str(stack.home / "als-a.sock"), "--ledger", str(stack.ledger_path)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def _watch(stack: Stack, found: Flood, sender: subprocess.Popen[bytes]) -> None:
    """Note memory until all calls are charged.

    Raises:
        TimeoutError: Nothing was charged for a long time, and something is missing.
    """
    programs = {
        "ship": psutil.Process(stack.ships[0].pid),
        "consume": psutil.Process(stack.consume.pid),
    }
    found.rss_mb = {name: [] for name in programs}
    wanted = {LOUD: found.names, QUIET: quiet_calls_of(found.names)}
    charged: dict[str, int] = {}
    moved_s = time.monotonic()
    while charged != wanted:
        time.sleep(LOOK_S)
        for name, process in programs.items():
            found.rss_mb[name].append(process.memory_info().rss / 1e6)
        before, charged = charged, calls_in(stack.ledger_path)
        if charged != before:
            moved_s = time.monotonic()
        elif time.monotonic() - moved_s > STALLED_S_MAX:
            state = "sends" if sender.poll() is None else f"ended with {sender.returncode}"
            raise TimeoutError(f"charged {charged} of {wanted}, and no more; the sender {state}")
        if len(found.rss_mb["ship"]) % 10 == 0:
            sys.stderr.write(f"{charged.get(LOUD, 0):,} of {found.names:,}\n")


def _judge(found: Flood, stack: Stack) -> None:
    """Fill in the figures, and note what is not as it must be."""
    ledger = stack.ledger_path
    charged = calls_in(ledger)
    found.loud_calls, found.quiet_calls = charged.get(LOUD, 0), charged.get(QUIET, 0)
    query = "SELECT COUNT(*), COUNT(DISTINCT tool), COUNT(DISTINCT hour_start_micros) FROM charge"
    ((found.rows, found.loud_tools, found.hours),) = _rows(
        ledger, f"{query} WHERE tenant_id = ?", LOUD
    )
    ((meters,),) = _rows(ledger, "SELECT COUNT(DISTINCT meter) FROM charge")
    found.expect(
        charged == {LOUD: found.names, QUIET: quiet_calls_of(found.names)}, f"charged: {charged}"
    )
    rows_max = (TOOLS_MAX + 1) * meters * found.hours  # And one for all other names.
    found.expect(found.rows <= rows_max, f"{found.rows} rows, and {rows_max} is the bound")
    quiet = _rows(ledger, "SELECT DISTINCT tool FROM charge WHERE tenant_id = ?", QUIET)
    found.expect(len(quiet) == 1, f"the quiet caller's one tool is told as {quiet}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.flood_of_names")
    parser.add_argument("--names", type=int, default=10_000_000, help="(default: %(default)s)")
    parser.add_argument("--send", metavar="SOCKET", help=argparse.SUPPRESS)
    parser.add_argument("--ledger", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.send:
        asyncio.run(send(options.send, options.ledger, options.names))
        return 0
    kafka, why = broker_for_kills()  # One that has what it holds on disk.
    if why:
        sys.stderr.write(f"the broker has all of it in memory: {why}\n")
    came = play(options.names, kafka=kafka)
    sys.stdout.write(f"{came}\n")
    return 1 if came.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
