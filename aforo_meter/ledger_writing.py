"""What happens inside one transaction of the ledger, statement by statement."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aforo_meter.database import Sql
from aforo_meter.domain.corrections import Kind
from aforo_meter.domain.margin import Assessment
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import (
    UNPRICED,
    ChargeKey,
    InterventionKey,
    LoggedKey,
    Rated,
)
from aforo_meter.domain.usage import API_CALLS
from aforo_meter.ledger import (
    Posted,
    PriceConflictError,
    Retention,
    Standing,
    TooLargeError,
    Watch,
    Written,
)
from aforo_meter.ledger_accounts import kept
from aforo_meter.ledger_adjusting import Adjusting, Order
from aforo_meter.ledger_calls import CallsWriting, move_parts
from aforo_meter.ledger_currency import require_currency
from aforo_meter.ledger_levels import Levels, level_that_holds, levels_that_hold, watched_period
from aforo_meter.ledger_memory import (
    INT64_MAX,
    Change,
    Figures,
    Memory,
    PeriodKey,
    PeriodState,
)
from aforo_meter.ledger_names import bounded
from aforo_meter.ledger_prepaid import Balances
from aforo_meter.ledger_rows import ChargeRows
from aforo_meter.ledger_seen import new_among, note
from aforo_meter.ledger_sessions import write_sightings
from aforo_meter.ledger_states import PeriodStates, Totals, estimated_part


def columns(key: type[NamedTuple]) -> str:
    return ", ".join(key._fields)


LOG = (
    f"INSERT{{or_rollback}} INTO logged ({columns(LoggedKey)}, calls)"  # noqa: S608
    f" SELECT {columns(LoggedKey)}, amount FROM {{given}} WHERE true"
    f" ON CONFLICT ({columns(LoggedKey)}) DO UPDATE SET calls = logged.calls + excluded.calls"
)
INTERVENE = (
    f"INSERT{{or_rollback}} INTO intervention ({columns(InterventionKey)}, count)"  # noqa: S608
    f" SELECT {columns(InterventionKey)}, amount FROM {{given}} WHERE true"
    f" ON CONFLICT ({columns(InterventionKey)})"
    " DO UPDATE SET count = intervention.count + excluded.count"
)
REPORTS = "INSERT INTO reporting_tenant (tenant_id) VALUES (?) ON CONFLICT (tenant_id) DO NOTHING"
PRICE = "SELECT price_nanos, per_units, currency FROM price WHERE price_id = ?"
NEW_PRICE = (
    "INSERT INTO price (price_id, meter, price_nanos, per_units, currency, effective_from_micros,"
    " tier_input_tokens_from, source, first_used_at_micros) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

NOTHING: Final = (0, 0, 0)


class Writing:
    """One transaction. The caller begins and ends it, and drops this object if it fails.

    What is written comes together first; `finish` writes it, many rows in one statement.
    """

    def __init__(self, sql: Sql, memory: Memory, currency: str, *, now_micros: int) -> None:
        self._sql = sql
        self._memory = memory
        self._currency = currency
        self._now_micros = now_micros
        memory.begin()
        self._rows = ChargeRows(sql, memory.rows, self._figures)
        self._states = PeriodStates(sql, memory.states)
        self._changes: dict[PeriodKey, Change] = {}  # Of periods' totals.
        self._ends: dict[PeriodKey, int] = {}
        self._watches: Mapping[str, Watch] = {}
        self._assessed: dict[str, Assessment] = {}
        self._balances = Balances(sql, memory.charged)
        self._levels = Levels(sql, self._balances, now_micros=now_micros)
        self.noted = 0  # Events that the ledger knows by now, and did not before.
        self._repriced = 0
        self._adjusting = Adjusting(sql)
        self._closed: dict[PeriodKey, bool] = {}
        # What is kept beside the charges, once these are written.
        self._late: list[tuple[ChargeKey, int, int]] = []
        self._moved: list[tuple[ChargeKey, str]] = []
        self._new_prices: dict[str, Figures] = {}
        self._reporting: set[str] = set()
        self._written_states: dict[PeriodKey, PeriodState] = {}

    def post(self, rated: Sequence[Rated], retention: Retention, *, look_first: bool) -> Posted:
        """Add what the ledger has not seen yet.

        Args:
            rated: What came.
            retention: How long the ledger is to know that it came.
            look_first: Ask which events are known. Without, it is taken that none is.

        Raises:
            LookFirstError: Some are.
        """
        new = new_among(self._sql, rated) if look_first and rated else rated
        hour = self._now_micros // HOUR_MICROS
        last_hours = {
            True: hour + 24 * retention.gateway_days,
            False: hour + 24 * retention.ingest_days,
        }
        for from_gateway, until in last_hours.items():
            keys = [k for r in new if r.usage.from_gateway is from_gateway for k in r.event_keys]
            note(self._sql, keys, keep_until_hour=until)
            self.noted += len(keys)
        self._learn(price for one in new for price in one.prices)
        for one in new:
            period = (one.tenant_id, one.subscription_id, one.period.start_micros)
            self._ends[period] = one.period.end_micros
        self._memory.is_sure = False  # Its rows change from here on.
        # A tool's rows are read once it is known that its name is kept.
        self._rows.know(key for one in new if not one.usage.tool for key, _ in one.charges)
        calls = CallsWriting(self._sql, keep_until_micros=max(last_hours.values()) * HOUR_MICROS)
        self._add_up(self._bounded(new), calls)
        write_sightings(self._sql, new)
        self._note_reporting(one.tenant_id for one in new if one.usage.is_reported)
        return Posted(duplicates=len(rated) - len(new), corrections=calls.corrections)

    def _bounded(self, new: Sequence[Rated]) -> Sequence[Rated]:
        kept = bounded(self._sql, new, self._rows.has)
        self._rows.know(key for one in kept for key, _ in one.charges)
        return kept

    def _add_up(self, new: Sequence[Rated], calls: CallsWriting) -> None:
        told: dict[ChargeKey, Change] = {}
        interventions: Counter[InterventionKey] = Counter()
        logged: Counter[LoggedKey] = Counter()
        for one in new:
            events = len(one.event_keys)
            is_end = is_logged = True
            if one.usage.call is None:
                self._add_all(one)
            else:
                changes, is_end, is_logged = calls.tell(one)
                for key, change in changes.items():
                    told[key] = _sum(told.get(key, NOTHING), change)
            if one.intervention is not None and is_end:
                interventions[one.intervention] += events
            if one.usage.logged is not None and is_logged:
                logged[one.usage.logged] += one.usage.logged_calls * events
        self._rows.know(told)
        for key, figures in told.items():
            self._add(key, *figures)
        calls.write()
        self._count(INTERVENE, interventions)
        self._count(LOG, logged)

    def reprice(self, moves: Iterable[tuple[ChargeKey, PriceEntry]]) -> None:
        """Move unpriced rows to their price. A row that is gone by now is left alone."""
        self._memory.is_sure = False
        for key, price in moves:
            assert key.price_id == UNPRICED
            self._learn([price])
            if self._is_closed(_period_of(key)) or self._adjusting.is_adjusted(key):
                self._moved.append((key, price.price_id))
                continue
            figures = self._rows.take(key)
            if figures is None:
                continue
            self._repriced += 1
            self._count_in(_period_of(key), (0, 0, -1))
            priced = key._replace(price_id=price.price_id, input_tokens=0)
            self._rows.know([priced])
            self._add(priced, *figures)
            move_parts(self._sql, key, price_id=price.price_id)

    def assess(self, watches: Mapping[str, Watch]) -> None:
        """Let the tenants' levels be brought up to date, with an alert for each that changes."""
        self._watches = watches

    def finish(self) -> None:
        """Write it.

        Raises:
            TooLargeError: A period's COGS would not fit.
            StaleError: What was remembered of the ledger is not what it holds.
        """
        watched = {watched_period(watch): watch for watch in self._watches.values()}
        self._states.know({**self._changes, **watched})
        changed, calm = {}, self._memory.calm
        for key in self._changes.keys() | watched.keys():
            watch, state, totals = watched.get(key), self._states.get(key), self._totals_of(key)
            held = level_that_holds(watch, state, totals.cogs_nanos, calm) if watch else None
            if held is not None:
                self._assessed[key[0]] = held
            elif watch is not None:
                changed[key] = watch
            if key in self._changes or held is not None:
                self._states.set(key, totals, assessed=watch is not None)
        self._rows.write()
        self._written_states.update(self._states.write(self._ends, now_micros=self._now_micros))
        adjusted = self._adjust()
        changed |= {key: watched[key] for key in adjusted if key in watched}
        for watch in changed.values():
            self._levels.assess(watch)
            self._assessed.pop(watch.tenant_id, None)
        # Rows are remembered only together with the state that they belong to.
        again = PeriodStates(self._sql, {})
        again.know({**dict.fromkeys(adjusted), **changed})
        self._written_states.update(again.read)
        self._assessed |= levels_that_hold(changed, again.read, calm)

    def _adjust(self) -> Collection[PeriodKey]:
        """Add beside the charges what does not go into them; return the periods that it changes."""
        late = self._order(Kind.LATE, "it came after the period was closed")
        for key, quantity_micros, extra_micros in self._late:
            self._adjusting.change(key, quantity_micros, extra_micros, late)
        rerate = self._order(Kind.RERATE, "there is a price for it now")
        for key, price_id in self._moved:
            self._repriced += bool(self._adjusting.rerate({key: price_id}, rerate))
        return self._adjusting.finish()

    def remember(self) -> None:
        """Keep in memory what is committed now."""
        memory = self._memory
        memory.prices.update(self._new_prices)
        memory.reporting.update(self._reporting)
        memory.keep_rows()
        memory.keep_states(self._written_states)
        memory.keep_charged(self._balances.read)

    def written(self) -> Written:
        return Written(
            transitions=self._levels.transitions,
            rows_repriced=self._repriced,
            standings={
                tenant_id: self._standing_of(self._watches[tenant_id], assessment)
                for tenant_id, assessment in self._assessed.items()
            },
        )

    def _totals_of(self, key: PeriodKey) -> Totals:
        state = self._states.get(key)
        change = self._changes.get(key, NOTHING)
        before = (
            NOTHING
            if state is None
            else (state.cogs_nanos, state.estimated_cogs_nanos, state.unpriced_rows)
        )
        totals = Totals._make(_sum(before, change))
        if totals.cogs_nanos > INT64_MAX:
            raise TooLargeError(key[0])
        return totals

    def _standing_of(self, watch: Watch, assessment: Assessment) -> Standing:
        key = watched_period(watch)
        state, calm = self._written_states[key], self._memory.calm.get(key)
        return Standing(
            tenant_id=watch.tenant_id,
            subscription_id=watch.subscription_id,
            period=watch.period,
            assessment=assessment,
            unpriced_rows=state.unpriced_rows,
            estimated_cogs_nanos=estimated_part(state.estimated_cogs_nanos, state.cogs_nanos),
            currency=watch.currency,
            assessed_at_micros=self._now_micros,
            catalog_version=watch.catalog_version,
            price_book_version=watch.price_book_version,
            contract_currency=watch.currency,
            contract_revenue_nanos=kept(watch.revenue_nanos),
            holds_until_nanos=0 if calm is None else calm.until_nanos,
        )

    def _is_closed(self, period: PeriodKey) -> bool:
        """Return whether what comes is kept beside the charges. Before its end no period is."""
        if self._ends.get(period, 0) > self._now_micros:
            return False
        if period not in self._closed:
            self._closed[period] = self._adjusting.is_closed(*period)
        return self._closed[period]

    def _order(self, kind: Kind, reason: str) -> Order:
        return Order(
            kind=kind,
            run_id="consume",
            reason=reason,
            author="aforo-meter consume",
            now_micros=self._now_micros,
        )

    def _count(self, statement: str, counts: Counter[Any]) -> None:
        if counts:
            names = next(iter(counts))._fields
            columns = dict(zip(names, zip(*counts, strict=True), strict=True))
            given, values = self._sql.given(**columns, amount=list(counts.values()))
            filled = statement.format(given=given, or_rollback=self._sql.or_rollback)
            self._sql.execute(filled, values)

    def _note_reporting(self, tenant_ids: Iterable[str]) -> None:
        self._reporting |= set(tenant_ids) - self._memory.reporting
        self._sql.executemany(REPORTS, [(tenant_id,) for tenant_id in sorted(self._reporting)])

    def _learn(self, prices: Iterable[PriceEntry]) -> None:
        """Keep prices that are used for the first time.

        Raises:
            PriceConflictError: One was used before with other figures, or is in another currency
                than what was used before.
        """
        conflicts = []
        by_id = {price.price_id: price for price in prices}
        new = [price_id for price_id in by_id if self._figures(price_id) is None]
        if new:
            require_currency(self._sql, self._currency, new)
        for price in by_id.values():
            given = Figures(price.price_nanos, price.per_units, self._currency)
            known = self._figures(price.price_id)
            if known is None:
                self._sql.execute(
                    NEW_PRICE,
                    (
                        *(price.price_id, price.meter, *given, price.effective_from_micros),
                        *(price.tier_input_tokens_from, price.source, self._now_micros),
                    ),
                )
                self._new_prices[price.price_id] = given
            elif known != given:
                conflicts.append(price.price_id)
        if conflicts:
            raise PriceConflictError(conflicts)

    def _figures(self, price_id: str) -> Figures | None:
        known = self._memory.prices.get(price_id) or self._new_prices.get(price_id)
        if known is None:
            row = self._sql.execute(PRICE, (price_id,)).fetchone()
            if row is not None:
                known = self._new_prices[price_id] = Figures._make(row)
        return known

    def _add_all(self, one: Rated) -> None:
        """Add what usage measured, of a call of which nothing else tells."""
        usage, period = one.usage, (one.tenant_id, one.subscription_id, one.period.start_micros)
        if self._is_closed(period):
            for key, quantity_micros in one.charges:
                self._add(key, quantity_micros, _extra(one, key, quantity_micros), 0)
            return
        cogs_nanos = estimated_nanos = unpriced = 0
        more, change = usage.weight_units > 1, self._rows.change
        for key, quantity_micros in one.charges:
            extra_micros = _extra(one, key, quantity_micros) if more else 0
            estimated_micros = quantity_micros if usage.estimated else 0
            changed = change(key).add(quantity_micros, extra_micros, estimated_micros)
            assert changed is not None, "what is measured is not below zero"
            cogs_nanos += changed[0]
            estimated_nanos += changed[1]
            unpriced += changed[2]
        if one.charges:
            self._count_in(period, (cogs_nanos, estimated_nanos, unpriced))

    def _add(
        self, key: ChargeKey, quantity_micros: int, extra_micros: int, estimated_micros: int
    ) -> None:
        """Add to a row, or take off what was counted too much, and change the period's totals."""
        period = _period_of(key)
        changed = None
        if not self._is_closed(period):
            changed = self._rows.change(key).add(quantity_micros, extra_micros, estimated_micros)
        if changed is None:
            # What a call had in the row may have moved to another price since, beside the charge.
            self._late.append((key, quantity_micros, extra_micros))
        # The period is to exist in any case.
        self._count_in(period, changed or NOTHING)

    def _count_in(self, period: PeriodKey, change: Change) -> None:
        self._changes[period] = _sum(self._changes.get(period, NOTHING), change)


def _extra(one: Rated, key: ChargeKey, quantity_micros: int) -> int:
    """Return what a call's weight adds on quotas of api.calls: nothing for most calls."""
    return quantity_micros * (one.usage.weight_units - 1) if key.meter == API_CALLS else 0


def _sum(one: Change, other: Change) -> Change:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _period_of(key: ChargeKey) -> PeriodKey:
    return key[:3]
