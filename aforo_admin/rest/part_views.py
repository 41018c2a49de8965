"""Parts of the catalog: one set of views for all of them."""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse

from aforo_admin.control.recording import Change
from aforo_admin.domain.problems import Path
from aforo_admin.rest import editing, places
from aforo_admin.rest.authentication import caller_for
from aforo_admin.rest.documents import etag_of, json_of
from aforo_admin.rest.operations import PAGING, Operation, listed
from aforo_admin.rest.paging import page_of
from aforo_admin.rest.places import ID, Document, Part, Shape
from aforo_admin.rest.problems import ApiError, NotFoundError, invalid
from aforo_admin.rest.scopes import Scope
from aforo_admin.rest.tokens import Caller
from aforo_admin.rest.writes import Answer, check_match, shown, write

OVERRIDE: Final = "margin_override"


class PartViews:
    """The views of one part. Those of a tenant's get it as a parameter."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def operations(self) -> Iterator[Operation]:
        of = {
            Shape.DOCUMENT: self._of_document,
            Shape.MEMBERS: self._of_members,
            Shape.DATED: self._of_members,
            Shape.WHOLE: self._of_whole,
        }
        yield from of[self.part.shape]()

    def _of_document(self) -> Iterator[Operation]:
        schema = self.part.schema
        if self.part.name == OVERRIDE:  # Who asks is its author, unless it names another.
            needed = [name for name in schema["required"] if name not in {"author", "reason"}]
            schema = {**schema, "required": needed}
        yield self._operation("GET", self.get, gives=self.part.schema)
        yield self._operation("PUT", self.put, body=schema, gives=self.part.schema, matched=True)
        if not self.part.required:
            yield self._operation("DELETE", self.delete, status=HTTPStatus.NO_CONTENT, matched=True)

    def _of_members(self) -> Iterator[Operation]:
        schema = self.part.schema
        held = {**schema, "properties": {ID: {"type": "string"}, **schema["properties"]}}
        without_id = [name for name in schema.get("required", []) if name != ID]
        yield self._operation("GET", self.get_list, query=PAGING, gives=listed(held))
        yield self._operation("POST", self.add, body=schema, gives=held, status=HTTPStatus.CREATED)
        entry = "/{entry}"
        yield self._operation("GET", self.get_entry, entry, gives=held)
        if self.part.shape is Shape.MEMBERS:
            body = {**schema, "required": without_id}
            yield self._operation("PUT", self.put_entry, entry, body=body, gives=held, matched=True)
        yield self._operation(
            "DELETE", self.delete_entry, entry, status=HTTPStatus.NO_CONTENT, matched=True
        )

    def _of_whole(self) -> Iterator[Operation]:
        entries = {"type": "array", "items": self.part.schema}
        yield self._operation("GET", self.get_whole, gives=listed(self.part.schema))
        yield self._operation(
            "PUT", self.put_whole, body=entries, gives=listed(self.part.schema), matched=True
        )

    def _operation(self, method: str, view: Any, entry: str = "", **said: Any) -> Operation:
        part = self.part
        verbs = {"GET": "Read", "POST": "Add to", "PUT": "Replace", "DELETE": "Remove"}
        where = "/tenants/{tenant}" if part.of_tenant else ""
        of = " of a tenant" if part.of_tenant else ""
        summary = f"{verbs[method]} {part.name}{' entry' if entry else ''}{of}"
        return Operation(
            method=method,
            path=f"{where}/{part.name}{entry}",
            view=view,
            summary=said.pop("summary", summary),
            tag="tenants" if part.of_tenant else "catalog",
            **said,
        )

    # What they share.

    def _caller(self, request: HttpRequest, tenant: str) -> Caller:
        reads = request.method == "GET"
        if self.part.of_tenant:
            scope = Scope.TENANTS_READ if reads else Scope.TENANTS_WRITE
            return caller_for(request, scope, tenant=tenant)
        return caller_for(request, Scope.CATALOG_READ if reads else Scope.CATALOG_WRITE)

    def _tenants(self, tenant: str) -> tuple[str, ...]:
        return (tenant,) if self.part.of_tenant else ()

    def _held(self, document: Document, tenant: str) -> Any:
        return self.part.holder(document, tenant).get(self.part.name)

    def _entries(self, document: Document, tenant: str) -> list[Document]:
        return list(self._held(document, tenant) or [])

    def _read(self, request: HttpRequest, tenant: str) -> Document:
        self._caller(request, tenant)
        return editing.document(self._tenants(tenant))

    def _edited(self, made: Change, tenant: str, change: Any) -> Document:
        return editing.edit(made, change, tenants=self._tenants(tenant))

    def _put(self, document: Document, tenant: str, value: Any, *below: int) -> Path:
        holder = self.part.holder(document, tenant)
        if value in (None, []):
            holder.pop(self.part.name, None)
        else:
            holder[self.part.name] = value
        return (*self.part.path(tenant), *below)

    # One document.

    def get(self, request: HttpRequest, tenant: str = "") -> HttpResponse:
        held = self._held(self._read(request, tenant), tenant)
        if held is None and not self.part.required:
            raise NotFoundError(self.part.name)
        return shown(held or {}, etag_from=held or {})

    def put(self, request: HttpRequest, tenant: str = "") -> HttpResponse:
        caller = self._caller(request, tenant)
        body = places.mapping(json_of(request))
        reason = ""
        if self.part.name == OVERRIDE:
            reason = str(body.get("reason") or "")
            body = {"author": caller.actor, **body}

        def change(document: Document) -> Path:
            held = self._held(document, tenant)
            if held is not None:
                check_match(request, held)
            return self._put(document, tenant, body)

        def work(made: Change) -> Answer:
            held = self._held(self._edited(made, tenant, change), tenant) or {}
            return Answer(body=held, headers={"ETag": etag_of(held)})

        return write(request, caller, work, reason=reason)

    def delete(self, request: HttpRequest, tenant: str = "") -> HttpResponse:
        caller = self._caller(request, tenant)

        def change(document: Document) -> Path:
            held = self._held(document, tenant)
            if held is None:
                raise NotFoundError(self.part.name)
            check_match(request, held)
            return self._put(document, tenant, None)

        def work(made: Change) -> Answer:
            self._edited(made, tenant, change)
            return Answer(status=HTTPStatus.NO_CONTENT)

        return write(request, caller, work)

    # A list as a whole.

    def get_whole(self, request: HttpRequest, tenant: str = "") -> HttpResponse:
        entries = self._entries(self._read(request, tenant), tenant)
        return shown({"items": entries}, etag_from=entries)

    def put_whole(self, request: HttpRequest, tenant: str = "") -> HttpResponse:
        caller = self._caller(request, tenant)
        body = places.members(json_of(request))

        def change(document: Document) -> Path:
            check_match(request, self._entries(document, tenant))
            self._put(document, tenant, body)
            return ()

        def work(made: Change) -> Answer:
            entries = self._entries(self._edited(made, tenant, change), tenant)
            return Answer(body={"items": entries}, headers={"ETag": etag_of(entries)})

        return write(request, caller, work)

    # The members of a list.

    def get_list(
        self, request: HttpRequest, tenant: str = "", *, limit: int, cursor: str
    ) -> HttpResponse:
        entries = self._entries(self._read(request, tenant), tenant)
        found, following = page_of(
            entries, lambda entry: places.sort_key(self.part, entry), limit=limit, cursor=cursor
        )
        items = [places.shown(self.part, entry) for entry in found]
        return shown({"items": items, **({"next": following} if following else {})})

    def get_entry(self, request: HttpRequest, tenant: str = "", *, entry: str) -> HttpResponse:
        entries = self._entries(self._read(request, tenant), tenant)
        held = entries[places.index_of(self.part, entries, entry)]
        return shown(places.shown(self.part, held), etag_from=held)

    def add(self, request: HttpRequest, tenant: str = "") -> HttpResponse:
        caller = self._caller(request, tenant)
        body = places.mapping(json_of(request))
        return write(request, caller, lambda made: self.added(request, made, tenant, body))

    def added(self, request: HttpRequest, made: Change, tenant: str, body: Document) -> Answer:
        """Add a member within a change, and answer with it."""

        def change(document: Document) -> Path:
            entries = self._entries(document, tenant)
            refuse_known(self.part, entries, body)
            return self._put(document, tenant, [*entries, body], len(entries))

        held = self._entries(self._edited(made, tenant, change), tenant)[-1]
        member = places.shown(self.part, held)
        location = f"{request.path}/{quote(member[ID], safe='')}"
        headers = {"Location": location, "ETag": etag_of(held)}
        return Answer(status=HTTPStatus.CREATED, body=member, headers=headers)

    def put_entry(self, request: HttpRequest, tenant: str = "", *, entry: str) -> HttpResponse:
        caller = self._caller(request, tenant)
        body = places.named(json_of(request), entry)
        return write(
            request,
            caller,
            lambda made: self.replaced(request, made, tenant, entry, lambda _: body),
        )

    def replaced(
        self,
        request: HttpRequest,
        made: Change,
        tenant: str,
        entry: str,
        edit: Callable[[Document], Document],
        *,
        matched: bool = True,
    ) -> Answer:
        """Put what `edit` makes of a member in its place, and answer with it."""

        def change(document: Document) -> Path:
            entries = self._entries(document, tenant)
            index = places.index_of(self.part, entries, entry)
            if matched:
                check_match(request, entries[index])
            entries[index] = edit(entries[index])
            return self._put(document, tenant, entries, index)

        entries = self._entries(self._edited(made, tenant, change), tenant)
        held = entries[places.index_of(self.part, entries, entry)]
        body = places.shown(self.part, held)
        return Answer(body=body, headers={"ETag": etag_of(held)})

    def delete_entry(self, request: HttpRequest, tenant: str = "", *, entry: str) -> HttpResponse:
        caller = self._caller(request, tenant)

        def change(document: Document) -> Path:
            entries = self._entries(document, tenant)
            index = places.index_of(self.part, entries, entry)
            check_match(request, entries[index])
            del entries[index]
            return self._put(document, tenant, entries)

        def work(made: Change) -> Answer:
            self._edited(made, tenant, change)
            return Answer(status=HTTPStatus.NO_CONTENT)

        return write(request, caller, work)


def refuse_known(part: Part, entries: list[Document], body: Document) -> None:
    """Refuse an entry that is there already.

    Raises:
        ApiError: It is.
    """
    if part.shape is Shape.MEMBERS and ID not in body:
        raise invalid(ID, "is missing", "give it one that no other has")
    if any(places.id_of(part, each) == places.id_of(part, body) for each in entries):
        raise ApiError(
            HTTPStatus.CONFLICT,
            "exists",
            f"there is such an entry in {part.name} already: "
            + (
                "a price is never edited, add one of another date"
                if part.shape is Shape.DATED
                else "edit it, or take another id"
            ),
        )
