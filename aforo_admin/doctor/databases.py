"""A database, opened to be read alone: a file of SQLite, or PostgreSQL. Bounded in time."""

import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from aforo_admin.doctor.http import now_micros
from aforo_admin.domain.diagnosis import Clock, Seen

SQLITE: Final = "sqlite:///"
CLOCK: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
RECOVERING: Final = "SELECT pg_is_in_recovery()"

Ask = Callable[[str, Sequence[Any]], Sequence[Any]]  # A statement with `?` for values → rows.


class UnreadableError(Exception):
    """It can't be read; the message says why, without a password."""


@contextmanager
def reading(url: str, seen: Seen, *, timeout_s: float) -> Iterator[Ask]:
    """Open a database; of a server, judge what holds for both of Aforo's.

    Raises:
        UnreadableError: It does not answer, or refuses.
    """
    try:
        with _file(url, timeout_s) if url.startswith(SQLITE) else _server(url, timeout_s) as ask:
            if not url.startswith(SQLITE):
                _judge_server(seen, ask)
            yield ask
    except (sqlite3.Error, psycopg.Error, OSError) as error:
        raise UnreadableError(str(error).strip().partition("\n")[0]) from error


@contextmanager
def _file(url: str, timeout_s: float) -> Iterator[Ask]:
    path = Path(url.removeprefix(SQLITE))
    if not path.is_file():
        raise UnreadableError("there is no such file")
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=timeout_s)) as sql:
        yield lambda statement, values: sql.execute(statement, values).fetchall()


@contextmanager
def _server(url: str, timeout_s: float) -> Iterator[Ask]:
    with psycopg.connect(url, connect_timeout=math.ceil(timeout_s), autocommit=True) as sql:
        sql.execute(
            "SELECT set_config('statement_timeout', %s, false)", [f"{timeout_s * 1000:.0f}"]
        )
        sql.execute("SET default_transaction_read_only = on")
        yield lambda statement, values: sql.execute(
            statement.replace("?", "%s").encode(), values
        ).fetchall()


def _judge_server(seen: Seen, ask: Ask) -> None:
    asked = now_micros()
    theirs = int(ask(CLOCK, ())[0][0])
    answered = now_micros()
    seen.clocks.append(
        Clock(
            part=seen.part,
            ahead_micros=theirs - (asked + answered) // 2,
            unsure_micros=(answered - asked) // 2,
        )
    )
    seen.versions[seen.part] = f"PostgreSQL {ask('SHOW server_version', ())[0][0]}"
    if ask(RECOVERING, ())[0][0]:
        seen.fault(
            "it is a replica, which takes no writes",
            "nothing is charged, or no change of the catalog saved",
            "give the primary's address; libpq takes several hosts with"
            " target_session_attrs=read-write",
        )
