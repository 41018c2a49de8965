"""`aforo-authz explain`: what would be decided now, by which rule, on which values. Writes nothing.

It reads Redis itself and decides with the code that decides live. A serving process may remember a
value a few milliseconds longer, and all of them while Redis does not answer it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from aforo_authz import read_model
from aforo_authz.check import Call, to_check_response
from aforo_authz.denials import Denial
from aforo_authz.domain.access import (
    Credential,
    CredentialKind,
    Decision,
    Known,
    Margin,
    Reason,
    decide,
    settle,
)
from aforo_authz.domain.features import Rules
from aforo_authz.domain.trace import Check, trace
from aforo_authz.policies import Presented, same_kind
from aforo_authz.quotas import InMemoryQuotas
from aforo_authz.redis_link import RedisAnswerError
from aforo_authz.redis_nodes import RedisNodes
from aforo_authz.redis_url import Target
from aforo_proto import margin_pb2, policy_pb2

READ_S_MAX = 2.0
# The read model's messages, for what decisions don't need: versions and times.
_MESSAGES: Mapping[str, Any] = {
    "credential": policy_pb2.Credential,
    "policy": policy_pb2.Policy,
    "routes": policy_pb2.Routes,
    "sync": policy_pb2.SyncState,
    "margin": margin_pb2.Margin,
    "partition": margin_pb2.ConsumeState,
}


class UnexplainableError(Exception):
    """Nothing can be said; the message says why, and what to do."""


class UnknownTenantError(UnexplainableError):
    """The read model knows no tenant of this name."""

    def __init__(self, tenant_id: str, policy_key: str) -> None:
        super().__init__(
            f"nobody knows a tenant {tenant_id!r}: {policy_key} is not in Redis; is it in the"
            " catalog (aforo-admin check), and has aforo-admin sync run since?"
        )
        self.tenant_id = tenant_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whose call, and which."""

    call: Call
    tenant_id: str = ""  # Instead of a proof of identity: as if a good one had been shown.
    now_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One value that the decision was made on."""

    name: str
    key: str
    found: bool
    catalog_version: str = ""
    at_micros: int = 0  # When it was true, by its writer's clock; 0: it does not say.


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision, and everything that led to it."""

    decision: Decision
    response: bytes  # What Envoy would be answered: a CheckResponse.
    checks: tuple[Check, ...]
    rule: int | None  # The place of the rule that matched, from 0.
    rules: Rules
    inputs: tuple[Input, ...]


async def explain(
    question: Question,
    target: Target,
    *,
    stale_max_micros: int,
    denials: Mapping[Reason, Denial],
) -> Explanation:
    """Decide as a serving process would, and tell how.

    Raises:
        UnexplainableError: Redis can't be asked, the read model in it is not complete, or it knows
            nothing of the tenant that was named.
    """
    call, now_micros = question.call, question.now_micros
    async with _reader(target) as reader:
        await reader.read("sync", read_model.SYNC_KEY)
        if not reader.inputs[-1].found:
            raise UnexplainableError(
                f"{read_model.SYNC_KEY} is not in Redis: the read model is empty or being filled;"
                " is aforo-admin sync running?"
            )
        rules: Rules = await reader.read("routes", read_model.ROUTES_KEY) or Rules()
        known = await _known(question, reader)
        needs = call.needs(rules)
        decision = decide(known, needs, now_micros=now_micros, stale_max_micros=stale_max_micros)
        if decision.reservations:
            counters = await _counters(decision, reader)
            counted = await counters.reserve(_tenant_of(decision), decision.reservations, 0.0)
            decision = settle(decision, counted, now_micros=now_micros)
    return Explanation(
        decision=decision,
        response=to_check_response(
            decision, call, decision_id="0" * 32, now_micros=now_micros, denials=denials
        ),
        checks=trace(known, decision, now_micros=now_micros, stale_max_micros=stale_max_micros),
        rule=rules.position_of(method=call.method, path=call.path),
        rules=rules,
        inputs=tuple(reader.inputs),
    )


