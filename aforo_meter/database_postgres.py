"""A ledger in PostgreSQL, over psycopg.

Transactions see a snapshot (REPEATABLE READ). Of two that change the same row the later one is
refused by the server and begins again here, so neither overwrites what the other has added. That
holds for consumers beside each other, and for commands beside them. SERIALIZABLE would promise
more than is needed, and refuse consumers that only share a page of an index.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from aforo_meter.database import Column, Cursor, Sql, Values, without_password
from aforo_meter.domain.seen import KEY_BYTES
from aforo_meter.ledger import LedgerError, LedgerUnavailableError

ATTEMPTS_MAX: Final = 20  # Of a transaction that others are faster than, each time.
# A server that is gone without a word is noticed after some 20 s. A URL may say otherwise.
DEFAULTS: Final[Mapping[str, str]] = {
    "application_name": "aforo-meter",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
}
# Who stands still within a transaction keeps its rows from whoever takes over.
IDLE_IN_TRANSACTION_MS_MAX: Final = 60_000
GIVEN_KEYS: Final = (
    f"(SELECT substr(CAST(? AS bytea), 1 + {KEY_BYTES} * number, {KEY_BYTES}) AS event_key"  # noqa: S608
    " FROM generate_series(0, ? - 1) AS number) AS given"
)
BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"

# Somebody else was faster: what they wrote is seen the next time, also where it was a new row.
OVERTAKEN: Final = (errors.SerializationFailure, errors.DeadlockDetected, errors.UniqueViolation)
# It may work later. A server that only reads is one that was not promoted yet; the last one stands
# for a process that slept within a transaction.
AWAY: Final = (
    *(psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction),
    errors.IdleInTransactionSessionTimeout,
)

T = TypeVar("T")


class PostgresDatabase:
    errors: tuple[type[Exception], ...] = (LedgerUnavailableError, psycopg.Error)
    has_table = "SELECT 1 WHERE to_regclass(?) IS NOT NULL"
    is_missing = False  # Only the server can tell.

    def __init__(self, ledger_url: str, *, busy_timeout_ms: int, only_reads: bool) -> None:
        self.name = self.url = without_password(ledger_url)
        self._parameters = parameters_of(ledger_url)
        self._busy_timeout_ms = busy_timeout_ms
        self._only_reads = only_reads

    @property
    def identity(self) -> tuple[object, ...]:
        given = self._parameters
        return ("postgresql", given.get("host"), given.get("port", "5432"), given.get("dbname"))

    def connect(self) -> "PostgresConnection":
        with _translated(self.name):
            raw = psycopg.connect(**self._parameters, autocommit=True)
            raw.adapters.register_loader("numeric", _WholeNumberLoader)
            raw.execute(f"SET lock_timeout = {self._busy_timeout_ms:d}")
            raw.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS_MAX}")
        return PostgresConnection(raw, self.name, only_reads=self._only_reads)


def parameters_of(ledger_url: str) -> dict[str, Any]:
    """Return what libpq connects by.

    Raises:
        LedgerError: It can't read the URL. Its own words may quote a password.
    """
    try:
        return {**DEFAULTS, **conninfo_to_dict(ledger_url)}
    except psycopg.ProgrammingError:
        raise LedgerError(
            "the ledger's URL can't be read: expected postgresql://user:password@host:5432/database;"
            " special characters of a password must be percent-encoded"
        ) from None


class PostgresConnection:
    def __init__(
        self, raw: psycopg.Connection[tuple[Any, ...]], name: str, *, only_reads: bool
    ) -> None:
        self._raw = raw
        self._name = name
        self._only_reads = only_reads
        self._sql = PostgresStatements(raw)

    def transact(self, work: Callable[[Sql], T], *, writes: bool) -> T:
        mode = "READ WRITE" if writes and not self._only_reads else "READ ONLY"
        with _translated(self._name):
            for _ in range(ATTEMPTS_MAX - 1):
                with contextlib.suppress(*OVERTAKEN):
                    return self._transact_once(work, mode)
            return self._transact_once(work, mode)

    def _transact_once(self, work: Callable[[Sql], T], mode: str) -> T:
        try:
            self._raw.execute(f"{BEGIN} {mode}")
            result = work(self._sql)
            # If the connection breaks here, nobody knows whether it was committed. Whoever does
            # the work again finds out: by the position, or because it is done already.
            self._raw.execute("COMMIT")
        except BaseException:
            if self._raw.info.transaction_status is not TransactionStatus.IDLE:
                with contextlib.suppress(psycopg.Error):
                    self._raw.execute("ROLLBACK")
            raise
        return result

    def close(self) -> None:
        self._raw.close()


class PostgresStatements:
    or_rollback = ""

    def __init__(self, raw: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._raw = raw

    def execute(self, statement: str, values: Values = (), /) -> Cursor:
        return self._raw.execute(_as_psycopg(statement), values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Cursor:
        cursor = self._raw.cursor()
        cursor.executemany(_as_psycopg(statement), rows)
        return cursor

    def given(self, **columns: Column) -> tuple[str, Sequence[Any]]:
        kinds = [
            "text" if column and isinstance(column[0], str) else "bigint"
            for column in columns.values()
        ]
        arrays = ", ".join(f"CAST(? AS {kind}[])" for kind in kinds)
        values = [list(column) for column in columns.values()]
        return f"unnest({arrays}) AS given ({', '.join(columns)})", values

    def given_keys(self, keys: Sequence[bytes]) -> tuple[str, Sequence[Any]]:
        return GIVEN_KEYS, (b"".join(keys), len(keys))


class _WholeNumberLoader(Loader):
    """A sum of BIGINT is NUMERIC there. All of ours are whole."""

    def load(self, data: Buffer) -> int:
        return int(bytes(data))


@functools.lru_cache(maxsize=1024)  # As many as there are statements, and not more.
def _as_psycopg(statement: str) -> bytes:
    marked = re.sub(r"(?<![:\w]):(\w+)", r"%(\1)s", statement.replace("%", "%%"))
    return marked.replace("?", "%s").encode()


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (*AWAY, *OVERTAKEN) as error:
        if isinstance(error, errors.UniqueViolation):
            raise  # Time and again: a mistake of ours.
        text = " ".join(str(error).split())
        raise LedgerUnavailableError(f"{name}: {text or type(error).__name__}") from error
