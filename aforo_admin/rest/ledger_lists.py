"""Lists of the ledger's rows, each told by its columns, its order and what it can be asked by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aforo_admin.rest.operations import Schema
from aforo_admin.written_values import amount, instant_of_micros
from aforo_authz.domain.access import Outcome
from aforo_meter.completeness_sql import OF_ALL
from aforo_meter.database import Sql
from aforo_meter.domain.completeness import FILLED
from aforo_meter.domain.margin import Level
from aforo_meter.outbox_reading import CONDITIONS, STATES

TEXT: Final[Schema] = {"type": "string"}
MAYBE: Final[Schema] = {"type": ["string", "null"]}
COUNT: Final[Schema] = {"type": ["integer", "null"]}
LEVELS: Final = {level.name.lower(): level for level in Level}


def _plain(value: Any) -> Any:
    return value


def as_instant(micros: int | None) -> str | None:
    return None if micros is None else str(instant_of_micros(micros))


def as_amount(nanos: int | None) -> str | None:
    return None if nanos is None else str(amount(nanos))


def as_level(number: int) -> str:
    return Level(number).name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    sql: str
    told: Callable[[Any], Any] = _plain
    schema: Schema = field(default_factory=lambda: MAYBE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A column that rows are listed by."""

    sql: str
    kind: type
    descending: bool = False

    @property
    def clause(self) -> str:
        return f"{self.sql} DESC" if self.descending else self.sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A page that is asked for. What is empty is not asked by."""

    filters: Mapping[str, str]
    after: Sequence[Any] | None
    limit: int
    values: Mapping[str, Any] = field(default_factory=dict)  # Of the listing's source.


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One kind of list. Its order names each row once."""

    source: str  # After FROM; `:name` stands for values.
    columns: tuple[Column, ...]
    order: tuple[Order, ...]
    filters: Mapping[str, str]  # What can be asked for → a condition on `:name`.
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)  # Of filters that have them.
    always: str = "1 = 1"

    @property
    def schema(self) -> Schema:
        return {
            "type": "object",
            "properties": {column.name: column.schema for column in self.columns},
        }

    def read(self, sql: Sql, asked: Asked) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """Return a page, and the key that the next follows; None: it is the last."""
        conditions = [self.always, *(self.filters[name] for name in asked.filters)]
        values: dict[str, Any] = {**asked.values, **asked.filters, "limit": asked.limit + 1}
        if asked.after is not None:
            conditions.append(self._follows())
            values |= {f"after_{index}": part for index, part in enumerate(asked.after)}
        keys = [each.sql for each in self.order]
        # Of names that stand in this module alone; what is asked for goes in as values.
        statement = (
            f"SELECT {', '.join([*keys, *(column.sql for column in self.columns)])}"  # noqa: S608
            f" FROM {self.source} WHERE {' AND '.join(f'({each})' for each in conditions)}"
            f" ORDER BY {', '.join(each.clause for each in self.order)} LIMIT :limit"
        )
        rows = sql.execute(statement, values).fetchall()
        page = rows[: asked.limit]
        following = list(page[-1][: len(keys)]) if len(rows) > asked.limit else None
        return [self._told(row[len(keys) :]) for row in page], following

    def _told(self, row: Sequence[Any]) -> dict[str, Any]:
        return {
            column.name: column.told(value) for column, value in zip(self.columns, row, strict=True)
        }

    def _follows(self) -> str:
        """Return the condition that a row stands behind the key in all the order."""
        terms = []
        for index, each in enumerate(self.order):
            same = [f"{o.sql} = :after_{n}" for n, o in enumerate(self.order[:index])]
            beyond = f"{each.sql} {'<' if each.descending else '>'} :after_{index}"
            terms.append(" AND ".join([*same, beyond]))
        first = self.order[0]
        # It follows from the rest, which no index can be looked through by.
        bound = f"{first.sql} {'<=' if first.descending else '>='} :after_0"
        return f"{bound} AND ({' OR '.join(f'({term})' for term in terms)})"


def _instants(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name=name, sql=f"{name}_micros", told=as_instant) for name in names)


def _amounts(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name=name, sql=f"{name}_nanos", told=as_amount) for name in names)


TENANT: Final = Column(name="tenant", sql="tenant_id", schema=TEXT)
OF_TENANT: Final = {"tenant": "tenant_id = :tenant"}
_PERIOD: Final = (
    TENANT,
    Column(name="subscription", sql="subscription_id", schema=TEXT),
    *_instants("period_start", "period_end"),
)
_FIGURES: Final = (
    *_amounts("revenue", "cogs", "estimated_cogs", "allowance"),
    Column(name="currency", sql="currency"),
    Column(name="unpriced_rows", sql="unpriced_rows", schema=COUNT),
)

