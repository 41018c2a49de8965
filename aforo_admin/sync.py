"""Make Redis equal to the read model: write what differs, remove what is gone."""

import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from aforo_admin.domain.catalog import Catalog
from aforo_admin.read_model import (
    KEY_HOLDERS,
    PREFIX,
    SYNC_KEY,
    TENANT_VALUES,
    ReadModel,
    credential_key,
    encoded,
    is_ours_to_remove,
    tenant_key,
)
from aforo_meter.domain.periods import micros_of
from aforo_proto.policy_pb2 import SyncState

# Keys in one command: some 100 KB, so that others' commands never wait long behind one of ours.
KEYS_PER_COMMAND: Final = 500

NOBODY: Final[Mapping[str, str]] = {}

T = TypeVar("T")
Between = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """How Redis differs from the read model."""

    stale: Mapping[bytes, bytes | None]  # Key → what Redis holds; None: nothing.
    gone: Mapping[bytes, bytes | None]  # Keys to remove, with what they hold.

    def __len__(self) -> int:
        return len(self.stale) + len(self.gone)


async def _nothing() -> None:
    """Do nothing between commands."""


async def compare(
    redis: Redis,
    model: ReadModel,
    *,
    with_gone_values: bool = False,
    between: Between = _nothing,
) -> Differences:
    """Read all that sync answers for, and say what differs. Nothing is written.

    Args:
        redis: A client that answers in bytes.
        model: What should be there.
        with_gone_values: Read what is to be removed, too; else its values are None.
        between: What else is to be done between two commands.
    """
    stale: dict[bytes, bytes | None] = {}
    for part in (model.basis, model.credentials):
        for keys in _chunks(part):
            held = await _values(redis, keys)
            stale |= {
                key: value for key, value in zip(keys, held, strict=True) if value != part[key]
            }
            await between()
    wanted = model.keys
    found: set[bytes] = set()  # A scan may name a key twice.
    seen = 0
    # Of a cluster it asks one node after the other.
    async for key in redis.scan_iter(match=PREFIX + b"*", count=KEYS_PER_COMMAND):
        if key not in wanted and is_ours_to_remove(key, model):
            found.add(key)
        seen += 1
        if seen % KEYS_PER_COMMAND == 0:
            await between()
    gone: dict[bytes, bytes | None] = dict.fromkeys(sorted(found))
    if with_gone_values:
        for keys in _chunks(gone):
            gone |= zip(keys, await _values(redis, keys), strict=True)
    return Differences(stale=stale, gone=gone)


async def apply(
    redis: Redis,
    model: ReadModel,
    differences: Differences,
    *,
    besides: Collection[bytes] = frozenset(),
    between: Between = _nothing,
) -> None:
    """Write and remove what differs, in an order in which no caller is ever half known.

    Args:
        redis: As above.
        model: As above.
        differences: What differs.
        besides: Keys to leave alone, also those that are added to it `between`.
        between: As above.
    """
    for part in (model.basis, model.credentials):
        # Taken one chunk after another: what has become newer meanwhile is left out.
        for keys in _chunks(key for key in differences.stale if key in part and key not in besides):
            await redis.mset({key: part[key] for key in keys})
            await between()
    for of_credentials in (True, False):
        for keys in _chunks(
            key
            for key in differences.gone
            if key.startswith(KEY_HOLDERS) is of_credentials and key not in besides
        ):
            await redis.unlink(*keys)
            await between()


def credential_keys(catalog: Catalog, tenants: Iterable[str]) -> set[bytes]:
    """Return the keys of all credentials that some tenants have in a catalog."""
    return {
        credential_key(credential)
        for name in tenants
        if name in catalog.tenants
        for credential in catalog.tenants[name].credentials
    }


async def publish_tenants(
    redis: Redis, tenants: Collection[str], *, had: Collection[bytes], model: ReadModel
) -> Differences:
    """Write the values of tenants whose terms have changed, and remove what they no longer have.

    Args:
        redis: A client that answers in bytes.
        tenants: Whose terms have changed, or who are gone.
        had: The keys of their credentials that Redis may hold: what is not in the model ends.
        model: The values of these tenants, and of no others.
    """
    removed = set(tenants) - model.tenants.keys()
    gone = set(had)
    gone |= {tenant_key(name, value) for name in removed for value in TENANT_VALUES}
    differences = Differences(
        stale=dict.fromkeys([*model.basis, *model.credentials]),
        gone=dict.fromkeys(sorted(gone - model.keys)),
    )
    await apply(redis, model, differences)
    return differences


async def mark_complete(
    redis: Redis, model: ReadModel, now: datetime, written: Mapping[str, str] = NOBODY
) -> SyncState:
    """Say that everything was there at `now`; return what was said. The last write of a pass.

    Args:
        redis: As above.
        model: What is there.
        now: Aware UTC.
        written: Tenants whose terms are newer, with their versions.
    """
    state = SyncState(
        catalog_version=model.version,
        completed_at_micros=micros_of(now),
        tenants=len(model.tenants),
        written_since=written,
    )
    await redis.set(SYNC_KEY, encoded(state))
    return state


async def held_state(redis: Redis) -> SyncState:
    """Return what Redis was last told of a pass, by whomever; an empty one if nothing."""
    value: Any = await redis.get(SYNC_KEY)
    try:
        return SyncState.FromString(value or b"")
    except DecodeError:
        return SyncState()


async def mark_written(
    redis: Redis, state: SyncState, tenants: Collection[str], model: ReadModel
) -> None:
    """Say whose terms were written since a pass: who remembers terms reads them again.

    Args:
        redis: As above.
        state: What was said at the end of the pass and since; it is added to.
        tenants: Who they are.
        model: What was written of them.
    """
    for name in tenants:
        state.written_since[name] = model.tenants.get(name, "")  # Empty: it is gone.
    # An emptied Redis stays without it: all the rest is missing there until the next pass.
    await redis.set(SYNC_KEY, encoded(state), xx=True)


async def _values(redis: Redis, keys: list[bytes]) -> list[bytes | None]:
    return cast("list[bytes | None]", await redis.mget(keys))


def _chunks(keys: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(keys)
    while chunk := list(itertools.islice(remaining, KEYS_PER_COMMAND)):
        yield chunk
