"""Is a row still what somebody was shown? A save over a newer state is refused, and says whose.

A form carries the number of the record's last entry as it was opened. Whatever happened to its row
since then, or to what belongs to it, is in the record with a later one.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Q
from django.forms import HiddenInput
from django.http import HttpRequest

from aforo_admin import audit
from aforo_admin.control.models import AuditEntry

OPENED: Final = "opened_at_change"
DIGITS_MAX: Final = 18  # As far as databases count.
CHANGES_TOLD_MAX: Final = 5
REMEDY: Final = (
    "nothing was saved, and what you typed is below. Open it in another tab to see it as it is "
    "now, take over here what should stay, and save again: what this form says then replaces it"
)


class ChangedSinceOpenedError(Exception):
    """Somebody else has changed it since it was shown; the message says who, when, and what."""


def mark(request: HttpRequest) -> None:
    """Note where the record stands, before a row is read: what comes between counts as later."""
    request.opened = audit.last_seq()


def hidden_input(request: HttpRequest) -> str:
    """Return the field alone, for pages that ask before they do something."""
    return str(HiddenInput().render(OPENED, request.opened))


def renew(request: HttpRequest) -> None:
    """Let the form, shown once more, carry the state that its message has told of."""
    given = request.POST.copy()
    given[OPENED] = str(audit.last_seq())
    request.POST = given


def opened_at(request: HttpRequest) -> int | None:
    """Return where the record stood as a form was opened; None: what was sent does not say."""
    given = request.POST.get(OPENED, "")
    sound = given.isascii() and given.isdecimal() and len(given) <= DIGITS_MAX
    return int(given) if sound else None


def check(request: HttpRequest, row: Any, parts: Iterable[Any] = (), remedy: str = REMEDY) -> None:
    """Refuse a change of what is no longer what its form was opened with, within a change.

    Args:
        request: What was sent; it says when the form was opened.
        row: What is to change.
        parts: Models of what belongs to it in the form.
        remedy: What to do then.

    Raises:
        ChangedSinceOpenedError: It was changed meanwhile, or the form does not say.
    """
    since = opened_at(request)
    if since is None:
        raise ChangedSinceOpenedError(
            f"this form does not say which state of {row} it was opened with: {remedy}"
        )
    later = list(_about(row, parts).filter(seq__gt=since).order_by("seq"))
    if later:
        raise ChangedSinceOpenedError(f"{told(later, row, parts)}: {remedy}")


def _about(row: Any, parts: Iterable[Any]) -> Any:
    kinds = [str(part._meta.verbose_name) for part in parts]
    own = Q(kind=str(row._meta.verbose_name), name=str(row))
    belonging = Q(kind__in=kinds) & (Q(name=str(row)) | Q(name__startswith=f"{row}/"))
    return AuditEntry.objects.filter(own | belonging)


def told(later: Sequence[AuditEntry], row: Any, parts: Iterable[Any]) -> str:
    """Return who changed what, and when it was changed last."""
    who = " and ".join(dict.fromkeys(entry.actor for entry in later))
    models = {str(model._meta.verbose_name): model for model in (type(row), *parts)}
    changes = list(dict.fromkeys(_change(entry, models[entry.kind], row) for entry in later))
    more = len(changes) - CHANGES_TOLD_MAX
    shown = "; ".join(changes[:CHANGES_TOLD_MAX]) + (f"; and {more} more" if more > 0 else "")
    at = f"{later[-1].at:%Y-%m-%d at %H:%M:%S} UTC"
    return f"{who} changed {row} on {at}, after this form was opened ({shown})"


def _change(entry: AuditEntry, model: Any, row: Any) -> str:
    """Return what an entry says of, in the words of the form; figures are in the record."""
    kind = entry.kind if entry.name == str(row) else f"{entry.kind} {entry.name}"
    if entry.before is None or entry.after is None:
        return f"{kind} {'added' if entry.before is None else 'removed'}"
    changed = [name for name in entry.after if entry.before.get(name) != entry.after[name]]
    names = ", ".join(_label(model, name) for name in changed)
    return names if model is type(row) else f"{kind}: {names}"


def _label(model: Any, name: str) -> str:
    try:
        return str(model._meta.get_field(name).verbose_name)
    except FieldDoesNotExist:  # The record's is the column's name: plan_id for plan.
        return name.removesuffix("_id")
