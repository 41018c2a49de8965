"""What the near-cache shows to the metrics."""

from aforo_authz.metrics import Reading
from aforo_authz.policies_redis import NearCache


class CacheReadings:
    """The near-cache's figures, read when somebody looks."""

    def __init__(self, cache: NearCache) -> None:
        self._cache = cache

    def counters(self) -> list[Reading]:
        counts, entries = self._cache.counts, self._cache.remembered.entries
        return [
            ("cache_hits", "Callers found in the cache.", lambda: counts.hits),
            ("cache_misses", "Callers that Redis was asked for.", lambda: counts.misses),
            ("cache_reloads", "Keys read again, because they changed.", lambda: counts.reloads),
            ("cache_evictions", "Values forgotten for want of room.", lambda: entries.evictions),
            ("unreadable_values", "Values not understood.", lambda: counts.unreadable),
        ]

    def gauges(self) -> list[Reading]:
        cache, remembered = self._cache, self._cache.remembered
        return [
            ("cache_stale", "1 while values can't be confirmed.", lambda: float(cache.stale)),
            ("cache_entries", "Values remembered.", lambda: len(remembered.entries)),
            ("cache_bytes", "Memory that they take, about.", lambda: remembered.entries.bytes),
            (
                "cache_strangers",
                "Unknown credentials remembered.",
                lambda: len(remembered.strangers),
            ),
            # Sync's own figure goes silent with it.
            (
                "synced_timestamp_seconds",
                "When sync last completed a pass, by what it left in Redis; 0: never seen.",
                lambda: cache.synced_micros / 1_000_000,
            ),
        ]
