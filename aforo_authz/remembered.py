"""What is remembered of callers: values of the read model by key, put together on demand."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

from aforo_authz import read_model
from aforo_authz.domain.access import Credential, Known, Margin, Policy
from aforo_authz.lru import MISSING, Lru
from aforo_authz.policies import STRANGER, Presented, same_kind

COMPOSED_MAX = 4096
# Who is found composed is not marked as used again. So that those who call often are not forgotten
# for it, all are composed anew long before so many others were put that it would be their turn.
ENTRIES_PER_COMPOSED = 8

_CREDENTIAL_PREFIX = read_model.credential_key("")


class _Composed(NamedTuple):
    """What is known of a caller, and what that was put together from."""

    known: Known
    sources: tuple[tuple[str, Any], ...]  # (key, value)


class Remembered:
    """Decoded values, and unknown credentials; bounded in both.

    Args:
        entries_max: Keys; the least recently used go first.
        bytes_max: Memory that they may take, about.
        strangers_max: Unknown credentials.
    """

    def __init__(self, *, entries_max: int, bytes_max: int, strangers_max: int) -> None:
        self.entries = Lru(  # key → decoded value, None: absent
            entries_max=entries_max, bytes_max=bytes_max, bytes_of=read_model.bytes_of
        )
        self.strangers = Lru(entries_max=strangers_max)  # By hash of the credential.
        self._composed: OrderedDict[str, _Composed] = OrderedDict()  # By the same.
        self._composed_max = min(COMPOSED_MAX, max(1, entries_max // ENTRIES_PER_COMPOSED))

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def find(self, presented: Presented, *, stale: bool) -> Known | list[str]:
        """Return what is known, or the keys that have to be read before it can be told.

        As long as no value of the caller's changes it is the same object: what was decided on it
        holds on.
        """
        digest = presented.sha256_hex
        composed = self._composed.get(digest)
        if composed is not None:
            known, sources = composed
            get = self.entries.get
            for key, value in sources:
                if get(key, MISSING) is not value:  # Changed, or forgotten and followed no more.
                    break
            else:
                if known.stale is stale and same_kind(known.credential, presented):
                    return known
        if digest in self.strangers:
            return STRANGER
        return self._compose(presented, stale=stale)

    def put(self, key: str, value: Any) -> None:  # noqa: ANN401 - one memory for every kind
        if value is not None:
            self.forget_stranger(key)
        self.entries.put(key, value)

    def put_stranger(self, presented: Presented, *, lasting: bool) -> None:
        """Move an unknown credential out of the big table: a guesser must not fill that."""
        key = read_model.credential_key(presented.sha256_hex)
        if self.entries.get(key, MISSING) is not None:
            return
        self.entries.discard(key)
        if lasting:
            self.strangers.put(presented.sha256_hex, None)

    def forget_stranger(self, key: str) -> None:
        if read_model.is_credential(key):
            self.strangers.discard(key.removeprefix(_CREDENTIAL_PREFIX))

    def _compose(self, presented: Presented, *, stale: bool) -> Known | list[str]:
        get = self.entries.get
        cred_key = read_model.credential_key(presented.sha256_hex)
        found = get(cred_key, MISSING)
        if found is MISSING:
            return [cred_key]
        credential: Credential | None = same_kind(found, presented)
        if credential is None:
            self.entries.touch(cred_key)
            return STRANGER
        policy_key = read_model.policy_key(credential.tenant_id)
        margin_key = read_model.margin_key(credential.tenant_id)
        policy: Policy | None = get(policy_key, MISSING)
        margin: Margin | None = get(margin_key, MISSING)
        if policy is MISSING or margin is MISSING:
            return [policy_key, margin_key]
        sources: tuple[tuple[str, Any], ...] = (
            (cred_key, credential),
            (policy_key, policy),
            (margin_key, margin),
        )
        confirmed_micros: int | None = None
        if margin is not None:
            consumed_key = read_model.consumed_key(margin.partition)
            confirmed_micros = get(consumed_key, MISSING)
            if confirmed_micros is MISSING:
                return [consumed_key]
            sources += ((consumed_key, confirmed_micros),)
        known = Known(
            presented=True,
            credential=credential,
            policy=policy,
            margin=margin,
            margin_confirmed_micros=confirmed_micros or 0,
            stale=stale,
        )
        self._keep(presented.sha256_hex, _Composed(known, sources))
        return known

    def _keep(self, digest: str, composed: _Composed) -> None:
        for key, _ in composed.sources:
            self.entries.touch(key)
        if len(self._composed) >= self._composed_max and digest not in self._composed:
            self._composed.popitem(last=False)
        self._composed[digest] = composed
