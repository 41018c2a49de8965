"""How often an address may show a token that nobody knows, before it is no longer looked at."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

FAILURES_MAX: Final = 20
WINDOW_S: Final = 60.0
ADDRESSES_MAX: Final = 10_000


@dataclass(slots=True)
class FailedAttempts:
    """Failures by address within a minute, in this process; the oldest addresses are forgotten."""

    failures_max: int = FAILURES_MAX
    window_s: float = WINDOW_S
    addresses_max: int = ADDRESSES_MAX
    _windows: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_s(self, address: str, *, now_s: float) -> float:
        """Return how long the address has to wait; 0: it may try."""
        with self._lock:
            ends_s, failures = self._windows.get(address, (0.0, 0))
        return max(0.0, ends_s - now_s) if failures >= self.failures_max else 0.0

    def note(self, address: str, *, now_s: float) -> None:
        with self._lock:
            ends_s, failures = self._windows.pop(address, (0.0, 0))
            if ends_s <= now_s:
                ends_s, failures = now_s + self.window_s, 0
            self._windows[address] = (ends_s, failures + 1)
            if len(self._windows) > self.addresses_max:
                self._windows.popitem(last=False)
