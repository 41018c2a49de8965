"""Instants of years that the catalog's written form can't say: the nearest that it can.

Forms took them, and then neither REST nor a file could change anything. The record tells of each.
"""

from datetime import UTC, datetime
from typing import Any, Final

from django.db import migrations, transaction

from aforo_admin import audit
from aforo_admin.control.recording import Change, Note, Source, told
from aforo_admin.domain.problems import is_in_years

# What begins, and what ends: apart, so that nothing ends as it begins.
BEGINS: Final = datetime(1970, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
ENDS: Final = datetime(1970, 1, 2, tzinfo=UTC), datetime(2999, 12, 31, tzinfo=UTC)
FROM: Final = ("effective_from", BEGINS)
STARTED: Final = ("started_at", BEGINS)
ENDED: Final = ("ended_at", ENDS)
EXPIRES: Final = ("expires_at", ENDS)
TABLES: Final = {
    "CostPrice": [FROM],
    "NegotiatedCost": [FROM],
    "ExchangeRate": [FROM],
    "Subscription": [STARTED, ENDED],
    "FormerSubscription": [STARTED, ENDED],
    "PlanChange": [FROM],
    "Credential": [EXPIRES],
    "IngestKey": [EXPIRES],
    "Deal": [FROM, ("effective_until", ENDS)],
    "MarginOverride": [("until", ENDS)],
}
NAMES: Final = (
    *("tenant_id", "deal_id", "credential_id", "key_id"),
    *("meter", "provider", "model", "currency"),
)
NEVER_EDITED: Final = frozenset({"CostPrice", "NegotiatedCost", "ExchangeRate"})
REASON: Final = "the catalog writes years from 1970 to 2999"


def clamp(apps: Any, _schema: Any) -> None:
    at = datetime.now(UTC)
    made = Change(actor="aforo-admin migrate", source=Source.SHELL, reason=REASON, at=at)
    with transaction.atomic():
        for table, columns in TABLES.items():
            model = apps.get_model("control", table)
            for row in model.objects.order_by("pk"):
                _clamp(row, columns, made, is_never_edited=table in NEVER_EDITED)
        if made.notes:
            audit.lock_head()
            audit.append(made)


def _clamp(row: Any, columns: Any, made: Change, *, is_never_edited: bool) -> None:
    before = {name: getattr(row, name) for name, _ in columns}
    after = {name: _nearest(before[name], *bounds) for name, bounds in columns}
    differing = [name for name in before if before[name] != after[name]]
    if not differing:
        return
    if is_never_edited:  # So it is removed, and added again.
        row.delete()
        row.pk = None
    for name in differing:
        setattr(row, name, after[name])
    row.save(force_insert=is_never_edited)
    named = [str(getattr(row, name)) for name in NAMES if getattr(row, name, "")]
    made.notes.append(
        Note(
            kind=str(row._meta.verbose_name),
            name="/".join(named),
            tenant_id=str(getattr(row, "tenant_id", "")),
            before={name: told(before[name], masked=False) for name in differing},
            after={name: told(after[name], masked=False) for name in differing},
        )
    )


def _nearest(at: datetime | None, first: datetime, last: datetime) -> datetime | None:
    if at is None or is_in_years(at):
        return at
    return first if at < first else last


class Migration(migrations.Migration):
    dependencies = [
        ("control", "0005_lower_case"),
    ]

    operations = [
        migrations.RunPython(clamp, migrations.RunPython.noop),
    ]
