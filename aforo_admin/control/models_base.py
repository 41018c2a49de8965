"""What the tables of the catalog share: every change of a row is recorded, or refused."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, Self

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.deletion import Collector

from aforo_admin.columns import ALLOWANCE_COLUMNS
from aforo_admin.control import recording
from aforo_admin.control.fields import (
    BasisPointsColumn,
    LowerCaseColumn,
    NanosColumn,
    TextsColumn,
    TimeOfDayColumn,
)
from aforo_admin.domain.problems import day

ID_CHARS_MAX = 128


class NeverEditedError(Exception):
    """What the past depends on can't be edited; the message says what to do instead."""


class AnsweredForQuerySet(models.QuerySet):
    """Rows that are written only within a change, also by what Django loads or relates."""

    def _insert(self, *arguments: Any, **options: Any) -> Any:
        recording.current()
        return super()._insert(*arguments, **options)

    _insert.queryset_only = False  # type: ignore[attr-defined] # As it is in Django.

    def _update(self, values: Any) -> int:
        recording.current()
        return int(super()._update(values))

    _update.queryset_only = False  # type: ignore[attr-defined] # As above.

    def _raw_delete(self, using: str | None) -> int:
        recording.current()
        return int(super()._raw_delete(using))


class RecordedQuerySet(AnsweredForQuerySet):
    """Rows of which every change is recorded."""

    def update(self, **_values: Any) -> int:
        raise recording.UnrecordedError("rows are saved one by one, so that each is recorded")

    def bulk_update(self, *_arguments: Any, **_options: Any) -> int:
        raise recording.UnrecordedError("rows are saved one by one, so that each is recorded")

    def bulk_create(self, objs: Iterable[Any], *, batch_size: int | None = None) -> list[Any]:
        """Add rows. Django's other options would edit rows, or leave some out, unseen."""
        change = recording.current()
        made: list[Any] = super().bulk_create(objs, batch_size)
        for each in made:
            change.note(each, before=None, after=each.as_row())
        return made

    def delete(self) -> tuple[int, dict[str, int]]:
        return delete(list(self))

    def _raw_delete(self, using: str | None) -> int:
        """Delete as Django does with what belongs to a row, if nothing belongs to it in turn."""
        note_removals(self)
        return int(super()._raw_delete(using))


class Recorded(models.Model):
    """One row of the catalog. Changes stand within `recording.change`."""

    # What names a row beyond its database; lookups lead through parents.
    key_fields: ClassVar[tuple[str, ...]]
    # Of these, the record keeps no more than the first characters.
    masked: ClassVar[frozenset[str]] = frozenset()
    # A row whose value here is to change is removed, and another added.
    never_edited: ClassVar[tuple[str, ...]] = ()
    # Where it is told that another row has the same key. Empty: at the key's last column.
    clash_column: ClassVar[str] = ""

    objects = RecordedQuerySet.as_manager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        told = [day(part) if isinstance(part, datetime) else str(part) for part in self.key]
        return "/".join(part for part in told if part) or str(self._meta.verbose_name)

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(_follow(self, lookup) for lookup in self.key_fields)

    @property
    def tenant_key(self) -> str:
        """The tenant whose terms the row is part of; empty: it concerns all."""
        first = self.key_fields[0] if self.key_fields else ""
        return str(self.key[0]) if first.endswith("tenant_id") else ""

    def as_row(self) -> dict[str, Any]:
        return {
            each.attname: recording.told(
                getattr(self, each.attname), masked=each.name in self.masked
            )
            for each in self._meta.concrete_fields
        }

    def save_base(self, *arguments: Any, **options: Any) -> None:
        change = recording.current()
        held = type(self)._base_manager.filter(pk=self.pk).first() if self.pk is not None else None
        if held is not None:
            self.check_edit(held)
        super().save_base(*arguments, **options)
        before = None if held is None else held.as_row()
        change.note(self, before=before, after=self.as_row())

    def delete(self, *_arguments: Any, **_options: Any) -> tuple[int, dict[str, int]]:
        return delete([self])

    def check_edit(self, held: Self) -> None:
        """Refuse a change of what is never edited.

        Raises:
            NeverEditedError: It names the column and the remedy.
        """
        for name in self.never_edited:
            if getattr(self, name) != getattr(held, name):
                raise NeverEditedError(
                    f"{self._meta.verbose_name} {self}: {name} is never edited, since what it said "
                    "was in force: add another, or remove this one first"
                )

    def check_removal(self) -> None:
        """Refuse a removal, where the past depends on the row."""

    def validate_constraints(self, exclude: Any = None) -> None:
        """Refuse what another row has already, at a column and with its name.

        Raises:
            ValidationError: There is such a row.
        """
        for each in self._meta.constraints:
            if isinstance(each, models.UniqueConstraint) and each.condition is None:
                self._refuse_clash(each.fields, set(exclude or ()))
        super().validate_constraints(exclude)

    def _refuse_clash(self, names: tuple[str, ...], exclude: set[str]) -> None:
        if exclude.intersection(names):
            return
        same = {name: getattr(self, name) for name in names}
        other = type(self)._base_manager.filter(**same).exclude(pk=self.pk).first()
        if other is not None:
            column = self.clash_column or names[-1]
            raise ValidationError({column: self.clash_with(other, column)})

    def clash_with(self, other: Self, _column: str) -> str:
        return f"{self._meta.verbose_name} {other} has it already: choose another"


