"""Quotas: which window a moment is in, and how a tenant stands in it. Pure."""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

SECOND_MICROS = 1_000_000
MONEY_METERS = "money."  # Begins the meters whose figures are money, in nanos.


class WindowKind(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    BILLING_PERIOD = "billing_period"


_FIXED_S = {WindowKind.MINUTE: 60, WindowKind.HOUR: 3600, WindowKind.DAY: 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How many units of a meter a tenant may use in a window."""

    quota_id: str
    meter: str
    limit_units: int
    window: WindowKind
    features: frozenset[str] = frozenset()  # Counts calls that need one of these; empty: all.
    soft: bool = False  # Over the limit the call passes, with a header.

    @property
    def is_of_money(self) -> bool:
        """Are its figures not for callers?"""
        return self.meter.startswith(MONEY_METERS)

    def counts(self, features: Collection[str]) -> bool:
        return not self.features or not self.features.isdisjoint(features)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Half-open, in Unix seconds, UTC."""

    start_s: int
    end_s: int


@dataclass(slots=True, kw_only=True)  # One for every call that is counted: see Decision.
class Reservation:
    """A wish to count one call in a window, before it is served."""

    quota: Quota
    window: Window
    units: int
    seed_units: int  # What the ledger has seen: the counter never stands below it.
    enforced: bool  # False: count, whatever the limit.


@dataclass(slots=True, kw_only=True)  # One for every call that is counted: see Decision.
class Standing:
    """How a tenant stands in one quota after this call was, or was not, counted."""

    quota: Quota
    window: Window
    used_units: int
    exceeded: bool  # This call does not fit.
    fits_later: bool = True  # It would fit into an empty window.

    @property
    def remaining_units(self) -> int:
        return max(0, self.quota.limit_units - self.used_units)

    def seconds_left(self, now_micros: int) -> int:
        """Return the whole seconds until the window's end, rounded up: waiting that long helps."""
        left_micros = self.window.end_s * SECOND_MICROS - now_micros
        return max(0, -(-left_micros // SECOND_MICROS))

    def retry_after_s(self, now_micros: int) -> int | None:
        return self.seconds_left(now_micros) if self.fits_later else None


def standing_of(quota: Quota, window: Window, *, used_units: int, asked_units: int) -> Standing:
    """Return the standing of a quota whose usage is known only afterwards, or was refused.

    Args:
        quota: The quota.
        window: The window that the call falls into.
        used_units: What the ledger or the store has counted, without this call.
        asked_units: What this call asks for; 1 where the size is known only afterwards.
    """
    return Standing(
        quota=quota,
        window=window,
        used_units=used_units,
        exceeded=used_units + asked_units > quota.limit_units,
        fits_later=asked_units <= quota.limit_units,
    )


def window_of(kind: WindowKind, *, now_micros: int, period_micros: tuple[int, int, int]) -> Window:
    """Return the window that `now_micros` is in.

    Args:
        kind: Minutes to months start on UTC boundaries; the billing period is the tenant's own.
        now_micros: Unix time in microseconds, UTC.
        period_micros: Start and end of the current billing period and end of the next. Later
            periods are taken to be as long as that one: while the sync is away, quotas go on.
    """
    now_s = now_micros // SECOND_MICROS
    fixed_s = _FIXED_S.get(kind)
    if fixed_s is not None:
        start_s = now_s - now_s % fixed_s
        return _window(start_s, start_s + fixed_s)
    if kind is WindowKind.MONTH:
        now = datetime.fromtimestamp(now_s, tz=UTC)
        return _month(now.year, now.month)
    start_s, end_s, next_end_s = (micros // SECOND_MICROS for micros in period_micros)
    if now_s >= end_s and next_end_s > end_s:
        start_s, end_s = end_s, next_end_s
    if now_s >= end_s > start_s:
        length_s = end_s - start_s
        start_s += (now_s - start_s) // length_s * length_s
        end_s = start_s + length_s
    return _window(start_s, end_s)


# Windows last for thousands of calls: each is made once.
@functools.lru_cache(maxsize=4096)
def _window(start_s: int, end_s: int) -> Window:
    return Window(start_s=start_s, end_s=end_s)


@functools.lru_cache(maxsize=64)
def _month(year: int, month: int) -> Window:
    start = datetime(year, month, 1, tzinfo=UTC)
    end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return Window(start_s=int(start.timestamp()), end_s=int(end.timestamp()))
