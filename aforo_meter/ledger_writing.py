"""What happens inside one transaction of the ledger, statement by statement."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aforo_meter.alerts import alert_of
from aforo_meter.database import Sql
from aforo_meter.domain.margin import Level, assess
from aforo_meter.domain.periods import HOUR_MICROS
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import (
    UNPRICED,
    ChargeKey,
    InterventionKey,
    LoggedKey,
    Rated,
    amount_nanos,
    extras,
    sums,
)
from aforo_meter.ledger import (
    PriceConflictError,
    Retention,
    TooLargeError,
    Transition,
    Watch,
    Written,
)
from aforo_meter.ledger_calls import CallsWriting, move_parts
from aforo_meter.ledger_names import CHARGE_EQUALS, ROW, bounded
from aforo_meter.ledger_sessions import write_sightings

INT64_MAX: Final = 2**63 - 1
DAY_MICROS: Final = 24 * HOUR_MICROS


def columns(key: type[NamedTuple]) -> str:
    return ", ".join(key._fields)


def _marks(count: int) -> str:
    return ", ".join("?" * count)


# Statements are put together from names of columns alone.
CHARGE_COLUMNS: Final = columns(ChargeKey)
SEEN = "INSERT INTO seen_event (tenant_id, event_id, keep_until_micros) VALUES (?, ?, ?)"
SEEN += " ON CONFLICT (tenant_id, event_id) DO NOTHING"
SET_ROW = (
    f"INSERT INTO charge ({CHARGE_COLUMNS}, quantity_micros, extra_micros)"  # noqa: S608
    f" VALUES ({_marks(len(ChargeKey._fields) + 2)}) ON CONFLICT (tenant_id, meter,"
    " hour_start_micros, subscription_id, period_start_micros, feature, provider, model, price_id,"
    " input_tokens, tool, execution_status) DO UPDATE SET"
    " quantity_micros = excluded.quantity_micros, extra_micros = excluded.extra_micros"
)
DROP_ROW = f"DELETE FROM charge WHERE {CHARGE_EQUALS}"  # noqa: S608
TAKE_ROW = f"{DROP_ROW} RETURNING quantity_micros, extra_micros"
LOG = (
    "INSERT INTO logged (hour_start_micros, tenant_id, feature, outcome, calls)"
    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (hour_start_micros, tenant_id, feature, outcome)"
    " DO UPDATE SET calls = logged.calls + excluded.calls"
)
INTERVENE = (
    "INSERT INTO intervention (tenant_id, hour_start_micros, outcome, reason, count)"
    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (tenant_id, hour_start_micros, outcome, reason)"
    " DO UPDATE SET count = intervention.count + excluded.count"
)
PRICE = "SELECT price_nanos, per_units, currency FROM price WHERE price_id = ?"
NEW_PRICE = (
    "INSERT INTO price (price_id, meter, price_nanos, per_units, currency, effective_from_micros,"
    " tier_input_tokens_from, source, first_used_at_micros) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
PERIOD_TOTALS = (
    "SELECT cogs_nanos, unpriced_rows FROM margin_state"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
)
SET_TOTALS = (
    "INSERT INTO margin_state (tenant_id, subscription_id, period_start_micros,"
    " period_end_micros, cogs_nanos, unpriced_rows) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (tenant_id, subscription_id, period_start_micros)"
    " DO UPDATE SET cogs_nanos = excluded.cogs_nanos, unpriced_rows = excluded.unpriced_rows"
)
IN_FORCE = (
    "SELECT subscription_id, period_start_micros, level FROM margin_state"
    " WHERE tenant_id = ? AND in_force = 1"
)
RETIRE = "UPDATE margin_state SET in_force = 0 WHERE tenant_id = ? AND in_force = 1"
OPEN_PERIOD = (
    "INSERT INTO margin_state (tenant_id, subscription_id, period_start_micros,"
    " period_end_micros, cogs_nanos, unpriced_rows) VALUES (?, ?, ?, ?, 0, 0)"
    " ON CONFLICT (tenant_id, subscription_id, period_start_micros) DO NOTHING"
)
STATE = (
    "SELECT cogs_nanos, transition_seq, level_since_micros FROM margin_state"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
)
SET_STATE = (
    "UPDATE margin_state SET in_force = 1, period_end_micros = ?, level = ?,"
    " level_since_micros = ?, transition_seq = ?, revenue_nanos = ?, allowance_nanos = ?,"
    " currency = ?, catalog_version = ?, price_book_version = ?, assessed_at_micros = ?"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros = ?"
)
ENQUEUE = (
    "INSERT INTO outbox (message_id, tenant_id, kind, payload, created_at_micros,"
    " next_attempt_at_micros) VALUES (?, ?, ?, ?, ?, ?)"
)


class Figures(NamedTuple):
    """What of a price decides about money: never changed once it was used."""

    price_nanos: int
    per_units: int
    currency: str


class PeriodKey(NamedTuple):
    tenant_id: str
    subscription_id: str
    period_start_micros: int


KnownPrices = dict[
    str, Figures
]  # By price id; what the table `price` holds, as far as it was used.


class Writing:
    """One transaction. The caller begins and ends it, and drops this object if it fails."""

    def __init__(self, sql: Sql, known: KnownPrices, currency: str, *, now_micros: int) -> None:
        self._sql = sql
        self._known = known
        self._currency = currency
        self._now_micros = now_micros
        self._cogs: Counter[PeriodKey] = Counter()
        self._unpriced: Counter[PeriodKey] = Counter()
        self._ends: dict[PeriodKey, int] = {}
        self._transitions: list[Transition] = []
        self._duplicates = 0
        self._repriced = 0
        self._corrections: Counter[str] = Counter()
        self.new_prices: KnownPrices = {}

    def written(self) -> Written:
        return Written(
            transitions=self._transitions,
            duplicates=self._duplicates,
            rows_repriced=self._repriced,
            corrections=self._corrections,
        )

    def post(self, rated: Sequence[Rated], retention: Retention) -> None:
        """Add what the ledger has not seen yet."""
        hour_micros = self._now_micros - self._now_micros % HOUR_MICROS
        gateway_until = hour_micros + retention.gateway_days * DAY_MICROS
        ingest_until = hour_micros + retention.ingest_days * DAY_MICROS
        new = [
            one
            for one in rated
            if self._first_seen(one, gateway_until if one.usage.from_gateway else ingest_until)
        ]
        self._duplicates += len(rated) - len(new)
        self._learn(price for one in new for price in one.prices)
        for one in new:
            period = PeriodKey(one.tenant_id, one.subscription_id, one.period.start_micros)
            self._ends[period] = one.period.end_micros
        calls = CallsWriting(self._sql, keep_until_micros=max(gateway_until, ingest_until))
        self._add_up(bounded(self._sql, new), calls)
        write_sightings(self._sql, new)
        self._write_totals()

    def _add_up(self, new: Sequence[Rated], calls: CallsWriting) -> None:
        plain = [one for one in new if one.usage.call is None]
        quantities, more = sums(plain), extras(plain)
        interventions: Counter[InterventionKey] = Counter()
        logged: Counter[LoggedKey] = Counter()
        for one in new:
            is_end = is_logged = True
            if one.usage.call is not None:
                changes, is_end, is_logged = calls.tell(one)
                for key, change in changes.items():
                    quantities[key] += change.quantity_micros
                    more[key] += change.extra_micros
            if one.intervention is not None and is_end:
                interventions[one.intervention] += 1
            if one.usage.logged is not None and is_logged:
                logged[one.usage.logged] += one.usage.logged_calls
        for key, quantity_micros in quantities.items():
            self._add(key, quantity_micros, more[key])
        calls.write()
        self._corrections.update(calls.corrections)
        self._sql.executemany(INTERVENE, [(*key, count) for key, count in interventions.items()])
        self._sql.executemany(LOG, [(*key, count) for key, count in logged.items()])

    def reprice(self, moves: Iterable[tuple[ChargeKey, PriceEntry]]) -> None:
        """Move unpriced rows to their price. A row that is gone by now is left alone."""
        for key, price in moves:
            assert key.price_id == UNPRICED
            self._learn([price])
            row = self._sql.execute(TAKE_ROW, key).fetchone()
            if row is None:
                continue
            self._repriced += 1
            self._unpriced[_period_of(key)] -= 1
            self._add(key._replace(price_id=price.price_id, input_tokens=0), *row)
            move_parts(self._sql, key, price_id=price.price_id)
        self._write_totals()

    def assess(self, watches: Mapping[str, Watch]) -> None:
        """Bring the tenants' levels up to date, and leave an alert for each that changes."""
        for watch in watches.values():
            self._assess(watch)

    def _first_seen(self, rated: Rated, keep_until_micros: int) -> bool:
        inserted = self._sql.execute(SEEN, (rated.tenant_id, rated.event_id, keep_until_micros))
        return inserted.rowcount == 1

    def _learn(self, prices: Iterable[PriceEntry]) -> None:
        """Keep prices that are used for the first time.

        Raises:
            PriceConflictError: One was used before with other figures.
        """
        conflicts = []
        for price in {price.price_id: price for price in prices}.values():
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
                self.new_prices[price.price_id] = given
            elif known != given:
                conflicts.append(price.price_id)
        if conflicts:
            raise PriceConflictError(conflicts)

    def _figures(self, price_id: str) -> Figures | None:
        known = self._known.get(price_id) or self.new_prices.get(price_id)
        if known is None:
            row = self._sql.execute(PRICE, (price_id,)).fetchone()
            if row is not None:
                known = self.new_prices[price_id] = Figures._make(row)
        return known

    def _add(self, key: ChargeKey, quantity_micros: int, extra_micros: int) -> None:
        """Add to a row, or take off it what was counted too much, and change the period's totals.

        A row that nothing is left of goes: it has no price to wait for.
        """
        row = self._sql.execute(ROW, key).fetchone()
        before, extra_before = row or (0, 0)
        after, extra_after = before + quantity_micros, extra_before + extra_micros
        if max(after, extra_after) > INT64_MAX:
            raise TooLargeError(key.tenant_id, meter=key.meter)
        assert min(after, extra_after) >= 0, "no more is taken off than a call has in the row"
        if after:
            self._sql.execute(SET_ROW, (*key, after, extra_after))
        elif row is not None:
            self._sql.execute(DROP_ROW, key)
        period = _period_of(key)
        if key.price_id == UNPRICED:
            self._unpriced[period] += bool(after) - (row is not None)
            self._cogs[period] += 0  # The period is to exist all the same.
            return
        price = self._figures(key.price_id)
        assert price is not None, "a price is kept before its first row"
        # The total is the sum of the rows' amounts: this row's old one goes, its new one comes.
        self._cogs[period] += _amount(after, price) - _amount(before, price)

    def _write_totals(self) -> None:
        for period in self._cogs:
            row = self._sql.execute(PERIOD_TOTALS, period).fetchone() or (0, 0)
            cogs_nanos = row[0] + self._cogs[period]
            if cogs_nanos > INT64_MAX:
                raise TooLargeError(period.tenant_id)
            unpriced = row[1] + self._unpriced[period]
            # A row that is repriced has a period already, which keeps its end.
            end_micros = self._ends.get(period, 0)
            self._sql.execute(SET_TOTALS, (*period, end_micros, cogs_nanos, unpriced))

    def _assess(self, watch: Watch) -> None:
        key = PeriodKey(watch.tenant_id, watch.subscription_id, watch.period.start_micros)
        in_force: Any = self._sql.execute(IN_FORCE, (watch.tenant_id,)).fetchone()
        before = Level(in_force[2]) if in_force is not None else Level.NONE
        if in_force is None or (in_force[0], in_force[1]) != key[1:]:
            # Another period or subscription: the level goes on from where it was.
            self._sql.execute(RETIRE, (watch.tenant_id,))
            self._sql.execute(OPEN_PERIOD, (*key, watch.period.end_micros))
        cogs_nanos, seq, since_micros = self._sql.execute(STATE, key).fetchone()
        after = assess(
            revenue_nanos=watch.revenue_nanos,
            cogs_nanos=cogs_nanos,
            allowance_nanos=watch.allowance_nanos,
            thresholds=watch.thresholds,
            previous=before,
        )
        if after.level is not before:
            seq, since_micros = seq + 1, self._now_micros
            self._alert(
                Transition(
                    watch=watch, seq=seq, before=before, after=after, at_micros=self._now_micros
                )
            )
        self._sql.execute(
            SET_STATE,
            (
                *(watch.period.end_micros, int(after.level), since_micros or self._now_micros, seq),
                *(watch.revenue_nanos, watch.allowance_nanos, watch.currency),
                *(watch.catalog_version, watch.price_book_version, self._now_micros, *key),
            ),
        )

    def _alert(self, transition: Transition) -> None:
        alert = alert_of(transition)
        now_micros = self._now_micros
        tenant_id = transition.watch.tenant_id
        self._sql.execute(
            ENQUEUE,
            (alert.message_id, tenant_id, alert.kind, alert.payload, now_micros, now_micros),
        )
        self._transitions.append(transition)


def _period_of(key: ChargeKey) -> PeriodKey:
    return PeriodKey(key.tenant_id, key.subscription_id, key.period_start_micros)


def _amount(quantity_micros: int, price: Figures) -> int:
    return amount_nanos(quantity_micros, price_nanos=price.price_nanos, per_units=price.per_units)
