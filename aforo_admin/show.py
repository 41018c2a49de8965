"""What Redis holds of one tenant, as text: policy, contract, margin, and how old each is."""

from datetime import datetime

from google.protobuf.message import DecodeError, Message
from redis.asyncio import Redis

from aforo_admin.read_model import PREFIX, SYNC_KEY, tenant_key
from aforo_admin.readable import age_text, fields_of, margin_ratio_text
from aforo_proto.contract_pb2 import Contract
from aforo_proto.margin_pb2 import MARGIN_STATE_DEFINED, ConsumeState, Margin
from aforo_proto.policy_pb2 import Policy, SyncState


class UnknownTenantError(Exception):
    """Redis holds nothing of a tenant."""


async def tenant_text(redis: Redis, tenant_id: str, now: datetime) -> str:
    """Read and describe what Redis holds of a tenant.

    Raises:
        UnknownTenantError: Nothing.
    """
    keys = [tenant_key(tenant_id, name) for name in (b"policy", b"contract", b"margin")]
    policy, contract, margin, sync = await redis.mget([*keys, SYNC_KEY])
    if policy is None and contract is None and margin is None:
        raise UnknownTenantError(
            f"Redis holds nothing of a tenant {tenant_id!r}; is it in the catalog, and has "
            "aforo-admin sync run?"
        )
    parts = [
        _section("policy", Policy, policy),
        _section("contract", Contract, contract),
        _section("margin", Margin, margin),
        await _ages(redis, margin, sync, now),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _section(title: str, kind: type[Message], value: object) -> list[str]:
    if not isinstance(value, bytes):
        return [title, "  not in Redis"]
    try:
        message = kind.FromString(value)
    except DecodeError:
        return [title, "  unreadable: its writer may be newer than this program"]
    fields = fields_of(message)
    if isinstance(message, Margin):
        defined = message.state == MARGIN_STATE_DEFINED
        fields["gross_margin_ratio"] = margin_ratio_text(
            revenue_nanos=message.revenue_nanos if defined else 0, cogs_nanos=message.cogs_nanos
        )
    width = max(len(name) for name in fields)
    return [title, *(f"  {name:<{width}}  {text}" for name, text in fields.items())]


async def _ages(redis: Redis, margin: object, sync: object, now: datetime) -> list[str]:
    lines = ["ages"]
    if isinstance(sync, bytes):
        state = SyncState.FromString(sync)
        age = age_text(state.completed_at_micros, now)
        lines.append(f"  last complete sync    {age}, version {state.catalog_version}")
    else:
        lines.append("  last complete sync    none: Redis was emptied, or sync has not run")
    if isinstance(margin, bytes):
        read = Margin.FromString(margin)
        lines.append(f"  margin worked out     {age_text(read.as_of_micros, now)}")
        value = await redis.get(PREFIX + b"consumed:%d" % read.partition)
        if isinstance(value, bytes):
            confirmed = age_text(ConsumeState.FromString(value).as_of_micros, now)
            lines.append(f"  usage complete as of  {confirmed}")
    return lines
