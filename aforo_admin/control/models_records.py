"""What the database keeps beside the catalog: the record of changes, its head, and a lease."""

from typing import ClassVar

from django.db import models

HASH_CHARS = 64


class Head(models.Model):
    """The last entry of the record. One row: whoever changes the catalog locks it first."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    last_seq = models.BigIntegerField(default=0)
    last_hash = models.CharField(max_length=HASH_CHARS, default="")

    def __str__(self) -> str:
        return str(self.last_seq)


class AuditEntry(models.Model):
    """What happened to one row of the catalog. Triggers refuse every change of an entry."""

    seq = models.BigIntegerField(primary_key=True)  # Without gaps, from 1.
    at = models.DateTimeField(db_index=True)
    actor = models.TextField()
    source = models.CharField(max_length=16)
    kind = models.TextField()
    name = models.TextField()
    tenant_id = models.CharField(max_length=64, db_index=True)  # Empty: it concerned all.
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    reason = models.TextField()
    previous_hash = models.CharField(max_length=HASH_CHARS)
    hash = models.CharField(max_length=HASH_CHARS)

    class Meta:
        ordering = ("seq",)
        verbose_name_plural = "audit entries"
        default_permissions: ClassVar = ("view",)

    def __str__(self) -> str:
        return f"{self.seq} {self.kind} {self.name}"


class Lease(models.Model):
    """Who alone does something, until when."""

    name = models.CharField(max_length=64, primary_key=True)
    holder = models.TextField()
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name}: {self.holder}"
