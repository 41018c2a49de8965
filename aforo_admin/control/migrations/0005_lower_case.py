"""Providers and models of prices, as they are compared: in lower case.

A price that is never edited is removed and added again, which the record tells of. Where the same
price stands in lower case too, the one in capitals was never to be there beside it, and goes.
"""

from datetime import UTC, datetime
from typing import Any, Final

from django.db import migrations, transaction

from aforo_admin import audit
from aforo_admin.control.recording import Change, Note, Source, told
from aforo_admin.domain.catalog import CostPrice
from aforo_admin.domain.checking_costs import overlap

TABLES: Final = {"CostPrice": "cost price", "NegotiatedCost": "negotiated cost"}
COLUMNS: Final = (
    *("meter", "price_nanos", "per_units", "effective_from", "provider", "model"),
    *("input_tokens_from", "day_from_s", "day_to_s"),
)
REASON: Final = "providers and models of prices are compared, and now kept, in lower case"


def lower(apps: Any, _schema: Any) -> None:
    at = datetime.now(UTC)
    made = Change(actor="aforo-admin migrate", source=Source.SHELL, reason=REASON, at=at)
    with transaction.atomic():
        for table, kind in TABLES.items():
            _lower(apps.get_model("control", table), kind, made)
        if made.notes:
            audit.lock_head()
            audit.append(made)


def _lower(model: Any, kind: str, made: Change) -> None:
    rows = list(model.objects.order_by("position", "pk"))
    loud = [row for row in rows if (row.provider, row.model) != _names(row)]
    kept = [row for row in rows if row not in loud]
    for row in loud:
        made.notes.append(_note(row, kind, is_added=False))
        row.delete()
        row.provider, row.model = _names(row)
        if any(_owner(other) == _owner(row) and overlap(_of(other), _of(row)) for other in kept):
            continue
        row.pk = None
        row.save(force_insert=True)
        kept.append(row)
        made.notes.append(_note(row, kind, is_added=True))


def _names(row: Any) -> tuple[str, str]:
    return row.provider.lower(), row.model.lower()


def _owner(row: Any) -> str:
    return str(getattr(row, "tenant_id", ""))


def _of(row: Any) -> CostPrice:
    return CostPrice(**{name: getattr(row, name) for name in COLUMNS})


def _note(row: Any, kind: str, *, is_added: bool) -> Note:
    said = {
        each.attname: told(getattr(row, each.attname), masked=False)
        for each in row._meta.concrete_fields
    }
    name = "/".join(
        str(part)
        for part in (_owner(row), row.meter, row.provider, row.model, row.effective_from)
        if part
    )
    before, after = (None, said) if is_added else (said, None)
    return Note(kind=kind, name=name, tenant_id=_owner(row), before=before, after=after)


class Migration(migrations.Migration):
    dependencies = [
        ("control", "0004_scenario"),
    ]

    operations = [
        migrations.RunPython(lower, migrations.RunPython.noop),
    ]
