"""Counts calls in Redis, atomically: one script per call, one round trip per turn of the loop."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from aforo_authz.domain.quotas import Reservation, Standing
from aforo_authz.quotas import QuotasUnavailableError, standings_of
from aforo_authz.read_model import counter_key

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


@dataclass(frozen=True, slots=True)
class _Wish:
    arguments: tuple[str | int, ...]
    future: asyncio.Future[list[int]]


class RedisQuotas:
    """Hard quotas over Redis. What arrives in one turn of the loop shares a round trip."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: list[_Wish] = []
        self._senders: set[asyncio.Task[None]] = set()

    async def reserve(
        self, tenant_id: str, reservations: Sequence[Reservation], budget_s: float
    ) -> tuple[Standing, ...]:
        loop = asyncio.get_running_loop()
        wish = _Wish(_arguments(tenant_id, reservations), loop.create_future())
        if not self._waiting:
            loop.call_soon(self._start_sending)
        self._waiting.append(wish)
        try:
            async with asyncio.timeout(budget_s):
                counted, *used_units = await wish.future
        except (RedisError, OSError, TimeoutError) as error:
            raise QuotasUnavailableError(f"no answer in {budget_s * 1000:.0f} ms") from error
        return standings_of(reservations, used_units, counted=bool(counted))

    def _start_sending(self) -> None:
        wishes, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._send(wishes))
        self._senders.add(task)
        task.add_done_callback(self._senders.discard)

    async def _send(self, wishes: list[_Wish]) -> None:
        try:
            answers = await self._ask("EVALSHA", RESERVE_SHA, wishes)
            unknown = [
                wish
                for wish, answer in zip(wishes, answers, strict=True)
                if isinstance(answer, NoScriptError)
            ]
            if unknown:
                # A new or restarted Redis: sending the text also teaches it the script.
                taught = iter(await self._ask("EVAL", RESERVE, unknown))
                answers = [next(taught) if isinstance(a, NoScriptError) else a for a in answers]
        except (RedisError, OSError, TimeoutError) as error:
            answers = [error] * len(wishes)
        for wish, answer in zip(wishes, answers, strict=True):
            if wish.future.done():
                continue  # Its caller gave up; the call may have been counted.
            if isinstance(answer, BaseException):
                wish.future.set_exception(answer)
            else:
                wish.future.set_result(answer)

    async def _ask(
        self, command: str, script: str, wishes: Sequence[_Wish]
    ) -> list[list[int] | BaseException]:
        pipeline = self._redis.pipeline(transaction=False)
        for wish in wishes:
            pipeline.execute_command(command, script, *wish.arguments)
        answers: list[list[int] | BaseException] = await pipeline.execute(raise_on_error=False)
        return answers


def _arguments(tenant_id: str, reservations: Sequence[Reservation]) -> tuple[str | int, ...]:
    """Return the number of keys, the keys, and five arguments for each."""
    keys = [
        counter_key(tenant_id, wish.quota.quota_id, wish.window.start_s) for wish in reservations
    ]
    arguments: list[str | int] = [len(keys), *keys]
    for wish in reservations:
        arguments += (
            wish.units,
            wish.quota.limit_units,
            int(wish.enforced),
            wish.seed_units,
            wish.window.end_s + EXPIRES_AFTER_S,
        )
    return tuple(arguments)
