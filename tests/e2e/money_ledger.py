"""What a ledger says of money and messages, read by plain SQL and added up with fractions."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import psycopg

UNIT = 1_000_000
ROWS = (
    "SELECT tenant_id, period_start_micros, quantity_micros, price_nanos, per_units"
    " FROM charge LEFT JOIN price ON price.price_id = charge.price_id"
)
ADJUSTMENTS = "SELECT tenant_id, period_start_micros, cogs_nanos FROM adjustment"
STATES = (
    "SELECT tenant_id, period_start_micros, cogs_nanos, in_force, level, transition_seq"
    " FROM margin_state"
)
MESSAGES = (
    "SELECT message_id, kind, payload, CASE WHEN EXISTS (SELECT 1 FROM delivery WHERE"
    " delivery.outbox_id = outbox.outbox_id AND delivered_at_micros IS NOT NULL) THEN 0 ELSE 1 END"
    " FROM outbox ORDER BY outbox_id"
)
QUERIES = (ROWS, ADJUSTMENTS, STATES, MESSAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerView:
    cogs_nanos: Mapping[tuple[str, int], int]  # By tenant and period, as kept.
    audited_nanos: Mapping[tuple[str, int], int]  # By the rows, and what corrects them.
    levels: Mapping[str, int]  # In force.
    transitions: int
    messages: tuple[tuple[str, str], ...]  # Ids and payloads, the oldest first.
    alerts: tuple[tuple[str, str], ...]  # Those of a change of level.
    waiting: int  # Messages that are not delivered.


def read_ledger(url: str) -> LedgerView:
    """Read all of it as of one instant."""
    if url.startswith("sqlite:"):
        path = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as sql:
            sql.execute("BEGIN")
            return view_of(*(sql.execute(query).fetchall() for query in QUERIES))
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return view_of(*(server.execute(query).fetchall() for query in QUERIES))


def view_of(
    rows: list[tuple[Any, ...]],
    adjustments: list[tuple[Any, ...]],
    states: list[tuple[Any, ...]],
    messages: list[tuple[Any, ...]],
) -> LedgerView:
    audited: Counter[tuple[str, int]] = Counter()
    for tenant_id, start, quantity, nanos, per_units in rows:
        assert nanos is not None, "everything that is sent here has a price"
        audited[tenant_id, start] += round(Fraction(quantity * nanos, per_units * UNIT))
    for tenant_id, start, nanos in adjustments:
        audited[tenant_id, start] += nanos
    return LedgerView(
        cogs_nanos={(tenant_id, start): cogs for tenant_id, start, cogs, *_ in states},
        audited_nanos=dict(audited),
        levels={tenant_id: level for tenant_id, _, _, in_force, level, _ in states if in_force},
        transitions=sum(state[-1] for state in states),
        messages=tuple((message_id, payload) for message_id, _, payload, _ in messages),
        alerts=tuple(
            (message_id, payload)
            for message_id, kind, payload, _ in messages
            if kind == "margin.level_changed"
        ),
        waiting=sum(waits for *_, waits in messages),
    )
