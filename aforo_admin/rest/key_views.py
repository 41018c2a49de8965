"""Keys: who sends none has one made, and the answer to that is the only one that ever holds it."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from aforo_admin import mint
from aforo_admin.control.models import Credential, IngestKey
from aforo_admin.control.recording import Change
from aforo_admin.domain.checking_tenants import IDENTITY_FIELDS
from aforo_admin.rest import places
from aforo_admin.rest.documents import json_of
from aforo_admin.rest.operations import Operation
from aforo_admin.rest.part_views import PartViews
from aforo_admin.rest.places import ID, Document
from aforo_admin.rest.problems import invalid
from aforo_admin.rest.writes import SECRET, Answer, write
from aforo_admin.yaml_scalars import instant

PREFIX_CHARS: Final = 12  # Of a key: what it begins with, and six of its own characters.
HASH: Final = "sha256"
EXPIRES: Final = "expires_at"
ENDS_LATER: Final = "give a moment to come, or leave it out"
TEXT: Final = {"type": "string"}


class KeyViews(PartViews):
    """Of credentials and ingest keys: beside the views of every part, one that ends a key."""

    def operations(self) -> Iterator[Operation]:
        yield from super().operations()
        yield self._operation(
            "POST",
            self.revoke,
            "/{entry}/revoke",
            summary="End a key, at once",
            gives=self.part.schema,
        )

    def _of_members(self) -> Iterator[Operation]:
        for operation in super()._of_members():
            if operation.method == "POST":
                operation = self._described(operation)  # noqa: PLW2901 - it is that one.
            yield operation

    def add(self, request: HttpRequest, tenant: str = "") -> HttpResponse:
        caller = self._caller(request, tenant)
        body = places.mapping(json_of(request))
        _refuse_ended(body)
        if body.keys() & {HASH, *IDENTITY_FIELDS.values()}:
            return write(request, caller, lambda made: self.added(request, made, tenant, body))
        return write(request, caller, lambda made: self._minted(request, made, tenant, body))

    def revoke(self, request: HttpRequest, tenant: str = "", *, entry: str) -> HttpResponse:
        caller = self._caller(request, tenant)

        def revoked(held: Document) -> Document:
            return {**held, "status": "revoked"}

        return write(
            request,
            caller,
            lambda made: self.replaced(request, made, tenant, entry, revoked, matched=False),
        )

    def _minted(self, request: HttpRequest, made: Change, tenant: str, body: Document) -> Answer:
        key = mint.mint_key()
        hashed = {**body, HASH: mint.sha256_of_key(key)}
        answer = self.added(request, made, tenant, hashed)
        row = self._row(tenant, answer.body[ID])
        row.prefix = key[:PREFIX_CHARS]
        row.save()
        answer.body = {**answer.body, SECRET: key}
        return answer

    def _row(self, tenant: str, key_id: str) -> Any:
        if self.part.of_tenant:
            return Credential.objects.get(tenant_id=tenant, credential_id=key_id)
        return IngestKey.objects.get(pk=key_id)

    @staticmethod
    def _described(operation: Operation) -> Operation:
        assert operation.body is not None, "it adds something"
        needed = [name for name in operation.body["required"] if name != HASH]
        held = {**operation.gives, "properties": {**operation.gives["properties"], SECRET: TEXT}}
        return replace(
            operation,
            summary=f"{operation.summary}; without a hash, a key is made: `{SECRET}` has it",
            body={**operation.body, "required": needed},
            gives=held,
        )


def _refuse_ended(body: Document) -> None:
    """Refuse a key that would be made, and hold nowhere. One that is there may end in the past.

    Raises:
        InvalidError: It is one.
    """
    with contextlib.suppress(ValueError):  # The reader tells of what is no instant.
        if EXPIRES in body and instant(str(body[EXPIRES])) <= datetime.now(UTC):
            raise invalid(EXPIRES, "is past: the key would never hold", ENDS_LATER)