# The manager behind relations records as well. It does not stand in Meta: of tables without a Meta
# of their own, Django would take it for a change that wants a migration.
Recorded._meta.base_manager_name = "objects"


class Ordered(Recorded):
    """Rows in an order that somebody chose."""

    position = models.PositiveIntegerField(
        blank=True, help_text="Rows stand in this order. Empty: after the last."
    )

    class Meta:
        abstract = True

    def save_base(self, *arguments: Any, **options: Any) -> None:
        if self.position is None:
            last = type(self)._base_manager.aggregate(last=models.Max("position"))["last"]
            self.position = 0 if last is None else last + 1
        super().save_base(*arguments, **options)


def delete(rows: list[Any]) -> tuple[int, dict[str, int]]:
    """Delete rows with all that belongs to them, and record each of them."""
    recording.current()
    if not rows:
        return 0, {}
    collector = Collector(using=rows[0]._state.db or "default", origin=rows[0])
    collector.collect(rows)
    # The rest of it deletes, and records, `_raw_delete`.
    note_removals(each for group in collector.data.values() for each in group)
    done: tuple[int, dict[str, int]] = collector.delete()
    return done


def note_removals(rows: Iterable[Any]) -> None:
    change = recording.current()
    for each in rows:
        if isinstance(each, Recorded):
            each.check_removal()
            change.note(each, before=each.as_row(), after=None)


def _follow(row: Any, lookup: str) -> Any:
    value = row
    for name in lookup.split("__"):
        value = getattr(value, name)
    return tuple(value) if isinstance(value, list) else value


class Floors(Recorded):
    """Thresholds, as far as they are said here."""

    warn_below_bp = BasisPointsColumn(
        null=True, blank=True, help_text="Margin, like 20%. Empty: the next wider rule's."
    )
    throttle_below_bp = BasisPointsColumn(null=True, blank=True)
    block_below_bp = BasisPointsColumn(null=True, blank=True)
    hysteresis_bp = BasisPointsColumn(null=True, blank=True)
    act_from_revenue_nanos = NanosColumn(null=True, blank=True)
    act_from_calls = models.BigIntegerField(null=True, blank=True)
    allowance_warn_at_bp = BasisPointsColumn(
        null=True, blank=True, help_text="Share of an allowance. All three levels, or none."
    )
    allowance_throttle_at_bp = BasisPointsColumn(null=True, blank=True)
    allowance_block_at_bp = BasisPointsColumn(null=True, blank=True)

    class Meta:
        abstract = True


class GuardColumns(Floors, Ordered):
    """A margin of a part of the usage."""

    guard_id = models.CharField(max_length=ID_CHARS_MAX)
    features = TextsColumn(default=list, blank=True)
    meters = TextsColumn(default=list, blank=True)
    revenue_nanos = NanosColumn(null=True, blank=True)
    revenue_share_bp = BasisPointsColumn(null=True, blank=True)

    class Meta:
        abstract = True

    def save_base(self, *arguments: Any, **options: Any) -> None:
        for column in ALLOWANCE_COLUMNS.values():
            setattr(self, column, None)  # Allowances are of contracts, and not of a part of usage.
        super().save_base(*arguments, **options)


class RateCardColumns(Ordered):
    """What usage is charged, from a date on. Lines and discounts are written as in the YAML."""

    effective_from = models.DateTimeField()
    minimum_nanos = NanosColumn(default=0)
    components = models.JSONField(default=list, blank=True)
    discounts = models.JSONField(default=list, blank=True)

    class Meta:
        abstract = True


COST_KEY = (
    *("meter", "provider", "model", "effective_from"),
    *("input_tokens_from", "day_from_s", "day_to_s"),
)


class CostColumns(Ordered):
    """What a meter costs us from a date on."""

    meter = models.CharField(max_length=ID_CHARS_MAX)
    price_nanos = NanosColumn()
    per_units = models.BigIntegerField()
    effective_from = models.DateTimeField()
    provider = LowerCaseColumn(blank=True, default="")
    model = LowerCaseColumn(blank=True, default="")
    input_tokens_from = models.BigIntegerField(
        default=0, help_text="For requests of so many input tokens or more."
    )
    day_from_s = TimeOfDayColumn(
        default=0, help_text="Seconds after midnight UTC. Both 0: all day."
    )
    day_to_s = TimeOfDayColumn(default=0)

    never_edited = (*COST_KEY, "price_nanos", "per_units")
    clash_column = "effective_from"

    class Meta:
        abstract = True

    def clash_with(self, other: Self, _column: str) -> str:
        return (
            f"overlaps the price of {other.meter} that is in force from "
            f"{day(other.effective_from)}: give it another date, or remove that one first"
        )
