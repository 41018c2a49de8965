"""The REST API in this process, over a real store: asked through Django's handler, as by HTTP."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from django.test import Client

from aforo_admin import store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.roles import Role
from aforo_admin.domain.catalog import Catalog
from aforo_admin.read_model import SYNC_KEY, build
from aforo_admin.rest import authentication, tokens
from aforo_admin.rest.attempts import FailedAttempts
from aforo_admin.rest.scopes import Scope
from aforo_proto.policy_pb2 import SyncState
from lab.servers import ROOT

EXAMPLE = read_file(ROOT / "catalog.example.yaml")
ANY = {"If-Match": "*"}
# What is past is refused, and a date that a test names will be: these are always to come.
COMING = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}"
LATER = f"{datetime.now(UTC) + timedelta(days=60):%Y-%m-%d}"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def etag(self) -> dict[str, str]:
        return {"If-Match": self.headers["ETag"]}

    @property
    def match(self) -> dict[str, str]:
        """The same, as an argument of `Api.post`."""
        return {"If_Match": self.headers["ETag"]}

    @property
    def fields(self) -> list[str]:
        return [each["field"] for each in self.body["errors"]]

    @property
    def ids(self) -> list[str]:
        return [each["id"] for each in self.body["items"]]


@dataclass(kw_only=True)
class Api:
    """Asks as somebody with a token."""

    token: str
    tenant: str = ""  # That alone it sees.
    client: Client = field(default_factory=lambda: Client(raise_request_exception=True))

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        media_type: str = "application/json",
    ) -> Said:
        data: bytes | str = body if isinstance(body, (bytes, str)) else json.dumps(body)
        answer = self.client.generic(
            method,
            f"/api/v1{path}",
            "" if body is None else data,
            content_type=media_type,
            headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
        )
        is_json = "json" in answer.headers.get("Content-Type", "")
        return Said(
            status=answer.status_code,
            headers=dict(answer.headers),
            body=json.loads(answer.content) if is_json else answer.content.decode(),
        )

    def get(self, path: str) -> Said:
        return self("GET", path)

    def post(self, path: str, body: object = None, **headers: str) -> Said:
        return self("POST", path, body, _dashed(headers))

    def put(self, path: str, body: object, match: Mapping[str, str] = ANY, **headers: str) -> Said:
        return self("PUT", path, body, {**match, **_dashed(headers)})

    def delete(self, path: str, match: Mapping[str, str] = ANY) -> Said:
        return self("DELETE", path, None, match)


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def api_of(role: Role, *, tenant: str = "", scopes: tuple[Scope, ...] = ()) -> Api:
    """Return the API as a new token of this role sees it. Without scopes it has all of them."""
    name = f"{role}-{len(list(tokens.listed()))}"
    token = tokens.add(name, role, tenant_id=tenant, scopes=scopes or tuple(Scope), actor="tests")
    return Api(token=token, tenant=tenant)


def applied(catalog: Catalog = EXAMPLE) -> None:
    store.apply_catalog(catalog, actor="tests")


def fill_redis(client: redis.Redis, catalog: Catalog = EXAMPLE) -> None:
    """Write a catalog as sync leaves it."""
    model = build(catalog, datetime.now(UTC))
    client.mset({**model.basis, **model.credentials})
    client.set(SYNC_KEY, SyncState(completed_at_micros=1).SerializeToString())


def forget_failures() -> None:
    """Begin a test with no failures of others."""
    authentication.FAILED = FailedAttempts()  # type: ignore[misc]
