"""Where the ledgers of tests lie: in files, and on a PostgreSQL server. Looked at by SQL alone."""

import itertools
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
import pytest

from aforo_meter.migrate import migrate
from lab.postgres import PostgresServer
from tests.conftest import PostgresAt

UNIT: Final = 1_000_000
TEMPLATE: Final = "aforo_template"


class AuditedLedger(ABC):
    """A ledger's database, seen by an auditor: through SQL and fractions alone."""

    url: str

    @abstractmethod
    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def execute(self, statement: str, *values: object) -> int:
        """Change it behind the product's back; return how many rows that met."""

    @abstractmethod
    def tables(self) -> set[str]: ...

    @abstractmethod
    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else write."""

    @abstractmethod
    def columns(self, table: str) -> list[str]:
        """Return a table's columns, in their order."""

    def row(self, table: str, where: str, *values: object) -> dict[str, Any]:
        """Return the one row that a condition names."""
        (found,) = self.rows(f"SELECT * FROM {table} WHERE {where}", *values)  # noqa: S608
        return dict(zip(self.columns(table), found, strict=True))

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        return {name: sorted(self.rows(f"SELECT * FROM {name}"), key=str) for name in self.tables()}  # noqa: S608

    def units(self, tenant: str = "acme") -> dict[str, int]:
        """Return units by price id; "" is unpriced."""
        found: Counter[str] = Counter()
        query = "SELECT price_id, quantity_micros FROM charge WHERE tenant_id = ?"
        for price_id, quantity_micros in self.rows(query, tenant):
            assert quantity_micros % UNIT == 0
            found[price_id] += quantity_micros // UNIT
        return dict(found)

    def audited_cogs(self) -> dict[tuple[str, str, int], int]:
        """Return the sum of the rows' amounts, and of what corrects them, by period."""
        query = (
            "SELECT tenant_id, subscription_id, period_start_micros, quantity_micros, price_nanos,"
            " per_units FROM charge LEFT JOIN price USING (price_id)"
        )
        found: Counter[tuple[str, str, int]] = Counter()
        for tenant, subscription, start, quantity, nanos, per_units in self.rows(query):
            amount = round(Fraction(quantity * nanos, per_units * UNIT)) if nanos is not None else 0
            found[tenant, subscription, start] += amount
        adjusted = "SELECT tenant_id, subscription_id, period_start_micros, cogs_nanos"
        for tenant, subscription, start, amount in self.rows(f"{adjusted} FROM adjustment"):
            found[tenant, subscription, start] += amount
        return dict(found)

    def kept_cogs(self) -> dict[tuple[str, str, int], int]:
        """Return the totals that the ledger keeps up with its rows."""
        query = (
            "SELECT tenant_id, subscription_id, period_start_micros, cogs_nanos FROM margin_state"
        )
        return {(tenant, sub, start): cogs for tenant, sub, start, cogs in self.rows(query)}


@dataclass(frozen=True)
class LedgerFile(AuditedLedger):
    path: Path

    @classmethod
    def create(cls, path: Path) -> "LedgerFile":
        made = cls(path)
        migrate(made.url, dry_run=False)
        return made

    @property
    def url(self) -> str:  # type: ignore[override] # It follows from the path.
        return f"sqlite:///{self.path}"

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5)) as sql:
            return sql.execute(query, values).fetchall()

    def execute(self, statement: str, *values: object) -> int:
        with closing(sqlite3.connect(self.path, timeout=10)) as sql, sql:
            return sql.execute(statement, values).rowcount

    def tables(self) -> set[str]:
        named = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        return {name for (name,) in self.rows(named)}

    def columns(self, table: str) -> list[str]:
        return [name for (name,) in self.rows("SELECT name FROM pragma_table_info(?)", table)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as sql:
            sql.execute("BEGIN IMMEDIATE")
            yield
            sql.execute("ROLLBACK")


@dataclass(frozen=True)
class LedgerOnServer(AuditedLedger):
    url: str

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as sql:
            found = sql.execute(_marked(query), values).fetchall()
        return [tuple(_whole(value) for value in row) for row in found]

    def execute(self, statement: str, *values: object) -> int:
        with psycopg.connect(self.url) as sql:
            return sql.execute(_marked(statement), values).rowcount

    def tables(self) -> set[str]:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        return {name for (name,) in self.rows(query)}

    def columns(self, table: str) -> list[str]:
        query = (
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name = ? ORDER BY ordinal_position"
        )
        return [name for (name,) in self.rows(query, table)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        with psycopg.connect(self.url) as sql:
            sql.execute(f"LOCK TABLE {', '.join(sorted(self.tables()))} IN EXCLUSIVE MODE".encode())
            yield
            sql.rollback()


def _marked(statement: str) -> bytes:
    return statement.replace("%", "%%").replace("?", "%s").encode()


def _whole(value: Any) -> Any:  # noqa: ANN401
    """Return a sum of integers as such: PostgreSQL has it as a decimal."""
    return int(value) if type(value).__name__ == "Decimal" else value


class Ledgers(Protocol):
    """One of the places: every test that asks for it runs once for each."""

    kind: str

    def blank(self) -> AuditedLedger:
        """Return a database that holds nothing, not even our tables."""

    def new(self) -> AuditedLedger:
        """Return an empty ledger."""


@dataclass
class InFiles:
    folder: Path
    empty: Path
    kind: str = "sqlite"
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def blank(self) -> LedgerFile:
        return LedgerFile(self.folder / f"ledger-{next(self._numbers)}.db")

    def new(self) -> LedgerFile:
        return LedgerFile(Path(shutil.copy(self.empty, self.blank().path)))


@dataclass
class OnServer:
    server: PostgresServer | PostgresAt
    kind: str = "postgresql"
    _made: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def blank(self) -> LedgerOnServer:
        return self._create("template0")

    def new(self) -> LedgerOnServer:
        if not self._say("SELECT 1 FROM pg_database WHERE datname = %s", TEMPLATE):
            self._say(f"CREATE DATABASE {TEMPLATE}")
            migrate(self.server.url(TEMPLATE), dry_run=False)
        return self._create(TEMPLATE)

    def close(self) -> None:
        for name in self._made:
            self._say(f"DROP DATABASE {name} WITH (FORCE)")

    def _create(self, template: str) -> LedgerOnServer:
        name = f"ledger_{id(self)}_{next(self._numbers)}"
        self._say(f"CREATE DATABASE {name} TEMPLATE {template}")
        self._made.append(name)
        return LedgerOnServer(self.server.url(name))

    def _say(self, statement: str, *values: object) -> Sequence[tuple[Any, ...]]:
        with psycopg.connect(self.server.url(), autocommit=True) as sql:
            done = sql.execute(statement.encode(), values or None)
            return done.fetchall() if done.description else []


@contextmanager
def ledgers_of(
    request: pytest.FixtureRequest, empty_ledger: Path, folder: Path
) -> Iterator[Ledgers]:
    """Return the place that a fixture's parameter names."""
    if request.param == "sqlite":
        yield InFiles(folder, empty_ledger)
        return
    place = OnServer(request.getfixturevalue("postgres_server"))
    try:
        yield place
    finally:
        place.close()
