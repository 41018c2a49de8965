"""A ledger and a read model without processes: usage is rated as consume does, and corrected."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.asyncio import Redis

from aforo_meter.batches import Rater, Readable, now_micros
from aforo_meter.contracts import Contracts
from aforo_meter.corrections import Scope
from aforo_meter.corrections_sql import SqlCorrections
from aforo_meter.domain.account import Account
from aforo_meter.domain.corrections import Adjustment, Kind, Row
from aforo_meter.domain.periods import DAY_MICROS, PeriodMicros, calendar_month
from aforo_meter.domain.rating import ChargeKey, Measured, Usage, rerate
from aforo_meter.domain.usage import Outcome
from aforo_meter.ledger import Partition, Place, Reprice
from aforo_meter.ledger_accounts import read_account
from aforo_meter.ledger_adjusting import Order
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.rerating import Rerated, Rerating
from aforo_meter.voiding import Voided, Voiding
from aforo_proto.contract_pb2 import PriceEntry
from tests.contract.consume_lab import Catalog

PARTITION = Partition("aforo.usage.v1", 0)
# A month that is over, and the one that goes on.
LAST_MONTH = calendar_month(calendar_month(now_micros()).start_micros - 1)
THIS_MONTH = calendar_month(now_micros())
HOUR = LAST_MONTH.start_micros + 10 * DAY_MICROS
UNIT = 1_000_000


def order(kind: Kind = Kind.RERATE, *, at_micros: int | None = None) -> Order:
    return Order(
        kind=kind,
        run_id=f"{kind}-test",
        reason="a test",
        author="tester",
        now_micros=now_micros() if at_micros is None else at_micros,
    )


def usage(event_id: str, *measures: tuple[str, int], **more: Any) -> Usage:  # noqa: ANN401
    """Return usage of meters, in millionths of a unit."""
    fields: dict[str, Any] = {
        "tenant_id": "acme",
        "subscription_id": "sub-1",
        "features": ("api",),
        "occurred_at_micros": HOUR,
        "outcome": Outcome.ALLOW,
        "reason": "allowed",
        "shadow_reason": "",
        "provider": "",
        "model": "",
    }
    return Usage(
        event_id=event_id,
        measures=tuple(Measured(*one) for one in measures),
        **(fields | more),
    )


def entry(
    meter: str,
    nanos: int,
    *,
    from_micros: int = 0,
    per_units: int = 1,
    tier: int = 0,
    price_id: str = "",
) -> PriceEntry:
    return PriceEntry(
        price_id=price_id or f"{meter}@{nanos}/{per_units}/{from_micros}/{tier}",
        meter=meter,
        price_nanos=nanos,
        per_units=per_units,
        effective_from_micros=from_micros,
        tier_input_tokens_from=tier,
        source="catalog",
    )


@dataclass(kw_only=True)
class CorrectionsLab:
    """One ledger and one Redis."""

    ledger: SqlLedger
    catalog: Catalog
    redis: Redis
    offset: int = 0
    corrections: SqlCorrections = field(init=False)

    def __post_init__(self) -> None:
        self.corrections = SqlCorrections(self.ledger)

    @classmethod
    def on(cls, ledger: SqlLedger, redis_url: str) -> "CorrectionsLab":
        catalog = Catalog(redis.Redis.from_url(redis_url))
        catalog.contract("acme")
        return cls(ledger=ledger, catalog=catalog, redis=Redis.from_url(redis_url))

    async def close(self) -> None:
        self.catalog.redis.close()
        await self.redis.aclose()

    def prices(self, entries: Iterable[PriceEntry]) -> None:
        self.catalog.prices = list(entries)
        self.catalog.sync()

    async def known(self) -> tuple[Contracts, Rater]:
        contracts = Contracts(self.redis)
        await contracts.know([("acme", "")])
        return contracts, Rater(contracts, self.ledger)

    async def consume(self, *usages: Usage) -> None:
        _, rater = await self.known()
        first, self.offset = self.offset, self.offset + len(usages)
        batch = rater.batch(
            PARTITION,
            await rater.one_by_one([Readable(record=None, usage=one) for one in usages]),
            first_offset=first,
            next_offset=self.offset,
        )
        await self.ledger.apply(batch)

    async def reprice(self) -> int:
        """Give waiting usage its price, as consume does of itself."""
        contracts, rater = await self.known()
        rows = await self.ledger.unpriced("acme")
        if not rows:
            return 0
        moves = [(row, price) for row in rows if (price := rerate(row, contracts.prices("acme")))]
        written = await self.ledger.reprice(
            Place(PARTITION, self.offset),
            Reprice(moves=moves, currency="USD"),
            rater.watches(["acme"]),
            now_micros=now_micros(),
        )
        return written.rows_repriced

    async def rerate(
        self,
        *,
        apply: bool = True,
        corrections: SqlCorrections | None = None,
        **scope: Any,  # noqa: ANN401
    ) -> Rerated:
        run = Rerating(
            corrections or self.corrections,
            Contracts(self.redis),
            order() if apply else None,
        )
        return await run.run(Scope(**({"tenant_id": "acme"} | scope)))

    async def void(self, *, apply: bool = True, **scope: Any) -> Voided:  # noqa: ANN401
        return await self._voiding(apply=apply).rows(Scope(**({"tenant_id": "acme"} | scope)))

    async def void_event(self, one: Usage, *, apply: bool = True) -> Voided:
        return await self._voiding(apply=apply).event(one)

    def _voiding(self, *, apply: bool) -> Voiding:
        return Voiding(self.corrections, Contracts(self.redis), order(Kind.VOID) if apply else None)

    async def rows(self) -> Mapping[ChargeKey, Row]:
        return await self.corrections.rows(Scope())

    async def totals(self) -> dict[tuple[str, str, str], Row]:
        """Return what the ledger has by meter, model and price, adjustments included."""
        found: dict[tuple[str, str, str], Row] = {}
        for key, row in (await self.rows()).items():
            name = (key.meter, key.model, key.price_id)
            found[name] = found.get(name, Row()).plus(row)
        return found

    async def cogs_nanos(self, period: PeriodMicros = LAST_MONTH) -> int:
        return sum(
            one.cogs_nanos
            for one in await self.corrections.periods(None)
            if one.period.start_micros == period.start_micros
        )


async def account(lab: CorrectionsLab) -> Account:
    """Return what revenue is reckoned from."""
    period = ("acme", "sub-1", LAST_MONTH.start_micros)
    return await lab.ledger.read(lambda sql: read_account(sql, *period))


def sums(adjustments: Sequence[Adjustment]) -> Row:
    total = Row()
    for one in adjustments:
        total = total.plus(one.change)
    return total
