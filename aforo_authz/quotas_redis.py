"""Counts calls in Redis, atomically: one script, and one round trip, per call."""

import hashlib
import time
from collections.abc import Callable, Sequence

from aforo_authz.domain.quotas import Reservation, Standing
from aforo_authz.quotas import QuotasUnavailableError, standings_of
from aforo_authz.read_model import counter_key
from aforo_authz.redis_link import Failure, RedisAnswerError
from aforo_authz.redis_nodes import RedisNodes

# KEYS: the counters. ARGV, five a key: units, limit, enforced, seed, expiry in Unix seconds.
# Answers {counted, counter, …}: all counters are raised, or none. No counter stands below the seed,
# which is what the ledger has seen of the window: so it heals where Redis has lost its memory, or
# was away while calls passed uncounted.
RESERVE = """
local used = {}
local fits = 1
for i, key in ipairs(KEYS) do
  local at = (i - 1) * 5
  used[i] = math.max(tonumber(redis.call('GET', key) or 0), tonumber(ARGV[at + 4]))
  if ARGV[at + 3] == '1' and used[i] + tonumber(ARGV[at + 1]) > tonumber(ARGV[at + 2]) then
    fits = 0
  end
end
if fits == 1 then
  for i, key in ipairs(KEYS) do
    local at = (i - 1) * 5
    used[i] = used[i] + tonumber(ARGV[at + 1])
    redis.call('SET', key, string.format('%.0f', used[i]), 'EXAT', ARGV[at + 5])
  end
end
return {fits, unpack(used)}
"""
RESERVE_SHA = hashlib.sha1(RESERVE.encode(), usedforsecurity=False).hexdigest()
# Counters outlive their window a little: replicas' clocks differ.
EXPIRES_AFTER_S = 60


class RedisQuotas:
    """Hard quotas over Redis. What arrives in one turn of the loop shares a round trip.

    Args:
        nodes: Redis.
        observe: Told of what it took, for the metrics: (purpose, seconds, failure).
    """

    def __init__(
        self,
        nodes: RedisNodes,
        *,
        observe: Callable[[str, float, Failure | None], None] = lambda *_: None,
    ) -> None:
        self._nodes = nodes
        self._observe = observe

    async def reserve(
        self, tenant_id: str, reservations: Sequence[Reservation], budget_s: float
    ) -> tuple[Standing, ...]:
        keys = [
            counter_key(tenant_id, wish.quota.quota_id, wish.window.start_s)
            for wish in reservations
        ]
        arguments = (len(keys), *keys, *_arguments(reservations))
        ask = self._nodes.ask
        started_s = time.perf_counter()
        try:
            try:
                answer = await ask(keys[0], "EVALSHA", RESERVE_SHA, *arguments, budget_s=budget_s)
            except RedisAnswerError as error:
                if not error.is_unknown_script:
                    raise
                # A new or restarted Redis: sending the text also teaches it the script.
                left_s = max(budget_s - (time.perf_counter() - started_s), 0.0)
                answer = await ask(keys[0], "EVAL", RESERVE, *arguments, budget_s=left_s)
        except RedisAnswerError as error:
            self._observe("reserve", time.perf_counter() - started_s, error.failure)
            raise QuotasUnavailableError(str(error)) from error
        self._observe("reserve", time.perf_counter() - started_s, None)
        counted, *used_units = answer
        return standings_of(reservations, used_units, counted=bool(counted))


def _arguments(reservations: Sequence[Reservation]) -> list[str | int]:
    """Return five arguments for each counter, as the script wants them."""
    arguments: list[str | int] = []
    for wish in reservations:
        arguments += (
            wish.units,
            wish.quota.limit_units,
            int(wish.enforced),
            wish.seed_units,
            wish.window.end_s + EXPIRES_AFTER_S,
        )
    return arguments
