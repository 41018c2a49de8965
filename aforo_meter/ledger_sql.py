"""The ledger in SQL. SQLite here; the statements are the portable ones."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from aforo_meter.domain.margin import Level
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.rating import (
    QUANTITY_MICROS_MAX,
    UNPRICED,
    ChargeKey,
    InterventionKey,
    amount_nanos,
)
from aforo_meter.ledger import (
    LedgerError,
    Message,
    Partition,
    PartitionLostError,
    PeriodKey,
    PriceChangedError,
    Standing,
    UnpricedRow,
)
from aforo_meter.migrate import check_schema, sqlite_path

BUSY_S: Final = 5.0
LOOKUP_ROWS_MAX: Final = 400  # Two variables each: below every SQLite's limit.

KEY_COLUMNS: Final = ", ".join(ChargeKey._fields)
KEY_MARKS: Final = ", ".join("?" for _ in ChargeKey._fields)
KEY_EQUALS: Final = " AND ".join(f"{name} = ?" for name in ChargeKey._fields)
PERIOD_EQUALS: Final = " AND ".join(f"{name} = ?" for name in PeriodKey._fields)


class SqliteLedger:
    """One connection, for one thread at a time.

    Raises:
        LedgerError: The database can't be opened, or has another schema version.
    """

    def __init__(self, url: str) -> None:
        path = sqlite_path(url)
        check_schema(url)
        try:
            self._connection = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            # A commit survives a crash of ours at once, and one of the machine at the next
            # checkpoint: the position goes back together with the charges.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error as error:
            raise LedgerError(f"cannot open the ledger {path}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator["SqlTransaction"]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield SqlTransaction(self._connection)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def next_offset(self, partition: Partition) -> int | None:
        row = self._connection.execute(
            "SELECT next_offset FROM position WHERE topic = ? AND partition = ?", partition
        ).fetchone()
        return None if row is None else int(row[0])

    def tenants(self) -> list[str]:
        rows = self._connection.execute("SELECT DISTINCT tenant_id FROM charge ORDER BY tenant_id")
        return [tenant_id for (tenant_id,) in rows]

    def close(self) -> None:
        self._connection.close()


class SqlTransaction:
    """The statements of one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def advance(self, partition: Partition, *, first_offset: int, next_offset: int) -> None:
        self._sql.execute(
            "INSERT INTO position (topic, partition, next_offset) VALUES (?, ?, 0)"
            " ON CONFLICT DO NOTHING",
            partition,
        )
        # The WHERE clause is the fence: who lost the partition updates no row.
        moved = self._sql.execute(
            "UPDATE position SET next_offset = ?"
            " WHERE topic = ? AND partition = ? AND next_offset <= ?",
            (next_offset, *partition, first_offset),
        )
        if moved.rowcount != 1:
            raise PartitionLostError(
                f"{partition.topic}/{partition.number} is past offset {first_offset}:"
                " another consumer owns it"
            )

    def keep_new(self, events: Iterable[tuple[str, str, int]]) -> set[tuple[str, str]]:
        wanted = {(tenant_id, event_id): hour for tenant_id, event_id, hour in events}
        seen: set[tuple[str, str]] = set()
        pairs = iter(wanted)
        while chunk := list(islice(pairs, LOOKUP_ROWS_MAX)):
            marks = ", ".join("(?, ?)" for _ in chunk)
            seen.update(
                self._sql.execute(
                    "SELECT tenant_id, event_id FROM seen_event"  # noqa: S608 - only marks
                    f" WHERE (tenant_id, event_id) IN (VALUES {marks})",
                    [value for pair in chunk for value in pair],
                )
            )
        fresh = wanted.keys() - seen
        self._sql.executemany(
            "INSERT INTO seen_event (tenant_id, event_id, hour_start_micros) VALUES (?, ?, ?)",
            [(*pair, wanted[pair]) for pair in fresh],
        )
        return set(fresh)

    def learn_prices(self, entries: Iterable[PriceEntry]) -> None:
        for entry in {entry.price_id: entry for entry in entries}.values():
            known = self._price(entry.price_id)
            if known is None:
                self._sql.execute(
                    "INSERT INTO price (price_id, meter, price_nanos, per_units,"
                    " effective_from_micros, source) VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        *(entry.price_id, entry.meter, entry.price_nanos, entry.per_units),
                        *(entry.effective_from_micros, entry.source),
                    ),
                )
            elif known != (entry.price_nanos, entry.per_units):
                raise PriceChangedError(
                    f"price {entry.price_id!r} was {known[0]} nanos per {known[1]} units and is now"
                    f" {entry.price_nanos} per {entry.per_units}: entries are never edited;"
                    " restore it, and add a new entry with a later date"
                )

    def _price(self, price_id: str) -> tuple[int, int] | None:
        found: tuple[int, int] | None = self._sql.execute(
            "SELECT price_nanos, per_units FROM price WHERE price_id = ?", (price_id,)
        ).fetchone()
        return found

    def add(self, sums: Mapping[ChargeKey, int]) -> set[PeriodKey]:
        return {self._add_to_row(key, quantity) for key, quantity in sorted(sums.items())}

    def _add_to_row(self, key: ChargeKey, quantity_micros: int) -> PeriodKey:
        row = self._sql.execute(
            f"SELECT quantity_micros FROM charge WHERE {KEY_EQUALS}",  # noqa: S608 - own names
            key,
        ).fetchone()
        before = 0 if row is None else int(row[0])
        after = before + quantity_micros
        if after > QUANTITY_MICROS_MAX:
            raise LedgerError(f"the row {key} would exceed {QUANTITY_MICROS_MAX} micro-units")
        self._sql.execute(
            f"INSERT INTO charge ({KEY_COLUMNS}, quantity_micros) VALUES ({KEY_MARKS}, ?)"  # noqa: S608 - own names
            f" ON CONFLICT ({KEY_COLUMNS}) DO UPDATE SET quantity_micros = excluded.quantity_micros",
            (*key, after),
        )
        period = PeriodKey(key.tenant_id, key.subscription_id, key.period_start_micros)
        # A period's COGS is the sum of its rows' amounts: the row's old amount goes, its new comes.
        self._shift_cogs(period, self._amount(key, after) - self._amount(key, before))
        return period

    def _amount(self, key: ChargeKey, quantity_micros: int) -> int:
        if key.price_id == UNPRICED:
            return 0
        price = self._price(key.price_id)
        assert price is not None, "prices are learnt before rows refer to them"
        return amount_nanos(quantity_micros, price_nanos=price[0], per_units=price[1])

    def _shift_cogs(self, period: PeriodKey, nanos: int) -> None:
        self._sql.execute(
            "INSERT INTO period (tenant_id, subscription_id, period_start_micros, cogs_nanos)"
            " VALUES (?, ?, ?, ?) ON CONFLICT (tenant_id, subscription_id, period_start_micros)"
            " DO UPDATE SET cogs_nanos = period.cogs_nanos + excluded.cogs_nanos",
            (*period, nanos),
        )

    def count(self, interventions: Mapping[InterventionKey, int]) -> None:
        self._sql.executemany(
            "INSERT INTO intervention (tenant_id, hour_start_micros, outcome, reason, calls)"
            " VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (tenant_id, hour_start_micros, outcome, reason)"
            " DO UPDATE SET calls = intervention.calls + excluded.calls",
            [(*key, calls) for key, calls in interventions.items()],
        )

    def cogs_nanos(self, period: PeriodKey) -> int:
        row = self._sql.execute(
            f"SELECT cogs_nanos FROM period WHERE {PERIOD_EQUALS}",  # noqa: S608 - own names
            period,
        ).fetchone()
        return 0 if row is None else int(row[0])

    def unpriced_rows(self, period: PeriodKey) -> int:
        (rows,) = self._sql.execute(
            f"SELECT COUNT(*) FROM charge WHERE {PERIOD_EQUALS} AND price_id = ''",  # noqa: S608 - own names
            period,
        ).fetchone()
        return int(rows)

    def used_micros(
        self, tenant_id: str, meter: str, *, from_micros: int
    ) -> Sequence[tuple[str, int]]:
        return self._sql.execute(
            "SELECT feature, SUM(quantity_micros) FROM charge"
            " WHERE tenant_id = ? AND meter = ? AND hour_start_micros >= ? GROUP BY feature",
            (tenant_id, meter, from_micros),
        ).fetchall()

    def standing(self, period: PeriodKey) -> Standing:
        row = self._sql.execute(
            f"SELECT level, transitions FROM period WHERE {PERIOD_EQUALS}",  # noqa: S608 - own names
            period,
        ).fetchone()
        return Standing() if row is None else Standing(level=Level(row[0]), transitions=row[1])

    def record(self, period: PeriodKey, standing: Standing, *, now_micros: int) -> None:
        self._sql.execute(
            "INSERT INTO period (tenant_id, subscription_id, period_start_micros, cogs_nanos,"
            " level, level_since_micros, transitions) VALUES (?, ?, ?, 0, ?, ?, ?)"
            " ON CONFLICT (tenant_id, subscription_id, period_start_micros) DO UPDATE SET"
            " level = excluded.level, level_since_micros = excluded.level_since_micros,"
            " transitions = excluded.transitions",
            (*period, int(standing.level), now_micros, standing.transitions),
        )

    def enqueue(self, message: Message) -> None:
        self._sql.execute(
            "INSERT INTO outbox (message_id, tenant_id, kind, payload, created_at_micros,"
            " next_attempt_at_micros) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                *(message.message_id, message.tenant_id, message.kind, message.payload),
                *(message.created_at_micros, message.created_at_micros),
            ),
        )

    def unpriced(self, tenant_ids: Sequence[str] | None) -> Sequence[UnpricedRow]:
        rows: Iterable[Any] = self._sql.execute(
            f"SELECT {KEY_COLUMNS}, quantity_micros FROM charge WHERE price_id = ''"  # noqa: S608 - own names
        )
        found = [UnpricedRow(ChargeKey(*row[:-1]), row[-1]) for row in rows]
        wanted = None if tenant_ids is None else set(tenant_ids)
        return [row for row in found if wanted is None or row.key.tenant_id in wanted]

    def reprice(self, row: UnpricedRow, price_id: str) -> set[PeriodKey]:
        self._sql.execute(f"DELETE FROM charge WHERE {KEY_EQUALS}", row.key)  # noqa: S608 - own names
        return self.add({row.key._replace(price_id=price_id): row.quantity_micros})

    def forget_events(self, *, before_micros: int) -> int:
        dropped = self._sql.execute(
            "DELETE FROM seen_event WHERE hour_start_micros < ?", (before_micros,)
        )
        return dropped.rowcount
