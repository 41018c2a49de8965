"""What the REST API keeps: tokens of programs, and answers that must not be made twice."""

from typing import Any, ClassVar, Final

from django.db import models

from aforo_admin.control.fields import TextsColumn
from aforo_admin.control.models_base import ID_CHARS_MAX, Recorded, RecordedQuerySet

TOKEN_CHARS_KEPT = 18  # What a token begins with, and a few characters of its own.


LAST_USED: Final = "last_used_at"


class TokenQuerySet(RecordedQuerySet):
    def update(self, **values: Any) -> int:
        """Note that tokens were used; nothing else of them changes unrecorded."""
        if values.keys() != {LAST_USED}:
            return super().update(**values)
        return int(models.QuerySet.update(self, **values))


class ApiToken(Recorded):
    """What a program shows. Only its hash is known."""

    token_id = models.CharField(max_length=ID_CHARS_MAX, primary_key=True)
    sha256 = models.CharField(max_length=64, unique=True)
    prefix = models.CharField(max_length=TOKEN_CHARS_KEPT, help_text="To know it by.")
    role = models.CharField(max_length=32)
    scopes = TextsColumn(default=list, blank=True, help_text="Empty: all that the role may.")
    tenant_id = models.CharField(
        max_length=64, blank=True, default="", help_text="All that it sees. Empty: all tenants."
    )
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked = models.BooleanField(default=False)
    last_used_at = models.DateTimeField(null=True, help_text="To the hour.")

    objects = TokenQuerySet.as_manager()

    key_fields = ("token_id",)
    masked = frozenset({"sha256"})
    never_edited = ("sha256",)

    class Meta:
        ordering = ("token_id",)
        verbose_name = "API token"
        default_permissions: ClassVar = ("view",)

    def __str__(self) -> str:
        return str(self.token_id)

    @property
    def tenant_key(self) -> str:
        """The tenant that the record of changes names; a token changes no terms of it."""
        return str(self.tenant_id)

    def as_row(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_row().items() if name != LAST_USED}


class IdempotentAnswer(models.Model):
    """What was answered to a write: to be said again to who repeats it."""

    digest = models.CharField(max_length=64, primary_key=True)  # Of the token and its key.
    request_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField()
    body = models.JSONField()
    headers = models.JSONField(default=dict)
    made_at = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.digest)
