"""The catalog → every key and value that Redis should hold of it, at one instant. No I/O."""

import itertools
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
from aforo_admin.domain.reach import changed_plans, has_one_of, reaches_all_terms
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

Versioned = Routes | Metering | Credential | IngestKey

FOREVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """What sync makes Redis equal to.

    A caller whose credential is there finds its policy there too: `basis` is written before
    `credentials`, and what is gone is removed in the opposite order.
    """

    version: str  # Of the content: the passing of time alone does not change it.
    tenants: Mapping[str, str]  # With the version of each one's contract and policy.
    basis: Mapping[bytes, bytes]  # Routes, prices, metering, contracts, policies.
    credentials: Mapping[bytes, bytes]  # Of tenants, and ingest keys.
    holds_until: datetime  # From then on some value is another. Exclusive.

    @property
    def keys(self) -> frozenset[bytes]:
        return frozenset(self.basis) | frozenset(self.credentials)


def build(
    catalog: Catalog,
    now: datetime,
    published: Sequence[PriceList] | None = None,
    known: "Known | None" = None,
) -> ReadModel:
    """Work out every value.

    Args:
        catalog: One without problems.
        now: Aware UTC.
        published: The prices of language models; None: those of the installed package.
        known: What was worked out before, and is brought up to date: it need not be again.
    """
    if published is None:
        published = built_in_lists()
    basis: dict[bytes, bytes] = {
        ROUTES_KEY: _versioned(messages.routes(catalog)),
        PRICEBOOK_KEY: encoded(messages.price_book(catalog, published)),
        METERING_KEY: _versioned(messages.metering(catalog)),
    }
    credentials: dict[bytes, bytes] = {
        INGEST_PREFIX + key.sha256.encode(): _versioned(messages.ingest_key(key))
        for key in catalog.ingest_keys
    }
    known = Known() if known is None else known
    known.bring_up_to(catalog, now)
    return _model(basis, credentials, sorted(known.values.items()))


def build_tenants(catalog: Catalog, tenants: Collection[str], now: datetime) -> ReadModel:
    """Work out the values of some tenants alone: the same that `build` works out for them.

    Args:
        catalog: One without problems.
        tenants: Whose values; those that the catalog does not have are left out.
        now: Aware UTC.
    """
    there = sorted(catalog.tenants.keys() & set(tenants))
    return _model({}, {}, [(each, _values(catalog, catalog.tenants[each], now)) for each in there])


@dataclass(frozen=True, slots=True)
class TenantValues:
    """A tenant's values, and the version of the first two."""

    contract: bytes
    policy: bytes
    version: str  # Of what they say, the period aside.
    credentials: tuple[tuple[bytes, bytes], ...]
    holds_until: datetime


@dataclass(slots=True)
class Known:
    """Values of tenants, and the catalog that they come from.

    With 100,000 tenants, to work them all out takes seconds; who edits one waits for one.
    """

    catalog: Catalog | None = None
    values: dict[str, TenantValues] = field(default_factory=dict)

    def bring_up_to(self, catalog: Catalog, now: datetime) -> None:
        """Work out the values of tenants whose terms, or whose time, are not what they were."""
        before, self.catalog = self.catalog, catalog
        held, self.values = self.values, {}
        if before is None or reaches_all_terms(before, catalog):
            held = {}
        plans = frozenset() if before is None else changed_plans(before, catalog)
        for name, tenant in catalog.tenants.items():
            value = held.get(name)
            if (
                value is None
                or now >= value.holds_until
                or before is None
                or before.tenants[name] != tenant
                or has_one_of(tenant, plans)
            ):
                value = _values(catalog, tenant, now)
            self.values[name] = value


def _values(catalog: Catalog, tenant: Tenant, now: datetime) -> TenantValues:
    entitled = entitle(catalog, tenant, now)
    contract = encoded(messages.contract(entitled.contract))
    policy = encoded(messages.policy(entitled.policy, tenant.margin_override))
    # One version for both: who reads terms again reads both, whichever of them has changed.
    version = messages.digest([contract, policy])
    return TenantValues(
        # Encodings of one message, put end to end, are an encoding of the whole.
        contract=contract + encoded(Contract(catalog_version=version)),
        policy=policy
        + encoded(messages.period(entitled.policy))
        + encoded(Policy(catalog_version=version)),
        version=version,
        credentials=tuple(
            (credential_key(each), _versioned(messages.credential(tenant.tenant_id, each)))
            for each in tenant.credentials
        ),
        holds_until=entitled.holds_until,
    )


def _model(
    basis: dict[bytes, bytes],
    credentials: dict[bytes, bytes],
    tenants: Sequence[tuple[str, TenantValues]],
) -> ReadModel:
    content = [*_flat(basis)]  # Of tenants, their versions: periods are not part of them.
    holds_until = FOREVER
    for tenant_id, values in tenants:
        basis[tenant_key(tenant_id, b"contract")] = values.contract
        basis[tenant_key(tenant_id, b"policy")] = values.policy
        content += (tenant_id.encode(), values.version.encode())
        credentials |= values.credentials
        holds_until = min(holds_until, values.holds_until)
    return ReadModel(
        version=messages.digest([*content, *_flat(credentials)]),
        tenants={tenant_id: values.version for tenant_id, values in tenants},
        basis=basis,
        credentials=credentials,
        holds_until=holds_until,
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


def _versioned(message: Versioned) -> bytes:
    """Encode a message with the version of its content in it."""
    message.catalog_version = messages.digest([encoded(message)])
    return encoded(message)


def _flat(part: Mapping[bytes, bytes]) -> Iterable[bytes]:
    return itertools.chain.from_iterable(part.items())
