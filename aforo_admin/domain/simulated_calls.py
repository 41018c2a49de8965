"""Which calls a level would have warned of, marked or refused, by the hour. Pure, deterministic.

The ledger counts refused and marked calls by hour and reason, not by feature. Where an hour's level
acts as it did, its counts stay as they are. Where it acts otherwise:

- at a block, all calls of the hour that passed are refused: their usage is taken out;
- at no block, calls that the margin had refused pass: the tenant's average usage of a call is added
  for each, and marked as an estimate. Where only some features are set free, their share of the
  period's calls is;
- at a throttle, all calls that pass are marked.

Usage that names no feature and is no call was reported, not called for: it goes on at a block.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, NamedTuple

from aforo_admin.domain.levels_over_time import NONE_IN_FORCE, Agreement, Levels
from aforo_meter.domain.account import Account, UsageKey, Used, total
from aforo_meter.domain.margin import Level
from aforo_meter.domain.usage import API_CALLS, MICROS_PER_UNIT


class Calls(NamedTuple):
    """How many calls, by what the margin made of them."""

    warned: int = 0  # They passed at the level warn.
    throttled: int = 0
    blocked: int = 0

    def __add__(self, other: "Calls") -> "Calls":  # type: ignore[override] # Not of tuples.
        return Calls(*(one + more for one, more in zip(self, other, strict=True)))


NO_CALLS: Final = Calls()


class Refusals(NamedTuple):
    """What the margin made of an hour's calls, by the ledger's count."""

    throttled: int = 0
    blocked: int = 0


NOTHING_REFUSED: Final = Refusals()
# Where none has passed that would tell its features.
SOME_CALL: Final = UsageKey(API_CALLS, "", "", "", "", "")
LevelOf = Callable[[UsageKey], Level]


def recorded_calls(refusals: Iterable[Refusals]) -> Calls:
    every = list(refusals)
    return Calls(
        throttled=sum(one.throttled for one in every), blocked=sum(one.blocked for one in every)
    )


def calls_of(account: Account) -> int:
    """Return how many calls passed."""
    return sum(_calls(key, used) for key, used in account.items())


def _calls(key: UsageKey, used: Used) -> int:
    return used.quantity_micros // MICROS_PER_UNIT if key.meter == API_CALLS else 0


def warned_calls(
    agreement: Agreement, in_force: Mapping[int, Levels], hours: Mapping[int, Account]
) -> int:
    """Return how many calls passed while the level was warn."""
    return sum(
        _calls(key, used)
        for hour, account in hours.items()
        for key, used in account.items()
        if _heeded(agreement, in_force[hour], key, hour) is Level.WARN
    )


def _heeded(agreement: Agreement, levels: Levels, key: UsageKey, hour: int) -> Level:
    return agreement.softened(levels.of(key, agreement.terms.guards), hour)


@dataclass(slots=True, kw_only=True)
class Acting:
    """What simulated levels make of the calls; one tenant's period, its hours in turn."""

    known: Agreement
    changed: Agreement
    known_levels: Mapping[int, Levels]  # In force, by the record's reckoning.
    refusals: Mapping[int, Refusals]
    recorded: Collection[Account]  # The usage of each hour.
    usage: Collection[Account]  # The same under the changed terms.
    growth: Fraction  # How many calls there would be for one of which no feature is known.
    calls: Calls = NO_CALLS
    avoided_nanos: int = 0
    added_nanos: int = 0
    _period: Account = field(init=False)  # Of calls alone.
    _period_calls: int = field(init=False)
    _kinds: Mapping[UsageKey, int] = field(init=False)  # Of calls, with how many there are.
    _recorded_calls: Account = field(init=False)

    def __post_init__(self) -> None:
        every = total(self.usage)
        self._period = {key: used for key, used in every.items() if _is_called(key)}
        self._period_calls = calls_of(self._period)
        kinds = {key: _calls(key, used) for key, used in self._period.items()}
        self._kinds = {key: calls for key, calls in kinds.items() if calls} or {SOME_CALL: 1}
        held = total(self.recorded)
        self._recorded_calls = {key: used for key, used in held.items() if key.meter == API_CALLS}

    def __call__(self, hour: int, levels: Levels, usage: Account) -> Account:
        """Return the usage that an hour would have had, and count its calls."""
        refused = self.refusals.get(hour, NOTHING_REFUSED)
        before_of, after_of = self._levels_of(hour, levels)
        throttled, blocked = (
            round(count * self._growth_at(level, before_of)) if count else 0
            for count, level in zip(refused, (Level.THROTTLE, Level.BLOCK), strict=True)
        )
        kept: dict[UsageKey, Used] = {}
        newly_blocked = newly_throttled = warned = 0
        for key, used in usage.items():
            before, after = before_of(key), after_of(key)
            calls = _calls(key, used)
            if _is_called(key) and after is Level.BLOCK and before is not Level.BLOCK:
                self.avoided_nanos += used.cogs_nanos
                newly_blocked += calls
                continue
            kept[key] = used
            warned += calls if after is Level.WARN else 0
            if after is Level.THROTTLE and before is not Level.THROTTLE:
                newly_throttled += calls
        still_throttled = self._still(throttled, Level.THROTTLE, before_of, after_of)
        still_blocked = self._still(blocked, Level.BLOCK, before_of, after_of)
        # Some that pass were marked already: as the hour's level rose.
        newly_throttled = min(newly_throttled, max(0, calls_of(kept) - still_throttled))
        released = blocked - still_blocked
        if released:
            level = max(
                after_of(key)
                for key in self._kinds
                if before_of(key) is Level.BLOCK and after_of(key) is not Level.BLOCK
            )
            newly_throttled += released if level is Level.THROTTLE else 0
            warned += released if level is Level.WARN else 0
            kept = self._with_average(kept, released)
        self.calls += Calls(
            warned=warned,
            throttled=still_throttled + newly_throttled,
            blocked=still_blocked + newly_blocked,
        )
        return kept

    def _levels_of(self, hour: int, levels: Levels) -> tuple[LevelOf, LevelOf]:
        known_levels = self.known_levels.get(hour, NONE_IN_FORCE)

        def before_of(key: UsageKey) -> Level:
            return _heeded(self.known, known_levels, key, hour)

        def after_of(key: UsageKey) -> Level:
            return _heeded(self.changed, levels, key, hour)

        return before_of, after_of

    def _growth_at(self, level: Level, before_of: LevelOf) -> Fraction:
        """Return how many calls there would be for one that a level marked or refused.

        The ledger does not know of which feature it was. It is taken to be as the period's calls
        that passed are, of those features that were at that level in this hour, if there are any.
        """
        features = {key.feature for key in self._recorded_calls if before_of(key) is level}
        before, after = (
            sum(
                used.quantity_micros
                for key, used in account.items()
                if key.meter == API_CALLS and (not features or key.feature in features)
            )
            for account in (self._recorded_calls, self._period)
        )
        return Fraction(after, before) if before else self.growth

    def _still(self, count: int, level: Level, before_of: LevelOf, after_of: LevelOf) -> int:
        """Return how many of an hour's calls go on being marked, or refused."""
        if not count:
            return 0
        as_before = {key: n for key, n in self._kinds.items() if before_of(key) is level}
        if as_before:
            still = sum(n for key, n in as_before.items() if after_of(key) is level)
            return round(Fraction(count * still, sum(as_before.values())))
        # The level rose within the hour. What was marked is refused where the block comes earlier.
        if level is Level.BLOCK:
            return count
        passing = sum(
            n
            for key, n in self._kinds.items()
            if before_of(key) is Level.BLOCK or after_of(key) is not Level.BLOCK
        )
        return round(Fraction(count * passing, sum(self._kinds.values())))

    def _with_average(self, usage: Account, calls: int) -> dict[UsageKey, Used]:
        """Return usage with that of so many average calls; without any to judge by, as it is."""
        if not self._period_calls:
            return dict(usage)
        average = {
            key: Used(
                used.quantity_micros * calls // self._period_calls,
                used.cogs_nanos * calls // self._period_calls,
            )
            for key, used in self._period.items()
        }
        self.added_nanos += sum(used.cogs_nanos for used in average.values())
        return total((usage, average))


def _is_called(key: UsageKey) -> bool:
    return bool(key.feature) or key.meter == API_CALLS
