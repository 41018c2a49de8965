"""One call from bytes to bytes: what waits for Redis, how long, and what an outage means."""

from collections.abc import Awaitable, Sequence

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from aforo_authz.authorize import OWN_SHARE_S, Authorization
from aforo_authz.check import Call, Identification, sha256_hex
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import Decision, Known, Reason
from aforo_authz.domain.features import Rules
from aforo_authz.domain.quotas import Reservation, Standing
from aforo_authz.policies import InMemoryPolicies, PoliciesUnavailableError, Presented
from aforo_authz.quotas import InMemoryQuotas, QuotasUnavailableError
from aforo_authz.server import INVALID_ARGUMENT, UNAVAILABLE, RpcError
from tests.authz_requests import Request, by_xds_protos
from tests.authz_samples import NOW, make_credential, make_policy, make_quota

KEY = "key"
MESSAGE = by_xds_protos(Request(headers={"x-api-key": KEY}))
REDIS_TIMEOUT_S = 0.05


class RemotePolicies:
    """As the near-cache does with a caller it has not seen: answers later, or can't."""

    def __init__(self, known: Known | None, *, ready: bool = True) -> None:
        self.known = known
        self.ready = ready
        self.rules = Rules(default_allows=True)
        self.budgets_s: list[float] = []

    def find(self, presented: Presented, budget_s: float) -> Awaitable[Known]:
        assert presented.sha256_hex == sha256_hex(KEY)
        self.budgets_s.append(budget_s)
        return self._find()

    async def _find(self) -> Known:
        if self.known is None:
            raise PoliciesUnavailableError("Redis is away")
        return self.known


class AbsentQuotas:
    """A store that does not answer."""

    async def reserve(
        self, tenant_id: str, reservations: Sequence[Reservation], budget_s: float
    ) -> tuple[Standing, ...]:
        raise QuotasUnavailableError(f"{tenant_id}: {len(reservations)} in {budget_s}")


class World:
    def __init__(
        self,
        policies: InMemoryPolicies | RemotePolicies,
        quotas: InMemoryQuotas | AbsentQuotas | None = None,
    ) -> None:
        self.observed: list[tuple[Decision, str, float, Call]] = []
        self.authorization = Authorization(
            policies=policies,
            quotas=quotas or InMemoryQuotas(),
            now_micros=lambda: NOW,
            denials=DENIALS,
            observe=lambda *told: self.observed.append(told),
            stale_max_micros=1_000_000,
            redis_timeout_s=REDIS_TIMEOUT_S,
            identification=Identification(),
        )

    async def reason(self, message: bytes = MESSAGE, *, budget_s: float | None = None) -> str:
        answered = self.authorization.check(message, budget_s)
        response = CheckResponse.FromString(
            answered if isinstance(answered, bytes) else await answered
        )
        return str(response.dynamic_metadata.fields["reason"].string_value)


def in_memory(policy_quota_limit: int | None = None) -> InMemoryPolicies:
    quotas = [make_quota(limit_units=policy_quota_limit)] if policy_quota_limit is not None else []
    return InMemoryPolicies(
        credentials={sha256_hex(KEY): make_credential()},
        policies={"acme": make_policy(*quotas)},
        rules=Rules(default_allows=True),
    )


def known(policy_quota_limit: int | None = None) -> Known:
    found = in_memory(policy_quota_limit).find(
        Presented(kind=make_credential().kind, sha256_hex=sha256_hex(KEY)), 1.0
    )
    assert isinstance(found, Known)
    return found


def test_a_remembered_caller_without_quotas_is_answered_in_the_same_turn() -> None:
    assert isinstance(World(in_memory()).authorization.check(MESSAGE, None), bytes)


async def test_a_caller_who_has_to_be_looked_up_is_answered_later() -> None:
    world = World(RemotePolicies(known(1)))

    assert [await world.reason() for _ in range(2)] == ["allowed", "quota_exceeded"]


@pytest.mark.parametrize(
    ("budget_s", "redis_s"),
    [
        (None, REDIS_TIMEOUT_S),
        (10.0, REDIS_TIMEOUT_S),
        (0.03, 0.03 - OWN_SHARE_S),
        (0.005, 0.0),
        (-1.0, 0.0),
    ],
)
async def test_redis_gets_no_more_time_than_the_caller_has(
    budget_s: float | None, redis_s: float
) -> None:
    policies = RemotePolicies(known())

    await World(policies).reason(budget_s=budget_s)

    assert policies.budgets_s == [pytest.approx(redis_s)]


async def test_a_caller_of_whom_nothing_can_be_known_is_an_outage_and_no_decision() -> None:
    world = World(RemotePolicies(None))

    with pytest.raises(RpcError) as raised:
        await world.reason()

    assert raised.value.code == UNAVAILABLE
    assert not world.observed


@pytest.mark.parametrize("message", [MESSAGE, by_xds_protos(Request())])
async def test_before_the_read_model_was_complete_once_nothing_is_decided(message: bytes) -> None:
    world = World(RemotePolicies(known(), ready=False))

    with pytest.raises(RpcError) as raised:
        await world.reason(message)

    assert raised.value.code == UNAVAILABLE


async def test_what_is_no_check_request_is_an_error_of_the_call() -> None:
    with pytest.raises(RpcError) as raised:
        await World(in_memory()).reason(b"\xff")

    assert raised.value.code == INVALID_ARGUMENT


async def test_a_call_that_cannot_be_counted_passes_marked_stale() -> None:
    world = World(in_memory(0), AbsentQuotas())

    assert await world.reason() == "allowed"
    assert world.observed[0][0].stale


async def test_every_decision_is_told_once_with_its_id_and_its_call() -> None:
    world = World(in_memory())

    await world.reason()
    await world.reason(by_xds_protos(Request(path="/other")))

    assert [told[0].reason for told in world.observed] == [Reason.ALLOWED, Reason.UNAUTHENTICATED]
    assert len({told[1] for told in world.observed}) == 2
    assert all(0 <= told[2] < 1 for told in world.observed)
    assert [told[3].path for told in world.observed] == ["/v1/chat", "/other"]
