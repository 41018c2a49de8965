"""`aforo-meter import`: a file of usage → Kafka, checked, resumable, each row once."""

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from aforo_meter import import_state
from aforo_meter.command_arguments import FAILED, OK, CommandError
from aforo_meter.command_tables import many
from aforo_meter.domain.import_rows import remedy_of
from aforo_meter.import_file import UsageFile, ended
from aforo_meter.import_intake import Judge, Judged, open_judge, record_for
from aforo_meter.import_state import State, rejected_path_of
from aforo_meter.kafka_sending import Sender, open_sender
from aforo_meter.progress import Progress
from aforo_meter.shown_events import fields_of, json_text, plain

BATCH_ROWS: Final = 1000
SAMPLES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for."""

    path: Path
    kind: str  # "auto", "csv" or "json"
    bootstrap: str
    topic: str
    redis_url: str | None
    age_days: int
    skip: bool  # Leave bad rows out; else one of them keeps all of them out.
    dry_run: bool
    errors_max: int  # So many are shown; all are counted.
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    line: int
    field: str
    problem: str
    remedy: str


@dataclass(slots=True)
class Report:
    """What is known of a file's rows."""

    errors_max: int
    accepted: int = 0
    by_field: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rejected(self) -> int:
        return self.by_field.total()

    def add(self, one: Judged) -> None:
        if one.event is not None:
            self.accepted += 1
            if len(self.samples) < SAMPLES:
                self.samples.append(fields_of(one.event))
            return
        fault = fault_of(one)
        self.by_field[fault.field] += 1
        if len(self.faults) < self.errors_max:
            self.faults.append(fault)


async def run(wanted: Wanted) -> int:
    """Import a file, or say what would be done; return the exit code.

    Raises:
        CommandError: It can't be done, or not go on; running it again goes on where it stood.
    """
    file = UsageFile(wanted.path, wanted.kind)
    with _progress("reading", file.size) as told:
        digest = file.digest(told)
    async with open_judge(
        wanted.redis_url,
        file_name=wanted.path.name,
        file_digest=digest,
        age_days=wanted.age_days,
    ) as judge:
        if wanted.dry_run:
            report = await _check(file, judge, wanted)
            print(_as_json(report) if wanted.as_json else _as_text(report, wanted))  # noqa: T201
            return FAILED if report.rejected else OK
        fresh = State(digest=digest, topic=wanted.topic, bootstrap=wanted.bootstrap)
        state = import_state.load(wanted.path, fresh)
        if state.done:
            place = import_state.path_of(wanted.path)
            _say(f"{wanted.path} was imported: {_sum(state)}; to send it again, remove {place}")
            return OK
        if not wanted.skip and not state.checked:
            report = await _check(file, judge, wanted)
            if report.rejected:
                _say(_as_text(report, wanted))
                more = " more" if state.line else ""
                raise CommandError(
                    f"nothing{more} was sent; repair these lines, or leave them out:"
                    " --on-error skip"
                )
            state = replace(state, checked=True)
            import_state.save(wanted.path, state)
        return await _import(file, judge, wanted, state)


async def _check(file: UsageFile, judge: Judge, wanted: Wanted) -> Report:
    report = Report(wanted.errors_max)
    with _progress("checking", file.size) as told:
        async for batch in _judged(file, judge, State(digest="", topic="", bootstrap=""), told):
            for one in batch:
                report.add(one)
    return report


async def _judged(
    file: UsageFile, judge: Judge, state: State, told: Callable[[int], None]
) -> AsyncIterator[Sequence[Judged]]:
    rows = file.rows(state.place, told)
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield await judge.judge(batch)


async def _import(file: UsageFile, judge: Judge, wanted: Wanted, state: State) -> int:
    if state.line:
        _say(f"going on behind line {state.line}: {_sum(state)} so far")
    shown = Report(wanted.errors_max)
    with _rejects(file, state) as rejects, _progress("importing", file.size) as told:
        async with open_sender(wanted.bootstrap) as sender:
            async for batch in _judged(file, judge, state, told):
                state = await _settle(batch, sender, wanted, state, rejects)
                for one in batch:
                    if one.rejection is not None:
                        shown.add(one)
    state = replace(state, done=True)
    import_state.save(wanted.path, state)
    for fault in shown.faults:
        _say(_line(fault))
    _say(_sum(state) + (f", in {rejected_path_of(wanted.path)}" if state.rejected else ""))
    return FAILED if state.rejected else OK


