"""The catalog → every key and value that Redis should hold of it, at one instant. No I/O."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import Message

from aforo_admin import messages
from aforo_admin.builtin_prices import built_in_lists
from aforo_admin.domain import catalog as catalog_parts
from aforo_admin.domain.catalog import Catalog, Tenant
from aforo_admin.domain.entitling import entitle
from aforo_proto.contract_pb2 import Contract, PriceList
from aforo_proto.metering_pb2 import IngestKey, Metering
from aforo_proto.policy_pb2 import Credential, Policy, Routes

PREFIX: Final = b"aforo:v1:"
CREDENTIAL_PREFIX: Final = b"aforo:v1:cred:"
INGEST_PREFIX: Final = b"aforo:v1:ingest:"
# Of whoever shows something: sync writes them after, and removes them before, what they lead to.
KEY_HOLDERS: Final = (CREDENTIAL_PREFIX, INGEST_PREFIX)
METERING_KEY: Final = b"aforo:v1:metering"
ROUTES_KEY: Final = b"aforo:v1:routes"
PRICEBOOK_KEY: Final = b"aforo:v1:pricebook"
SYNC_KEY: Final = b"aforo:v1:sync"

# Of a tenant's keys, all that ends with its removal. The margin is the consumer's while it lives.
TENANT_VALUES: Final = (b"policy", b"contract", b"margin")

FOREVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """What sync makes Redis equal to.

    A caller whose credential is there finds its policy there too: `basis` is written before
    `credentials`, and what is gone is removed in the opposite order.
    """

    version: str  # Of the content: the passing of time alone does not change it.
    tenants: frozenset[str]
    basis: Mapping[bytes, bytes]  # Routes, prices, metering, contracts, policies.
    credentials: Mapping[bytes, bytes]  # Of tenants, and ingest keys.
    holds_until: datetime  # From then on some value is another. Exclusive.

    @property
    def keys(self) -> frozenset[bytes]:
        return frozenset(self.basis) | frozenset(self.credentials)


def build(
    catalog: Catalog, now: datetime, published: Sequence[PriceList] | None = None
) -> ReadModel:
    """Work out every value.

    Args:
        catalog: One without problems.
        now: Aware UTC.
        published: The prices of language models; None: those of the installed package.
    """
    if published is None:
        published = built_in_lists()
    basis: dict[bytes, bytes] = {
        ROUTES_KEY: encoded(messages.routes(catalog)),
        PRICEBOOK_KEY: encoded(messages.price_book(catalog, published)),
        METERING_KEY: encoded(messages.metering(catalog)),
    }
    credentials: dict[bytes, bytes] = {
        INGEST_PREFIX + key.sha256.encode(): encoded(messages.ingest_key(key))
        for key in catalog.ingest_keys
    }
    values = _Values(basis=basis, credentials=credentials)
    for _, tenant in sorted(catalog.tenants.items()):
        values.add(catalog, tenant, now)
    return values.model(frozenset(catalog.tenants))


def build_tenants(catalog: Catalog, tenants: Collection[str], now: datetime) -> ReadModel:
    """Work out the values of some tenants alone, under a version that names just them.

    Args:
        catalog: One without problems.
        tenants: Whose values; those that the catalog does not have are left out.
        now: Aware UTC.
    """
    values = _Values()
    there = sorted(catalog.tenants.keys() & set(tenants))
    for tenant_id in there:
        values.add(catalog, catalog.tenants[tenant_id], now)
    return values.model(frozenset(there))


@dataclass(slots=True, kw_only=True)
class _Values:
    """Values as they come together, without period and version."""

    basis: dict[bytes, bytes] = field(default_factory=dict)
    credentials: dict[bytes, bytes] = field(default_factory=dict)
    periods: dict[bytes, bytes] = field(default_factory=dict)
    holds_until: datetime = FOREVER

    def add(self, catalog: Catalog, tenant: Tenant, now: datetime) -> None:
        tenant_id = tenant.tenant_id
        entitled = entitle(catalog, tenant, now)
        self.holds_until = min(self.holds_until, entitled.holds_until)
        contract = encoded(messages.contract(entitled.contract))
        self.basis[tenant_key(tenant_id, b"contract")] = contract
        policy_key = tenant_key(tenant_id, b"policy")
        policy = messages.policy(entitled.policy, tenant.margin_override)
        self.basis[policy_key] = encoded(policy)
        self.periods[policy_key] = encoded(messages.period(entitled.policy))
        for each in tenant.credentials:
            value = encoded(messages.credential(tenant_id, each))
            self.credentials[credential_key(each)] = value

    def model(self, tenants: frozenset[str]) -> ReadModel:
        version = messages.digest(_flat(self.basis, self.credentials))
        return ReadModel(
            version=version,
            tenants=tenants,
            basis=_stamped(self.basis, self.periods, version),
            credentials=_stamped(self.credentials, {}, version),
            holds_until=self.holds_until,
        )


def credential_key(credential: catalog_parts.Credential) -> bytes:
    return CREDENTIAL_PREFIX + credential.sha256_hex.encode()


def tenant_key(tenant_id: str, name: bytes) -> bytes:
    return b"aforo:v1:{%b}:%b" % (tenant_id.encode(), name)


def tenant_of(key: bytes) -> tuple[str, bytes] | None:
    """Return the tenant and the name of its value, if a key is one of a tenant's."""
    if not key.startswith(PREFIX + b"{"):
        return None
    tenant_id, closing, name = key[len(PREFIX) + 1 :].partition(b"}:")
    return (tenant_id.decode(errors="replace"), name) if closing else None


def is_ours_to_remove(key: bytes, model: ReadModel) -> bool:
    """Say whether a key that the model does not hold is left from what is gone.

    Other writers' keys stay, and so does what this version does not know.
    """
    if key.startswith(KEY_HOLDERS):
        return True
    found = tenant_of(key)
    if found is None:
        return False
    tenant_id, name = found
    return tenant_id not in model.tenants and name in TENANT_VALUES


def encoded(message: Message) -> bytes:
    """Encode; equal messages give equal bytes, so that what Redis holds can be compared."""
    return message.SerializeToString(deterministic=True)


def _flat(*parts: Mapping[bytes, bytes]) -> Iterable[bytes]:
    for part in parts:
        for key, value in part.items():
            yield key
            yield value


def _stamped(
    values: Mapping[bytes, bytes], periods: Mapping[bytes, bytes], version: str
) -> dict[bytes, bytes]:
    """Add period and version, which are not part of what the version names.

    Encodings of one message, put end to end, are an encoding of the whole: no message needs to
    be built twice.
    """
    stamps = {
        b"policy": encoded(Policy(catalog_version=version)),
        b"contract": encoded(Contract(catalog_version=version)),
        b"cred": encoded(Credential(catalog_version=version)),
        b"routes": encoded(Routes(catalog_version=version)),
        b"metering": encoded(Metering(catalog_version=version)),
        b"ingest": encoded(IngestKey(catalog_version=version)),
        b"pricebook": b"",  # It has a version of its own.
    }
    return {
        key: value + periods.get(key, b"") + stamps[_name_of(key)] for key, value in values.items()
    }


def _name_of(key: bytes) -> bytes:
    found = tenant_of(key)
    return found[1] if found else key[len(PREFIX) :].partition(b":")[0]
