"""All parts, looked at side by side, within a bounded time."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from aforo_admin import commands_control, redis_access, settings
from aforo_admin.doctor import control, envoy, kafka, ledger, processes, redis
from aforo_admin.doctor.masking import masked, passwords_of
from aforo_admin.domain.diagnosis import Seen, compare

STEPS: Final = 3  # A part may take the whole time, and each of its steps a third of it.
UNGIVEN: Final = {
    redis.PART: settings.variable("redis_url"),
    kafka.PART: settings.variable("kafka_bootstrap"),
    ledger.PART: settings.variable("ledger_url"),
    control.PART: settings.variable("database_url"),
}

Look = Callable[[], Seen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the parts of an installation are; what is empty is not looked at."""

    chosen: settings.DoctorSettings
    envoys: Sequence[str] = ()
    processes: Mapping[str, str] | None = None  # A name, as of --process → its address.
    timeout_s: float = 10.0


def examine(places: Places) -> list[Seen]:
    """Look at everything, and compare the parts."""
    if places.chosen.database_url:
        commands_control.set_up(places.chosen.database_url)
    looks = _looks(places)
    answers: queue.Queue[Seen] = queue.Queue()
    for name, look in looks.items():
        # Not waited for at the end of the program, whatever it hangs on.
        threading.Thread(
            target=lambda name=name, look=look: answers.put(_safely(name, look)), daemon=True
        ).start()
    found: dict[str, Seen] = {}
    deadline = time.monotonic() + places.timeout_s
    while len(found) < len(looks):
        try:
            seen = answers.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            break
        found[seen.part] = seen
    parts = [found.get(name) or _late(name, places.timeout_s) for name in looks]
    parts += [*_not_given(looks), compare(parts, own_build=version("aforo"))]
    chosen = places.chosen
    passwords = passwords_of([chosen.redis_url, chosen.ledger_url, chosen.database_url])
    return [masked(part, passwords) for part in parts]


def _looks(places: Places) -> dict[str, Look]:
    chosen, step_s = places.chosen, places.timeout_s / STEPS
    looks: dict[str, Look] = {}
    if chosen.redis_url:
        at = settings.RedisSettings(redis_url=chosen.redis_url, redis_timeout_ms=int(step_s * 1000))
        interval_s = round(chosen.sync_interval_s)
        looks[redis.PART] = lambda: redis_access.run(redis.look(at, sync_interval_s=interval_s))
    if chosen.kafka_bootstrap:
        looks[kafka.PART] = lambda: redis_access.run(
            kafka.look(
                chosen.kafka_bootstrap,
                usage=chosen.usage_topic,
                dead_letters=chosen.dead_letter_topic,
                timeout_s=step_s,
            )
        )
    if chosen.ledger_url:
        looks[ledger.PART] = lambda: ledger.look(
            chosen.ledger_url, usage=chosen.usage_topic, timeout_s=step_s
        )
    if chosen.database_url:
        looks[control.PART] = lambda: control.look(chosen.database_url, timeout_s=step_s)
    for number, address in enumerate(places.envoys, start=1):
        name = "envoy" if number == 1 else f"envoy-{number}"
        looks[name] = _bound(envoy.look, name, address, step_s)
    for name, address in (places.processes or {}).items():
        looks[name] = _bound(processes.look, name, address, step_s)
    return looks


def _bound(look: Callable[..., Seen], name: str, address: str, step_s: float) -> Look:
    return lambda: look(name, address, timeout_s=step_s)


def _safely(name: str, look: Look) -> Seen:
    """Look, and make a finding of whatever goes wrong: one part must not hide the others."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - as the docstring says.
        seen = Seen(name)
        seen.fault(
            f"it could not be looked at: {type(error).__name__}: {error}",
            "a fault of this command, or an answer that it does not understand",
            "report it",
        )
        return seen


def _late(name: str, timeout_s: float) -> Seen:
    seen = Seen(name)
    seen.fault(
        f"no answer within {timeout_s:g} s",
        "it hangs, or something on the way swallows what is sent",
        "is the process stopped, or its machine out of memory? --timeout-s gives it longer",
    )
    return seen


def _not_given(looks: Mapping[str, Look]) -> list[Seen]:
    skipped = []
    for name, variable in UNGIVEN.items():
        if name not in looks:
            seen = Seen(name)
            seen.skipped(f"not looked at: {variable} is not set")
            skipped.append(seen)
    if "envoy" not in looks:
        seen = Seen("envoy")
        seen.skipped("not looked at: no --envoy HOST:PORT")
        skipped.append(seen)
    return skipped
