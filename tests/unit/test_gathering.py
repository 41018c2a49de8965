"""What waits for more of its kind, and what does not."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.batches import Rater
from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.prices import PriceBook, PriceEntry, PriceList, Prices
from aforo_meter.domain.quotas import Quota, WindowKind
from aforo_meter.domain.terms import Terms
from aforo_meter.gathering import BEHIND_RECORDS, BYTES_MAX, KINDS_FEW, Gathering, Gatherings
from aforo_meter.kinds import Kind
from aforo_meter.ledger import Partition, Standing, Watch
from aforo_meter.partitions import Owned
from aforo_meter.wire import usage_of
from aforo_proto import usage_pb2
from tests.unit.test_kinds import HOUR, FormerPeriods, Record

SOON_S = 3600.0
MANY = KINDS_FEW + 60
PRICE_NANOS = 7
FEE_NANOS = 1_000_000_000


class AnyContract:
    """Each tenant has a contract, but for strangers; a call costs seven nanos."""

    def __init__(self) -> None:
        self.generation = 1
        self.quotas: tuple[Quota, ...] = ()
        entry = PriceEntry(
            price_id="calls",
            meter="api.calls",
            price_nanos=PRICE_NANOS,
            per_units=1,
            source="test",
            effective_from_micros=0,
        )
        self.book = PriceBook(version="1", currency="USD", own=(PriceList(entries=(entry,)),))
        self._terms: dict[str, Terms] = {}

    async def know(self, _: Any) -> None:  # noqa: ANN401
        """Everything is."""

    def terms(self, tenant_id: str) -> Terms | None:
        if tenant_id.startswith("stranger"):
            return None
        return self._terms.setdefault(
            tenant_id,
            Terms(
                tenant_id=tenant_id,
                subscription_id="sub-1",
                anchor_micros=HOUR - 24 * HOUR_MICROS,
                thresholds=Thresholds(),
                committed_fee_nanos=FEE_NANOS,
                quotas=self.quotas,
            ),
        )

    def prices(self, _: str) -> Prices:
        return Prices(self.book)


def call(tenant: str, number: int) -> Record:
    event = usage_pb2.UsageEvent(
        event_id=f"e-{tenant}-{number}",
        source="envoy:a",
        tenant_id=tenant,
        subscription_id="sub-1",
        occurred_at_micros=HOUR + 5,
        outcome=usage_pb2.OUTCOME_ALLOW,
        measures=[usage_pb2.Measure(meter="api.calls", units=1)],
    )
    return Record(event.SerializeToString(), key=tenant.encode())


class Bench:
    """Gatherings of one partition, with what the ledger would say."""

    def __init__(self) -> None:
        self.contracts = AnyContract()
        self.rater = Rater(self.contracts, FormerPeriods())  # type: ignore[arg-type]
        self.gatherings = Gatherings(self.rater, calm_s_max=SOON_S)
        self.owned = Owned(Partition("usage", 0), 0, commit_s=SOON_S)
        self._number = 0

    async def add(self, tenants: Iterable[str]) -> None:
        records = []
        for tenant in tenants:
            self._number += 1
            records.append(call(tenant, self._number))
        await self.gatherings.add(self.owned, records)

    async def calm(self, *tenants: str, left_nanos: int = 10**9) -> None:
        """Let kinds be known, and the ledger say that levels hold for so much more."""
        await self.add(tenants)
        await self.add(tenants)  # A shape that has come twice is known by sight.
        while (gathering := self.due()) is not None:
            assert gathering.tally is not None
            await self.rater.finish(gathering.tally)
        self.settled(*tenants, left_nanos=left_nanos)

    def settled(self, *tenants: str, left_nanos: int = 10**9) -> None:
        """Let the ledger say so, as a transaction of usage or one of upkeep ends."""
        watches = self.rater.watches(tenants)
        standings = {name: _standing(watch, left_nanos) for name, watch in watches.items()}
        self.gatherings.settled(self.owned, tenants, watches, standings)

    def due(self) -> Gathering | None:
        for owned, gathering in self.gatherings.due():
            assert gathering.follows(owned)
            return self.gatherings.take(owned)
        return None

    def hurried(self) -> set[str]:
        return {name for _, gathering in self.gatherings.hurried() for name in gathering.hurried}


def _standing(watch: Watch, left_nanos: int) -> Standing:
    return Standing(
        tenant_id=watch.tenant_id,
        subscription_id=watch.subscription_id,
        period=watch.period,
        assessment=Assessment(
            level=Level.NONE,
            state=MarginState.DEFINED,
            revenue_nanos=10**9,
            cogs_nanos=100,
            allowance_nanos=0,
        ),
        unpriced_rows=0,
        estimated_cogs_nanos=0,
        currency="USD",
        assessed_at_micros=HOUR,
        catalog_version="1",
        price_book_version="1",
        holds_until_nanos=100 + left_nanos,
    )


def names(count: int) -> list[str]:
    return [f"t-{number}" for number in range(count)]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    # The period in force is the usage's.
    monkeypatch.setattr("aforo_meter.batches.now_micros", lambda: HOUR + 10)
    return Bench()


async def test_what_changes_no_level_waits(bench: Bench) -> None:
    await bench.calm("acme", "beta")

    await bench.add(["acme", "beta", "acme"])

    assert bench.due() is None
    assert bench.hurried() == set()


async def test_it_waits_no_longer_than_by_how_long_a_transaction_takes(bench: Bench) -> None:
    await bench.calm("acme")
    bench.owned.commit_s = 0.0

    await bench.add(["acme"])

    assert bench.due() is not None


async def test_who_was_never_seen_does_not_wait(bench: Bench) -> None:
    await bench.calm("acme")

    await bench.add(["acme", "newcomer"])

    assert bench.due() is not None


async def test_without_a_contract_there_is_no_level(bench: Bench) -> None:
    await bench.calm("stranger")

    await bench.add(["stranger"] * 50)

    assert bench.due() is None


async def test_a_level_that_may_change_goes_ahead_of_many_that_can_not(bench: Bench) -> None:
    await bench.calm(*names(MANY))
    bench.settled("t-7", left_nanos=1000 + 2 * PRICE_NANOS + 1)
    await bench.add(names(MANY))
    await bench.add(["t-7"])
    assert bench.hurried() == set()

    await bench.add(["t-7", "t-8"])

    assert bench.hurried() == {"t-7"}
    assert bench.due() is None


async def test_who_goes_ahead_takes_all_of_theirs_and_nothing_else(bench: Bench) -> None:
    await bench.calm(*names(MANY))
    await bench.add(names(MANY))
    bench.settled("t-7", left_nanos=0)
    await bench.add(["t-7", "t-8"])
    ((_, gathering),) = bench.gatherings.hurried()
    assert gathering.tally is not None

    ahead = bench.rater.rated(gathering.tally.split(gathering.hurried))
    rest = await bench.rater.finish(gathering.tally)

    assert {one.tenant_id for one in ahead.rated} == {"t-7"}
    assert sum(len(one.event_keys) for one in ahead.rated) == 2
    assert sum(len(one.event_keys) for one in rest.rated) == MANY
    assert "t-7" not in {one.tenant_id for one in rest.rated}


async def test_where_many_can_not_wait_nobody_does(bench: Bench) -> None:
    await bench.calm(*names(MANY))
    bench.settled(*names(MANY // 4), left_nanos=0)

    await bench.add(names(MANY))

    assert bench.due() is not None


async def test_what_waits_already_is_taken_off_what_the_ledger_says(bench: Bench) -> None:
    await bench.calm(*names(MANY))
    await bench.add(names(MANY))
    await bench.add(["t-7"] * 9)

    bench.settled("t-7", left_nanos=1000 + 10 * PRICE_NANOS + 1)
    await bench.add(["t-8"])
    assert bench.hurried() == set()
    await bench.add(["t-7"])

    assert bench.hurried() == {"t-7"}


async def test_usage_that_waits_is_measured_again_by_what_the_ledger_says(bench: Bench) -> None:
    """A price that was found, or a correction, may leave less room than was known."""
    await bench.calm(*names(MANY))
    await bench.add(names(MANY))
    assert bench.hurried() == set()

    bench.settled("t-7", left_nanos=1000 + PRICE_NANOS)

    assert bench.hurried() == {"t-7"}


@pytest.mark.parametrize(
    ("meter", "soft", "waits"),
    [
        ("llm.tokens.output", False, False),
        ("llm.tokens.output", True, True),  # Its calls pass.
        ("api.calls", False, True),  # Counted where calls are decided.
    ],
)
async def test_a_quota_that_the_ledger_decides_does_not_wait(
    meter: str, *, soft: bool, waits: bool, bench: Bench
) -> None:
    quota = Quota(quota_id="q", meter=meter, window=WindowKind.DAY, limit_units=10, soft=soft)
    bench.contracts.quotas = (quota,)
    await bench.calm("acme")

    await bench.add(["acme"])

    assert (bench.due() is None) is waits


async def test_large_records_are_not_gathered_without_bound(bench: Bench) -> None:
    await bench.calm("acme")
    large = call("acme", 1)
    large.value = b"x" * BYTES_MAX

    await bench.gatherings.add(bench.owned, [large])

    gathering = bench.due()
    assert gathering is not None
    assert gathering.is_full


async def test_what_is_due_does_not_wait_by_choice(bench: Bench) -> None:
    await bench.calm("acme")
    await bench.add(["acme"])
    assert bench.due() is None
    assert bench.owned.calm_records == 1

    bench.owned.commit_s = 0.0
    for _ in bench.gatherings.due():
        break

    assert bench.owned.calm_records == 0


async def test_who_is_behind_waits_for_nothing(bench: Bench) -> None:
    await bench.calm("acme")

    await bench.add(["acme"] * BEHIND_RECORDS)

    gathering = bench.due()
    assert gathering is not None
    assert gathering.is_behind


async def test_records_before_another_place_are_dropped(bench: Bench) -> None:
    await bench.calm("acme")
    await bench.add(["acme"])
    bench.owned.taken += 1
    bench.owned.commit_s = 0.0
    assert bench.due() is None

    await bench.add(["acme"])

    gathering = bench.due()
    assert gathering is not None
    assert len(gathering.records) == 1


async def test_under_other_prices_all_is_read_again(bench: Bench) -> None:
    await bench.calm("acme")
    await bench.add(["acme"])

    bench.contracts.generation += 1

    gathering = bench.due()
    assert gathering is not None
    assert gathering.tally is None
    assert len(gathering.records) == 1


async def test_what_can_not_be_read_now_is_read_as_it_is_settled(bench: Bench) -> None:
    async def away(_: Any) -> None:  # noqa: ANN401
        raise ConnectionRefusedError

    await bench.calm("acme")
    bench.contracts.know = away  # type: ignore[method-assign]

    await bench.add(["acme", "newcomer"])

    gathering = bench.due()
    assert gathering is not None
    assert gathering.tally is None
    assert len(gathering.records) == 2


@given(
    quantities=st.lists(st.integers(0, 10**18), min_size=1, max_size=4),
    prices=st.lists(
        st.tuples(st.integers(0, 10**15), st.integers(1, 10**9)), min_size=4, max_size=4
    ),
)
def test_a_cost_is_never_taken_for_less(
    quantities: list[int], prices: list[tuple[int, int]]
) -> None:
    meters = [f"meter-{number}" for number in range(4)]
    entries = tuple(
        PriceEntry(
            price_id=meter,
            meter=meter,
            price_nanos=price_nanos,
            per_units=per_units,
            source="test",
            effective_from_micros=0,
        )
        for meter, (price_nanos, per_units) in zip(meters, prices, strict=True)
    )
    usage = replace(usage_of(call("acme", 1).value or b""), measures=())
    book = PriceBook(version="1", currency="USD", own=(PriceList(entries=entries),))
    kind = Kind(
        usage,
        Prices(book),
        (),
        subscription_id="sub-1",
        period=PeriodMicros(HOUR, HOUR + HOUR_MICROS),
    )
    cells: dict[str, int] = {}
    for meter, quantity in zip(meters, quantities, strict=False):
        assert kind.learn(meter)
        cells[meter] = quantity
    exact = sum(
        Fraction(quantity * price_nanos, per_units * 1_000_000)
        for quantity, (price_nanos, per_units) in zip(quantities, prices, strict=False)
    )

    assert exact - 1 < kind.cost_nanos(cells) <= exact * Fraction(1001, 1000) + sum(quantities)
