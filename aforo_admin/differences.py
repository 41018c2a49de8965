"""What a sync would change, for people: by tenant, credential and book, field by field."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError, Message

from aforo_admin.read_model import (
    CREDENTIAL_PREFIX,
    INGEST_PREFIX,
    METERING_KEY,
    PREFIX,
    PRICEBOOK_KEY,
    ROUTES_KEY,
    ReadModel,
    tenant_of,
)
from aforo_admin.readable import fields_of
from aforo_admin.readable_values import money
from aforo_admin.sync import Differences
from aforo_proto.contract_pb2 import Contract, PriceBook
from aforo_proto.metering_pb2 import IngestKey, Metering
from aforo_proto.policy_pb2 import Credential, Policy, Routes

FIELDS_SHOWN_MAX: Final = 40  # Of one subject.
HASH_CHARS_SHOWN: Final = 8  # Enough to find a credential by, too few to be one.

_VERSION_FIELDS: Final = frozenset({"catalog_version", "version"})


@dataclass(slots=True, kw_only=True)
class Report:
    """Lines, and how many subjects each mark has."""

    lines: list[str]
    added: int = 0
    changed: int = 0
    removed: int = 0
    only_version: int = 0  # Values that would just get the new version.

    @property
    def empty(self) -> bool:
        return not self.added + self.changed + self.removed + self.only_version

    @property
    def differs(self) -> bool:
        """Whether Redis says anything else; a version may lag behind until the next pass."""
        return bool(self.added + self.changed + self.removed)

    def note(self, mark: str, subject: str, fields: list[str]) -> None:
        self.lines.append(f"{mark} {subject}")
        self.lines += [f"    {line}" for line in fields[:FIELDS_SHOWN_MAX]]
        if len(fields) > FIELDS_SHOWN_MAX:
            self.lines.append(f"    … and {len(fields) - FIELDS_SHOWN_MAX} more")
        self.added += mark == "+"
        self.changed += mark == "~"
        self.removed += mark == "-"


def report(model: ReadModel, differences: Differences) -> Report:
    """Describe differences that were made with the values of what is gone."""
    told = Report(lines=[])
    for subject, group in itertools.groupby(
        differences.stale.items(), key=lambda kv: _subject(kv[0])
    ):
        _tell_stale(told, subject, dict(group), model)
    gone_tenants = set()
    for key, held in differences.gone.items():
        found = tenant_of(key)
        if found is None:
            told.note("-", _holder_text(key, held), [])
        else:
            gone_tenants.add(found[0])
    for tenant_id in sorted(gone_tenants):
        told.note("-", f"tenant {tenant_id}", [])
    return told


def summary(told: Report, *, version: str) -> str:
    """Return the last line of a report."""
    if told.empty:
        return f"nothing to do: Redis holds version {version}"
    count = told.only_version
    alike = f"; {count} {'value gets' if count == 1 else 'values get'} only the new version"
    return (
        f"{told.added} to add, {told.changed} to change, {told.removed} to remove"
        f"{alike if count else ''}; version {version}"
    )


def _subject(key: bytes) -> str:
    """Return what a key is about; a tenant's keys stand together and share it."""
    found = tenant_of(key)
    if found is not None:
        return f"tenant {found[0]}"
    named = {ROUTES_KEY: "routes", PRICEBOOK_KEY: "price book", METERING_KEY: "metering"}
    return named.get(key, key.decode())


def _tell_stale(
    told: Report, subject: str, held: Mapping[bytes, bytes | None], model: ReadModel
) -> None:
    missing: list[bytes] = []
    changes: list[str] = []
    for key, old in held.items():
        if key in model.credentials:
            subject = _holder_text(key, model.credentials[key])
        new = model.basis[key] if key in model.basis else model.credentials[key]
        if old is None:
            missing.append(key)
            continue
        lines = _field_changes(key, old, new)
        changes += lines
        told.only_version += not lines
    is_tenant = subject.startswith("tenant ")
    if missing and (not is_tenant or len(missing) == 2):  # noqa: PLR2004 - policy and contract.
        told.note("+", subject + (_contract_text(missing, model) if is_tenant else ""), [])
    elif missing or changes:
        told.note("~", subject, [*(f"{_name_of(key)}: was missing" for key in missing), *changes])


def _field_changes(key: bytes, old: bytes, new: bytes) -> list[str]:
    kind = _kind_of(key)
    name = _name_of(key)
    wanted = fields_of(kind.FromString(new))
    try:
        held = fields_of(kind.FromString(old))
    except DecodeError:
        return [f"{name}: held something unreadable"]
    changes = []
    for field in dict.fromkeys([*held, *wanted]):
        if field in _VERSION_FIELDS or held.get(field) == wanted.get(field):
            continue
        if field not in held:
            changes.append(f"{name}.{field}: {wanted[field]} (new)")
        elif field not in wanted:
            changes.append(f"{name}.{field}: {held[field]} (removed)")
        else:
            changes.append(f"{name}.{field}: {held[field]} → {wanted[field]}")
    return changes


def _kind_of(key: bytes) -> type[Message]:
    if key.startswith(CREDENTIAL_PREFIX):
        return Credential
    if key == PRICEBOOK_KEY:
        return PriceBook
    return {
        "policy": Policy,
        "contract": Contract,
        "routes": Routes,
        "metering": Metering,
        "ingest": IngestKey,
    }[_name_of(key)]


def _name_of(key: bytes) -> str:
    found = tenant_of(key)
    if found is not None:
        return found[1].decode()
    return key.removeprefix(PREFIX).partition(b":")[0].decode()


def _contract_text(keys: list[bytes], model: ReadModel) -> str:
    (key,) = [key for key in keys if _name_of(key) == "contract"]
    contract = Contract.FromString(model.basis[key])
    fee = money(contract.committed_fee_nanos, contract.currency)
    return f": plan {contract.plan_id}, {fee} a {fields_of(contract)['cadence']}"


def _holder_text(key: bytes, value: bytes | None) -> str:
    return (_ingest_text if key.startswith(INGEST_PREFIX) else _credential_text)(key, value)


def _ingest_text(key: bytes, value: bytes | None) -> str:
    shown = key.removeprefix(INGEST_PREFIX)[:HASH_CHARS_SHOWN].decode(errors="replace")
    try:
        held = IngestKey.FromString(value or b"")
    except DecodeError:
        held = IngestKey()
    return f"ingest key {held.key_id or '?'} ({shown}…)"


def _credential_text(key: bytes, value: bytes | None) -> str:
    shown = key.removeprefix(CREDENTIAL_PREFIX)[:HASH_CHARS_SHOWN].decode(errors="replace")
    try:
        held = Credential.FromString(value or b"")
    except DecodeError:
        held = Credential()
    name = f"{held.tenant_id or '?'}/{held.credential_id or '?'}"
    return f"credential {name} ({fields_of(held)['kind']}, {shown}…)"
