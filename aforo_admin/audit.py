"""The record of changes: appended in the change's own transaction, chained by hash, verified."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aforo_admin.control.models import AuditEntry, Head
from aforo_admin.control.models_scenarios import KIND as SCENARIO
from aforo_admin.control.recording import Change
from aforo_admin.kept_heads import Kept

ROWS_PER_STATEMENT: Final = 500
NOT_KEPT: Final = "is not the one that was kept elsewhere: it, or what is before it, was rewritten"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a look at the whole record found."""

    entries: int  # That follow from one another, from the first on.
    broken_at: int | None = None  # The number of the first that does not.
    why: str = ""
    head: Kept | None = None  # The last, if there is one and nothing is broken.


def lock_head() -> None:
    """Wait until nobody else changes the catalog; the transaction's end lets the next one in."""
    Head.objects.select_for_update().get()


def last_seq() -> int:
    """Return the number of the last entry, by which a change is noticed."""
    return int(Head.objects.values_list("last_seq", flat=True).get())


def append(change: Change) -> None:
    """Add the entries of a change, while its transaction holds the head."""
    head = Head.objects.get()
    entries = []
    for note in change.notes:
        head.last_seq += 1
        entry = AuditEntry(
            seq=head.last_seq,
            at=change.at,
            actor=change.actor,
            source=change.source.value,
            kind=note.kind,
            name=note.name,
            tenant_id=note.tenant_id,
            before=note.before,
            after=note.after,
            reason=change.reason,
            previous_hash=head.last_hash,
        )
        head.last_hash = entry.hash = hash_of(entry)
        entries.append(entry)
    AuditEntry.objects.bulk_create(entries, batch_size=ROWS_PER_STATEMENT)
    head.save()


def hash_of(entry: AuditEntry) -> str:
    """Return SHA-256 over the hash before it and all that the entry says, in hex."""
    said = {
        each.attname: _told(getattr(entry, each.attname))
        for each in entry._meta.concrete_fields  # noqa: SLF001 - its public name.
        if each.attname != "hash"
    }
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def verify(kept: Kept | None = None) -> Verified:
    """Follow the chain from the first entry, to the head or to the first that is broken.

    A chain that was rewritten from its beginning follows as well; only an entry that was kept
    elsewhere tells. If it is in its place, so is all that is before it.
    """
    head = Head.objects.get()
    previous = ""
    seq = 0
    for entry in AuditEntry.objects.iterator(chunk_size=ROWS_PER_STATEMENT):
        why = _fault(entry, seq=seq + 1, previous=previous)
        if not why and kept is not None and entry.seq == kept.seq and entry.hash != kept.hash:
            why = NOT_KEPT
        if why:
            return Verified(entries=seq, broken_at=min(entry.seq, seq + 1), why=why)
        seq, previous = entry.seq, entry.hash
    if kept is not None and seq < kept.seq:
        why = f"is missing: entry {kept.seq} was kept elsewhere, so it was there"
        return Verified(entries=seq, broken_at=seq + 1, why=why)
    if seq < head.last_seq:
        why = f"is missing: the last entry should be {head.last_seq}"
        return Verified(entries=seq, broken_at=seq + 1, why=why)
    if previous != head.last_hash:
        return Verified(entries=seq, broken_at=seq, why="is not the one that the head names")
    return Verified(entries=seq, head=Kept(seq=seq, hash=previous) if seq else None)


def verify_between(first_seq: int, last_seq: int) -> Verified:
    """Follow the chain from one entry to another: a part of it, when the whole is long."""
    before = AuditEntry.objects.filter(seq=first_seq - 1).values_list("hash", flat=True).first()
    previous, seq = before or "", first_seq - 1
    for entry in AuditEntry.objects.filter(seq__gte=first_seq, seq__lte=last_seq):
        why = _fault(entry, seq=seq + 1, previous=previous)
        if why:
            return Verified(entries=seq + 1 - first_seq, broken_at=min(entry.seq, seq + 1), why=why)
        seq, previous = entry.seq, entry.hash
    return Verified(entries=seq + 1 - first_seq)


def _fault(entry: AuditEntry, *, seq: int, previous: str) -> str:
    if entry.seq != seq:
        return f"is missing: {entry.seq} follows {seq - 1}"
    if entry.previous_hash != previous:
        return "does not name the entry before it"
    return "says something else than when it was written" if entry.hash != hash_of(entry) else ""


def entries_of(*, tenant_id: str | None, limit: int) -> Iterable[AuditEntry]:
    """Return the last entries, of one tenant or of all, oldest first."""
    query = AuditEntry.objects.order_by("-seq")
    if tenant_id is not None:
        query = query.filter(tenant_id=tenant_id)
    return list(query[:limit])[::-1]


def tenants_since(seq: int) -> frozenset[str]:
    """Return whose terms have changed since an entry; "" among them: what is of no tenant has.

    Scenarios change nobody's.
    """
    entries = AuditEntry.objects.filter(seq__gt=seq).exclude(kind=SCENARIO)
    return frozenset(entries.order_by().values_list("tenant_id", flat=True).distinct())


def _told(value: Any) -> Any:  # noqa: ANN401 - what a column holds.
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
