"""Which tenants there are, and metric names that the catalog has: read from Redis, remembered."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from aforo_meter.domain.ingest_metrics import Metric, NamedMeter, metrics_of
from aforo_meter.ingest.redis_link import SYNC_KEY, RedisAwayError, RedisLink
from aforo_proto import contract_pb2, metering_pb2, policy_pb2

FRESH_S: Final = 5.0
UNKNOWN_FRESH_S: Final = 1.0  # A tenant that was just created is not refused for long.
TENANTS_MAX: Final = 100_000
ASKED_MAX: Final = 500  # In one round trip.
METERING_KEY: Final = "aforo:v1:metering"
METERING_POLL_S: Final = 1.0

log = structlog.get_logger()


class Tenants:
    """Tenant ids with the subscription in force; those that don't exist too, for a moment."""

    def __init__(self, link: RedisLink, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock_s = clock_s
        self._known: OrderedDict[str, tuple[str | None, float]] = OrderedDict()

    async def subscriptions(self, tenant_ids: Collection[str]) -> Mapping[str, str | None]:
        """Return each tenant's subscription; None for those that don't exist.

        Raises:
            RedisAwayError: One is not known, and Redis can't be asked.
        """
        now_s = self._clock_s()
        asked = [name for name in tenant_ids if not self._is_fresh(name, now_s)]
        for start in range(0, len(asked), ASKED_MAX):
            await self._ask(asked[start : start + ASKED_MAX])
        found = {name: self._known[name][0] for name in tenant_ids}
        while len(self._known) > TENANTS_MAX:
            self._known.popitem(last=False)
        return found

    def _is_fresh(self, tenant_id: str, now_s: float) -> bool:
        found = self._known.get(tenant_id)
        if found is None:
            return False
        return now_s - found[1] <= (UNKNOWN_FRESH_S if found[0] is None else FRESH_S)

    async def _ask(self, tenant_ids: Sequence[str]) -> None:
        commands = [
            ("MGET", f"aforo:v1:{{{name}}}:policy", f"aforo:v1:{{{name}}}:contract")
            for name in tenant_ids
        ]
        try:
            *pairs, synced = await self._link.ask(*commands, ("EXISTS", SYNC_KEY))
        except RedisAwayError:
            if all(self._subscription(name) is not None for name in tenant_ids):
                return  # Known tenants go on.
            raise
        now_s = self._clock_s()
        for name, (policy, contract) in zip(tenant_ids, pairs, strict=True):
            subscription = _subscription_of(policy, contract)
            if subscription is None and not synced:
                # Redis was emptied: what is missing may just not be there yet.
                subscription = self._subscription(name)
                if subscription is None:
                    raise RedisAwayError("redis holds no complete sync")
            self._known[name] = (subscription, now_s)
            self._known.move_to_end(name)

    def _subscription(self, tenant_id: str) -> str | None:
        found = self._known.get(tenant_id)
        return None if found is None else found[0]


class MetricNames:
    """Metric names that are known now. The built-in ones are, whatever Redis does."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._value: bytes | None = None
        self.metrics: Mapping[str, Metric] = metrics_of()

    async def follow(self) -> None:
        """Look for a changed catalog each second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(METERING_POLL_S)

    async def look(self) -> None:
        try:
            (value,) = await self._link.ask(("GET", METERING_KEY))
        except RedisAwayError:
            return
        if value is None or value == self._value:
            return  # An emptied Redis takes no name away.
        self._value = value
        try:
            message = metering_pb2.Metering.FromString(value)
        except DecodeError:
            log.error("the catalog's meters can't be read; the last known hold", key=METERING_KEY)
            return
        self.metrics = metrics_of(
            NamedMeter(meter=one.meter, unit=one.unit, aliases=tuple(one.aliases))
            for one in message.meters
        )
        log.info("meters read", meters=len(message.meters), version=message.catalog_version)


def _subscription_of(policy: bytes | None, contract: bytes | None) -> str | None:
    """Return the subscription that either names; None if neither is there."""
    if policy is None and contract is None:
        return None
    try:
        if policy is not None:
            return policy_pb2.Policy.FromString(policy).subscription_id
        return contract_pb2.Contract.FromString(contract or b"").subscription_id
    except DecodeError:
        return ""  # There is such a tenant; which subscription, the ledger will tell.
