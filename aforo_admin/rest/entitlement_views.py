"""May a tenant use a feature now? By the code that decides live; nothing is counted."""

from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from django.http import HttpRequest, HttpResponse

from aforo_admin.control.models import Tenant
from aforo_admin.domain.problems import day
from aforo_admin.places import places
from aforo_admin.rest.authentication import caller_for
from aforo_admin.rest.operations import Operation, Schema
from aforo_admin.rest.problems import ApiError, NotFoundError
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.writes import shown
from aforo_admin.screens import stores
from aforo_authz.check import Call
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import API_CALLS, Decision, Outcome
from aforo_authz.domain.quotas import Standing
from aforo_authz.explain import Explanation, Question, UnexplainableError, explain
from aforo_authz.redis_url import RedisUrlError, parse_redis_url

# As aforo-authz has it unless it is told otherwise.
STALE_MAX_MICROS: Final = 300 * 1_000_000
ENTITLEMENT: Final[Schema] = {
    "type": "object",
    "properties": {
        "allowed": {"type": "boolean"},
        "reason": {"type": "string"},
        "plan": {"type": ["string", "null"]},
        "feature": {"type": "string"},
        "remaining_quota": {"type": ["integer", "null"]},
        "quota_reset": {"type": ["string", "null"]},
        "entitlements": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["allowed", "plan", "feature", "remaining_quota", "quota_reset", "entitlements"],
}


def operations() -> Iterator[Operation]:
    yield Operation(
        method="GET",
        path="/entitlements/{tenant}/{feature}",
        view=get_entitlement,
        summary="May a tenant use a feature now? Nothing is counted",
        tag="entitlements",
        gives=ENTITLEMENT,
    )


def get_entitlement(request: HttpRequest, *, tenant: str, feature: str) -> HttpResponse:
    caller_for(request, Scope.ENTITLEMENTS_READ, tenant=tenant)
    if not Tenant.objects.filter(pk=tenant).exists():
        raise NotFoundError("such tenant")
    decision = stores.run(_decide(tenant, feature)).decision
    policy = decision.policy
    tightest = _tightest(decision)
    return shown(
        {
            "allowed": decision.outcome is not Outcome.BLOCK,
            "reason": decision.reason.value,
            "plan": policy and policy.plan_id,
            "feature": feature,
            "remaining_quota": None if tightest is None else _remaining(tightest, decision),
            "quota_reset": None if tightest is None else _reset(tightest),
            "entitlements": sorted(policy.features) if policy else [],
        }
    )


async def _decide(tenant: str, feature: str) -> Explanation:
    call = Call(
        presented=None,
        method="GET",
        path="/",
        route_features=(feature,),
        provider="",
        spoofed_headers=(),
    )
    question = Question(call=call, tenant_id=tenant, now_micros=stores.now_micros())
    try:
        target = parse_redis_url(places().redis())
    except RedisUrlError as error:
        raise UnexplainableError(str(error)) from error
    return await explain(question, target, stale_max_micros=STALE_MAX_MICROS, denials=DENIALS)


def _tightest(decision: Decision) -> Standing | None:
    """Return the quota that leaves least. Those of money are not told of."""
    told = [each for each in decision.standings if not each.quota.is_of_money]
    return min(told, key=lambda each: _remaining(each, decision), default=None)


def _remaining(standing: Standing, decision: Decision) -> int:
    """Return what is left before a call, where the decision stands after it."""
    counted = standing.quota.meter == API_CALLS and decision.outcome is not Outcome.BLOCK
    used = standing.used_units - (decision.needs.weight_units if counted else 0)
    return max(0, standing.quota.limit_units - used)


def _reset(standing: Standing) -> str:
    return day(datetime.fromtimestamp(standing.window.end_s, tz=UTC))


def away(error: Exception) -> ApiError:
    """Return how it is told that a store does not answer."""
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE, "store-away", str(error), headers={"Retry-After": "5"}
    )