async def _settle(
    batch: Sequence[Judged], sender: Sender, wanted: Wanted, state: State, rejects: "Rejects"
) -> State:
    """Bring one batch to Kafka, and write down that it is there."""
    good = batch
    bad = next((one for one in batch if one.rejection is not None), None)
    if bad is not None and not wanted.skip:
        good = list(itertools.takewhile(lambda one: one.rejection is None, batch))
    events = [one.event for one in good if one.event is not None]
    await sender.send([record_for(event, wanted.topic) for event in events])
    for one in good:
        if one.rejection is not None:
            rejects.add(one.row.raw)
            state = replace(state, rejected=state.rejected + 1)
    if good:
        last = good[-1].row
        state = replace(
            import_state.moved(state, offset=last.end, line=last.last_line, sent=len(events)),
            rejected_bytes=rejects.flushed(),
        )
        import_state.save(wanted.path, state)
    if bad is not None and not wanted.skip:
        # Sound when it was checked: a tenant has gone since, or the usage grew too old.
        raise CommandError(
            f"stopped after {many(state.sent, 'row')}: {_line(fault_of(bad))};"
            " run it again to go on, or with --on-error skip"
        )
    return state


class Rejects:
    """The lines that were left out, in a file that can be repaired and imported by itself."""

    def __init__(self, path: Path, header: bytes, size: int) -> None:
        self._path = path
        self._header = header
        self._size = size
        self._file: BinaryIO | None = None

    def add(self, raw: bytes) -> None:
        if self._file is None:
            self._file = self._opened()
        self._file.write(ended(raw))

    def _opened(self) -> BinaryIO:
        file = self._path.open("r+b" if self._size else "w+b")
        # What was written behind the last state is found, and written, again.
        file.truncate(self._size)
        file.seek(self._size)
        if not self._size and self._header:
            file.write(ended(self._header))
        return file

    def flushed(self) -> int:
        """Return how long the file is now."""
        if self._file is None:
            return self._size
        self._file.flush()
        return self._file.tell()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def _rejects(file: UsageFile, state: State) -> Iterator[Rejects]:
    path = rejected_path_of(file.path)
    rejects = Rejects(path, file.header, state.rejected_bytes)
    try:
        yield rejects
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}") from error
    finally:
        rejects.close()


@contextlib.contextmanager
def _progress(what: str, size: int) -> Iterator[Callable[[int], None]]:
    progress = Progress(what, size)
    try:
        yield progress.at
    finally:
        progress.end()


def fault_of(one: Judged) -> Fault:
    rejection = one.rejection
    assert rejection is not None, "only what was refused has a fault"
    problem = str(rejection).removeprefix(f"{rejection.field}: ")
    return Fault(one.row.line, rejection.field, problem, remedy_of(rejection))


def _line(fault: Fault) -> str:
    return plain(f"line {fault.line}: {fault.field}: {fault.problem} → {fault.remedy}")


def _as_text(report: Report, wanted: Wanted) -> str:
    lines = [_line(fault) for fault in report.faults]
    if report.rejected > len(report.faults):
        lines.append(f"… and {report.rejected - len(report.faults)} more (--errors-max)")
    if report.samples and wanted.dry_run:
        lines.append("the first events would be:")
        lines += ["  " + json_text(one) for one in report.samples]
    by_field = ", ".join(f"{name} {count}" for name, count in report.by_field.most_common())
    lines.append(
        f"{many(report.accepted + report.rejected, 'row')}: {report.accepted} sound,"
        f" {report.rejected} with errors" + (f" ({by_field})" if by_field else "")
    )
    if wanted.redis_url is None and wanted.dry_run:
        lines.append("customers and the catalog's own meters were not looked up: --redis-url")
    return "\n".join(lines)


def _as_json(report: Report) -> str:
    return json.dumps(
        {
            "rows": report.accepted + report.rejected,
            "accepted": report.accepted,
            "rejected": report.rejected,
            "rejected_by_field": dict(report.by_field),
            "errors": [asdict(fault) for fault in report.faults],
            "samples": report.samples,
        },
        ensure_ascii=False,
    )


def _sum(state: State) -> str:
    return f"{many(state.sent, 'row')} sent, {state.rejected} left out"


def _say(text: str) -> None:
    print(text)  # noqa: T201
