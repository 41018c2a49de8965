"""Envoy's Check: translate, look up, decide, reserve, translate back. No policy here."""

import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from aforo_authz.check import (
    Call,
    Identification,
    MalformedRequestError,
    from_check_request,
    to_check_response,
)
from aforo_authz.denials import Denial
from aforo_authz.domain.access import (
    Decision,
    Known,
    Reason,
    decide,
    settle,
)
from aforo_authz.domain.features import Needs
from aforo_authz.domain.holding import holds_until_micros
from aforo_authz.policies import NOBODY, Policies, PoliciesUnavailableError
from aforo_authz.quotas import Quotas, QuotasUnavailableError
from aforo_authz.server import INVALID_ARGUMENT, UNAVAILABLE, RpcError

PATH = "/envoy.service.auth.v3.Authorization/Check"
# What is left of the caller's time for everything but Redis.
OWN_SHARE_S = 0.01
DECISIONS_KEPT_MAX = 4096

# (decision, decision id, seconds it took, call, Unix time in microseconds)
Observer = Callable[[Decision, str, float, Call, int], None]


class _Made(NamedTuple):
    """A decision that can be given again."""

    decision: Decision
    since_micros: int
    until_micros: int
    on: tuple[Known, Needs]  # Kept alive: as long as they live, their ids are theirs alone.


class Authorization:
    """Decides calls. Answers at once where everything is remembered and nothing is counted.

    Args:
        policies: What is known of callers.
        quotas: Where calls are counted.
        now_micros: The clock: Unix time in microseconds, UTC.
        denials: How each reason is told.
        observe: Told of every decision, for metrics and log.
        stale_max_micros: See `decide`.
        redis_timeout_s: How long a decision waits for Redis, even if the caller would wait longer.
        identification: Where identities may come from.
    """

    def __init__(
        self,
        *,
        policies: Policies,
        quotas: Quotas,
        now_micros: Callable[[], int],
        denials: Mapping[Reason, Denial],
        observe: Observer,
        stale_max_micros: int,
        redis_timeout_s: float,
        identification: Identification,
    ) -> None:
        self._policies = policies
        self._quotas = quotas
        self._now_micros = now_micros
        self._denials = denials
        self._observe = observe
        self._stale_max_micros = stale_max_micros
        self._redis_timeout_s = redis_timeout_s
        self._identification = identification
        self._made: OrderedDict[tuple[int, int], _Made] = OrderedDict()

    def check(self, message: bytes, budget_s: float | None) -> bytes | Awaitable[bytes]:
        """Answer one CheckRequest with a CheckResponse, both serialised.

        Raises:
            RpcError: UNAVAILABLE if nothing is known of the caller because Redis doesn't answer:
                only an error of the call lets Envoy apply failure_mode_allow.
        """
        started_s = time.perf_counter()
        try:
            call = from_check_request(message, self._identification)
        except MalformedRequestError as error:
            raise RpcError(INVALID_ARGUMENT, str(error)) from error
        if not self._policies.ready:
            raise RpcError(UNAVAILABLE, "no complete sync was seen in Redis yet")
        redis_s = self._redis_timeout_s
        if budget_s is not None:
            redis_s = min(redis_s, max(budget_s - OWN_SHARE_S, 0.0))
        if call.presented is None:
            return self._decide(call, NOBODY, redis_s, started_s)
        known = self._policies.find(call.presented, redis_s)
        if isinstance(known, Known):
            return self._decide(call, known, redis_s, started_s)
        return self._decide_later(call, known, redis_s, started_s)

    async def _decide_later(
        self, call: Call, finding: Awaitable[Known], redis_s: float, started_s: float
    ) -> bytes:
        try:
            known = await finding
        except PoliciesUnavailableError as error:
            raise RpcError(UNAVAILABLE, str(error)) from error
        redis_left_s = max(redis_s - (time.perf_counter() - started_s), 0.0)
        answered = self._decide(call, known, redis_left_s, started_s)
        return answered if isinstance(answered, bytes) else await answered

    def _decide(
        self, call: Call, known: Known, redis_s: float, started_s: float
    ) -> bytes | Awaitable[bytes]:
        needs = call.needs(self._policies.rules)
        now_micros = self._now_micros()
        decision = self._decision_on(known, needs, now_micros)
        if decision.reservations:
            return self._reserve(call, decision, redis_s, started_s)
        return self._answer(call, decision, started_s, now_micros)

    def _decision_on(self, known: Known, needs: Needs, now_micros: int) -> Decision:
        """Decide, or give the last decision on the very same things again, while it holds."""
        key = (id(known), id(needs))
        made = self._made.get(key)
        if made is not None and made.since_micros <= now_micros < made.until_micros:
            return made.decision
        decision = decide(
            known, needs, now_micros=now_micros, stale_max_micros=self._stale_max_micros
        )
        if len(self._made) >= DECISIONS_KEPT_MAX:
            self._made.popitem(last=False)
        until_micros = holds_until_micros(
            decision, known, now_micros=now_micros, stale_max_micros=self._stale_max_micros
        )
        self._made[key] = _Made(decision, now_micros, until_micros, (known, needs))
        return decision

    async def _reserve(
        self, call: Call, decision: Decision, redis_s: float, started_s: float
    ) -> bytes:
        policy = decision.policy
        assert policy is not None, "only a policy has quotas"
        try:
            counted = await self._quotas.reserve(policy.tenant_id, decision.reservations, redis_s)
        except QuotasUnavailableError:
            counted = None
        now_micros = self._now_micros()
        settled = settle(decision, counted, now_micros=now_micros)
        return self._answer(call, settled, started_s, now_micros)

    def _answer(self, call: Call, decision: Decision, started_s: float, now_micros: int) -> bytes:
        # Unique, not secret: no call to the kernel is spent on it.
        decision_id = f"{random.getrandbits(128):032x}"
        response = to_check_response(
            decision,
            call,
            decision_id=decision_id,
            now_micros=now_micros,
            denials=self._denials,
        )
        seconds = time.perf_counter() - started_s
        self._observe(decision, decision_id, seconds, call, now_micros)
        return response


def system_clock_micros() -> int:
    return time.time_ns() // 1000
