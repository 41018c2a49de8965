"""Triggers that refuse what no program should do, whichever way it reaches the database.

Entries of the record are never changed or removed; prices are never edited; a version of a plan
that is published stays as it is.
"""

from dataclasses import dataclass
from typing import Any, Final

from django.apps import apps
from django.db import connections

# What PostgreSQL calls a violated constraint: Django raises IntegrityError, as SQLite has it.
PG_ERRCODE: Final = "integrity_constraint_violation"

IMMUTABLE: Final = "a published version of a plan is immutable: make a new version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    name: str
    table: str
    event: str  # INSERT, UPDATE or DELETE.
    when: str  # A condition on OLD and NEW; both databases understand it.
    message: str


def install(*, using: str = "default", **_signal: Any) -> None:
    """Make the triggers, after a migration; those that are there already are made anew."""
    connection = connections[using]
    # A migration may be to a time before the tables.
    there = set(connection.introspection.table_names())
    statements = _postgresql if connection.vendor == "postgresql" else _sqlite
    with connection.cursor() as cursor:
        for trigger in triggers():
            if trigger.table in there:
                for statement in statements(trigger):
                    cursor.execute(statement)
        if connection.vendor == "postgresql" and "control_auditentry" in there:
            cursor.execute(_no_truncate("control_auditentry"))


def triggers() -> list[Trigger]:
    made = [_record("UPDATE"), _record("DELETE")]
    made += map(_never_edited, map(_model, ("CostPrice", "NegotiatedCost", "ExchangeRate")))
    version = _model("PlanVersion")
    content = [f.column for f in version._meta.concrete_fields if f.name not in version.lifecycle]
    made += [
        _version("UPDATE", f"OLD.state <> 'draft' AND ({_differs(content)})"),
        _version("DELETE", "OLD.state <> 'draft'"),
        _lifecycle(),
    ]
    for part in map(_model, ("PlanQuota", "PlanGuard", "PlanRateCard")):
        made += [_part(part._meta.db_table, event) for event in ("INSERT", "UPDATE", "DELETE")]
    return made


def _model(name: str) -> Any:
    return apps.get_model("control", name)


def _record(event: str) -> Trigger:
    return Trigger(
        name=f"control_auditentry_{event.lower()}_refused",
        table="control_auditentry",
        event=event,
        when="1 = 1",
        message="the record of changes is append-only",
    )


def _never_edited(model: Any) -> Trigger:
    return Trigger(
        name=f"{model._meta.db_table}_never_edited",
        table=model._meta.db_table,
        event="UPDATE",
        when=_differs(model.never_edited),
        message="prices and rates are never edited: add a further one",
    )


def _version(event: str, when: str) -> Trigger:
    return Trigger(
        name=f"control_planversion_{event.lower()}_immutable",
        table="control_planversion",
        event=event,
        when=when,
        message=IMMUTABLE,
    )


def _part(table: str, event: str) -> Trigger:
    row = "OLD" if event == "DELETE" else "NEW"
    version = f"SELECT state FROM control_planversion WHERE id = {row}.version_id"  # noqa: S608
    return Trigger(
        name=f"{table}_{event.lower()}_immutable",
        table=table,
        event=event,
        when=f"({version}) <> 'draft'",
        message=IMMUTABLE,
    )


def _lifecycle() -> Trigger:
    allowed = ("draft", "published"), ("published", "retired")
    steps = [f"(OLD.state = '{old}' AND NEW.state = '{new}')" for old, new in allowed]
    return Trigger(
        name="control_planversion_lifecycle",
        table="control_planversion",
        event="UPDATE",
        when=f"NOT ({' OR '.join(['OLD.state = NEW.state', *steps])})",
        message="a version of a plan goes from draft to published to retired",
    )


def _differs(columns: Any) -> str:
    return " OR ".join(f'NEW."{name}" IS DISTINCT FROM OLD."{name}"' for name in columns)


def _sqlite(trigger: Trigger) -> list[str]:
    when = trigger.when.replace("IS DISTINCT FROM", "IS NOT")  # Understood by older ones too.
    create = (
        f'CREATE TRIGGER "{trigger.name}" BEFORE {trigger.event} ON "{trigger.table}" '
        f"FOR EACH ROW WHEN {when} BEGIN SELECT RAISE(ABORT, '{trigger.message}'); END"
    )
    return [f'DROP TRIGGER IF EXISTS "{trigger.name}"', create]


def _postgresql(trigger: Trigger) -> list[str]:
    # In the function's body and not in WHEN, which takes no subqueries.
    body = (
        f"BEGIN IF {trigger.when} THEN RAISE EXCEPTION '{trigger.message}' "
        f"USING ERRCODE = '{PG_ERRCODE}'; END IF; "
        f"RETURN {'OLD' if trigger.event == 'DELETE' else 'NEW'}; END"
    )
    function = (
        f'CREATE OR REPLACE FUNCTION "{trigger.name}"() RETURNS trigger '
        f"LANGUAGE plpgsql AS $body$ {body} $body$"
    )
    create = (
        f'CREATE OR REPLACE TRIGGER "{trigger.name}" BEFORE {trigger.event} '
        f'ON "{trigger.table}" FOR EACH ROW EXECUTE FUNCTION "{trigger.name}"()'
    )
    return [function, create]


def _no_truncate(table: str) -> str:
    return (
        f'CREATE OR REPLACE TRIGGER "{table}_truncate_refused" BEFORE TRUNCATE ON "{table}" '
        f'FOR EACH STATEMENT EXECUTE FUNCTION "{table}_delete_refused"()'
    )
