"""Sums of many large rows, as SQLite adds them up."""

import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.ledger_sums import is_above_zero, parts, whole

INT64_MAX = 2**63 - 1
columns = st.lists(st.integers(-INT64_MAX, INT64_MAX), max_size=8)


@given(columns)
def test_a_sum_is_exact_however_large(values: list[int]) -> None:
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.execute("CREATE TABLE t (x INTEGER)")
        sql.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        row = sql.execute(f"SELECT {parts('x')} FROM t").fetchone()  # noqa: S608
        (above,) = sql.execute(f"SELECT {is_above_zero('x')} FROM t").fetchone()  # noqa: S608

    assert whole(*row) == sum(values)
    assert bool(above) == (sum(values) > 0)
