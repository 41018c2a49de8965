"""The record of changes: who changed what, from where, and whether the chain holds."""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, Final, NamedTuple

from django.db.models import QuerySet

from aforo_admin import audit
from aforo_admin.control import recorded_values
from aforo_admin.control.models import AuditEntry, Head
from aforo_admin.control.recording import Source
from aforo_admin.screens.page import ROWS_PER_PAGE, ScreenView
from aforo_meter.domain.periods import EPOCH

FOLLOWED_MAX: Final = 1000  # Entries, those between the shown ones included.
SOURCES: Final = tuple(source.value for source in Source)


class Difference(NamedTuple):
    """A column as it was and as it is, in the words of the forms."""

    name: str
    before: str
    after: str


class AuditView(ScreenView):
    template_name = "control/screens/record.html"

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - as all pages.
        asked = {
            "actor": self.asked("actor"),
            "source": self.asked("source", choices=SOURCES),
            "kind": self.asked("kind"),
            "tenant": self.asked("tenant"),
            "since": self.asked("since"),
            "until": self.asked("until"),
        }
        faults: list[str] = []
        entries = list(self._entries(asked, faults)[: ROWS_PER_PAGE + 1])
        shown = entries[:ROWS_PER_PAGE]
        return {
            "faults": faults,
            "asked": asked,
            "sources": SOURCES,
            "kinds": AuditEntry.objects.order_by("kind").values_list("kind", flat=True).distinct(),
            "rows": [(entry, _action(entry), differences(entry)) for entry in shown],
            "head": Head.objects.first(),
            "chain": _chain(shown),
            "next": self.address(before=str(shown[-1].seq)) if len(entries) > ROWS_PER_PAGE else "",
        }

    def _entries(self, asked: dict[str, str], faults: list[str]) -> "QuerySet[AuditEntry]":
        entries = AuditEntry.objects.order_by("-seq")
        names = {"actor": "actor", "source": "source", "kind": "kind", "tenant": "tenant_id"}
        for name, column in names.items():
            if asked[name]:
                entries = entries.filter(**{column: asked[name]})
        since, until = _day("since", asked["since"], faults), _day("until", asked["until"], faults)
        if since is not None:
            entries = entries.filter(at__gte=since)
        if until is not None:
            entries = entries.filter(at__lt=until + timedelta(days=1))
        before = self.asked_number("before")
        if before is not None:
            entries = entries.filter(seq__lt=before)
        return entries


def _day(name: str, text: str, faults: list[str]) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.combine(date.fromisoformat(text), time(), EPOCH.tzinfo)
    except ValueError:
        faults.append(f"{name}: {text!r} is no date; write it like 2026-11-30")
        return None


def _chain(shown: Sequence[AuditEntry]) -> audit.Verified | None:
    """Follow the chain over a page; None if its entries stand too far apart for that."""
    if not shown or shown[0].seq - shown[-1].seq >= FOLLOWED_MAX:
        return None
    return audit.verify_between(shown[-1].seq, shown[0].seq)


def _action(entry: AuditEntry) -> str:
    if entry.before is None:
        return "added"
    return "removed" if entry.after is None else "changed"


def differences(entry: AuditEntry) -> Sequence[Difference]:
    """Return what an entry changed, column by column: of what was added or removed, all."""
    before, after = entry.before or {}, entry.after or {}
    model = recorded_values.model_of(entry.kind)
    names = list(dict.fromkeys([*before, *after]))
    return [
        Difference(
            recorded_values.label(model, name),
            recorded_values.text(model, name, before),
            recorded_values.text(model, name, after),
        )
        for name in names
        if before.get(name) != after.get(name)
    ]