async def _known(question: Question, reader: "_Reader") -> Known:
    presented = question.call.presented
    credential: Credential | None = None
    if question.tenant_id:
        credential = Credential(
            tenant_id=question.tenant_id,
            kind=CredentialKind.API_KEY,
            credential_id="(assumed)",
        )
    elif presented is not None:
        credential = await _credential(presented, reader)
    if credential is None:
        return Known(presented=presented is not None)
    policy_key = read_model.policy_key(credential.tenant_id)
    policy = await reader.read("policy", policy_key)
    if policy is None and question.tenant_id:
        # With a credential we would know whose it is; of a bare name we know nothing.
        raise UnknownTenantError(question.tenant_id, policy_key)
    margin: Margin | None = await reader.read("margin", read_model.margin_key(credential.tenant_id))
    if margin is None:
        return Known(presented=True, credential=credential, policy=policy)
    confirmed_micros = await reader.read("partition", read_model.consumed_key(margin.partition))
    return Known(
        presented=True,
        credential=credential,
        policy=policy,
        margin=margin,
        margin_confirmed_micros=confirmed_micros or 0,
    )


async def _credential(presented: Presented, reader: "_Reader") -> Credential | None:
    key = read_model.credential_key(presented.sha256_hex)
    return same_kind(await reader.read("credential", key), presented)


async def _counters(decision: Decision, reader: "_Reader") -> InMemoryQuotas:
    """Return a copy of the counters: what is counted in it, Redis never hears of."""
    tenant_id = _tenant_of(decision)
    used_units: dict[tuple[str, str, int], int] = {}
    for wish in decision.reservations:
        window_start_s = wish.window.start_s
        key = read_model.counter_key(tenant_id, wish.quota.quota_id, window_start_s)
        value = await reader.read_raw("counter", key)
        used_units[tenant_id, wish.quota.quota_id, window_start_s] = int(value or 0)
    return InMemoryQuotas(used_units)


def _tenant_of(decision: Decision) -> str:
    assert decision.policy is not None, "only a policy has quotas"
    return decision.policy.tenant_id


class _Reader:
    """Reads values, and keeps a list of what it has read."""

    def __init__(self, nodes: RedisNodes) -> None:
        self.inputs: list[Input] = []
        self._nodes = nodes

    async def read(self, name: str, key: str) -> Any:  # noqa: ANN401 - by the kind of the key
        """Return a decoded value, None if there is none."""
        value = await self.read_raw(name, key)
        try:
            return read_model.decode(key, value)
        except read_model.UnreadableValueError as error:
            raise UnexplainableError(str(error)) from error

    async def read_raw(self, name: str, key: str) -> bytes | None:
        try:
            value: bytes | None = await self._nodes.ask(key, "GET", key, budget_s=READ_S_MAX)
        except RedisAnswerError as error:
            raise UnexplainableError(f"cannot read {shown(key)}: {error}") from error
        self.inputs.append(_input(name, key, value))
        return value


def _input(name: str, key: str, value: bytes | None) -> Input:
    kind = _MESSAGES.get(name)
    if value is None or kind is None:
        return Input(name=name, key=shown(key), found=value is not None)
    message = kind.FromString(value)
    at_micros = getattr(message, "as_of_micros", 0) or getattr(message, "completed_at_micros", 0)
    return Input(
        name=name,
        key=shown(key),
        found=True,
        catalog_version=getattr(message, "catalog_version", ""),
        at_micros=at_micros,
    )


def shown(key: str) -> str:
    """Return a key for people to read: of a credential's hash only the beginning."""
    prefix = read_model.credential_key("")
    return key[: len(prefix) + 8] + "…" if key.startswith(prefix) else key


@contextlib.asynccontextmanager
async def _reader(target: Target) -> AsyncIterator[_Reader]:
    nodes = RedisNodes(target, prefix=None)
    running = asyncio.get_running_loop().create_task(nodes.run())
    try:
        async with asyncio.timeout(READ_S_MAX):
            await nodes.wait_connected()
        yield _Reader(nodes)
    except TimeoutError as error:
        raise UnexplainableError(
            f"Redis can't be reached: {nodes.last_error or 'no answer'}; see AFORO_AUTHZ_REDIS_URL"
        ) from error
    finally:
        running.cancel()
        await asyncio.wait([running])
