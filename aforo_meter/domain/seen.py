"""By what the ledger knows an event again. Pure."""

from hashlib import blake2b
from typing import Final

KEY_BYTES: Final = 16
TIME_BYTES: Final = 4
SECOND_MICROS: Final = 1_000_000


def event_key(tenant_id: str, event_id: str, *, at_micros: int | None = None) -> bytes:
    """Return a digest of an event's tenant and id, behind the time if that is given.

    Args:
        tenant_id: Whose event it is.
        event_id: Among those of its tenant.
        at_micros: Of a gateway's event, when it occurred, Unix time from 1970 to 2106. Whoever
            repeats it says the same, and keys of what comes together lie together: the ledger
            writes them at one end of its index, instead of all over it. None: it came from
            elsewhere, where a repeat may name another time.
    """
    digest = tenant_digest(tenant_id, timed=at_micros is not None)
    digest.update(event_id.encode())
    return (b"" if at_micros is None else time_of(at_micros)) + digest.digest()


def tenant_digest(tenant_id: str, *, timed: bool) -> blake2b:
    """Return what a copy of, updated with an event's id, becomes the event's key, or ends it.

    Clients choose ids, so whole keys have to be digests that nobody can find two ids for: 2^64
    tries. Gateways choose their own, and 2^48 tries would have to hit one tenant in one second.
    """
    size = KEY_BYTES - TIME_BYTES if timed else KEY_BYTES
    # No tenant's id has a NUL in it: the two can't be divided in another way.
    return blake2b(f"{tenant_id}\0".encode(), digest_size=size)


def time_of(at_micros: int) -> bytes:
    """Return how the key of what occurred at a time begins: later ones are greater."""
    return (at_micros // SECOND_MICROS).to_bytes(TIME_BYTES, "big")