MARGINS: Final = Listing(
    source="margin_state",
    always="in_force = 1",
    columns=(
        *_PERIOD,
        Column(name="level", sql="level", told=as_level, schema=TEXT),
        *_instants("level_since"),
        *_FIGURES,
        *_instants("assessed_at"),
    ),
    order=(Order(sql="tenant_id", kind=str),),
    filters={**OF_TENANT, "level": "level = :level"},
    choices={"level": tuple(LEVELS)},
)
CHARGES: Final = Listing(
    source="margin_state",
    columns=(
        *_PERIOD,
        *_FIGURES,
        Column(name="contract_currency", sql="contract_currency"),
        *_amounts("contract_revenue"),
        *_instants("closed_at"),
    ),
    order=(
        Order(sql="tenant_id", kind=str),
        Order(sql="period_start_micros", kind=int, descending=True),
        Order(sql="subscription_id", kind=str),
    ),
    filters=OF_TENANT,
)
INTERVENTIONS: Final = Listing(
    source="intervention",
    columns=(
        *_instants("hour_start"),
        TENANT,
        Column(name="outcome", sql="outcome", schema=TEXT),
        Column(name="reason", sql="reason", schema=TEXT),
        Column(name="calls", sql="count", schema=COUNT),
    ),
    order=(
        Order(sql="hour_start_micros", kind=int, descending=True),
        Order(sql="tenant_id", kind=str),
        Order(sql="outcome", kind=str),
        Order(sql="reason", kind=str),
    ),
    filters={**OF_TENANT, "outcome": "outcome = :outcome", "reason": "reason = :reason"},
    choices={"outcome": (Outcome.THROTTLE.value, Outcome.BLOCK.value)},
)
SESSIONS: Final = Listing(
    source="session",
    columns=(
        TENANT,
        Column(name="session", sql="session_id", schema=TEXT),
        Column(name="product", sql="product", schema=TEXT),
        Column(name="agent", sql="agent", schema=TEXT),
        *_instants("opened", "last_seen", "ended", "killed"),
        Column(name="steps", sql="steps", schema=COUNT),
        Column(name="ended_by", sql="ended_by", schema=TEXT),
    ),
    order=(
        Order(sql="last_seen_micros", kind=int, descending=True),
        Order(sql="tenant_id", kind=str),
        Order(sql="session_id", kind=str),
    ),
    filters={**OF_TENANT, "state": "(:state = 'open') = (ended_by = '')"},
    choices={"state": ("open", "ended")},
)
_DELIVERY_STATE: Final = (
    f"CASE WHEN endpoint_id IS NULL THEN '' WHEN {CONDITIONS['delivered']} THEN 'delivered'"
    f" WHEN {CONDITIONS['gave-up']} THEN 'gave-up' ELSE 'waiting' END"
)
_ENDPOINT: Final = "COALESCE(endpoint_id, '')"
ALERTS: Final = Listing(
    source="outbox LEFT JOIN delivery USING (outbox_id)",
    columns=(
        Column(name="message", sql="message_id", schema=TEXT),
        Column(name="tenant", sql="outbox.tenant_id", schema=TEXT),
        Column(name="kind", sql="kind", schema=TEXT),
        *_instants("created_at"),
        Column(name="endpoint", sql=_ENDPOINT, schema=TEXT),
        Column(name="state", sql=_DELIVERY_STATE, schema=TEXT),
        Column(name="attempts", sql="attempts", schema=COUNT),
        *_instants("next_attempt_at", "delivered_at", "gave_up_at"),
        Column(name="last_error", sql="last_error"),
    ),
    order=(
        Order(sql="outbox.outbox_id", kind=int, descending=True),
        Order(sql=_ENDPOINT, kind=str),
    ),
    filters={
        "tenant": "outbox.tenant_id = :tenant",
        "kind": "kind = :kind",
        "endpoint": "endpoint_id = :endpoint",
        "state": f"{_DELIVERY_STATE} = :state",
    },
    choices={"state": STATES},
)
COMPLETENESS: Final = Listing(
    source=(
        "(SELECT tenant_id, hour_start_micros, SUM(decided) AS decided, SUM(logged) AS logged,"  # noqa: S608
        " SUM(CASE WHEN decided > logged THEN decided - logged ELSE 0 END) AS missing"
        f" FROM ({OF_ALL}) AS compared WHERE outcome <> '{FILLED}'"
        " GROUP BY tenant_id, hour_start_micros) AS hours"
    ),
    columns=(
        *_instants("hour_start"),
        TENANT,
        Column(name="decided", sql="decided", told=int, schema=COUNT),
        Column(name="logged", sql="logged", told=int, schema=COUNT),
        Column(name="missing", sql="missing", told=int, schema=COUNT),
    ),
    order=(
        Order(sql="hour_start_micros", kind=int, descending=True),
        Order(sql="tenant_id", kind=str),
    ),
    filters=OF_TENANT,
)
