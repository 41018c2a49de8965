"""What is remembered of callers: values of the read model by key, put together on demand."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from aforo_authz import read_model
from aforo_authz.domain.access import Credential, Known, Margin, Policy
from aforo_authz.lru import MISSING, Lru
from aforo_authz.policies import STRANGER, Presented, same_kind

COMPOSED_MAX = 4096
_NOTHING = (-1, STRANGER)


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
        # By hash of the credential: what was put together, and when, in changes.
        self._composed: OrderedDict[str, tuple[int, Known]] = OrderedDict()
        self._changes = 0

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def find(self, presented: Presented, *, stale: bool) -> Known | list[str]:
        """Return what is known, or the keys that have to be read before it can be told.

        As long as no value changes it is the same object: what was decided on it holds on.
        """
        digest = presented.sha256_hex
        changes, known = self._composed.get(digest, _NOTHING)
        if (
            changes == self._changes
            and known.stale is stale
            and same_kind(known.credential, presented)
        ):
            return known
        if digest in self.strangers:
            return STRANGER
        composed = self._compose(presented, stale=stale)
        if isinstance(composed, Known) and composed.credential is not None:
            if len(self._composed) >= COMPOSED_MAX:
                self._composed.popitem(last=False)
            self._composed[digest] = (self._changes, composed)
        return composed

    def put(self, key: str, value: Any) -> None:  # noqa: ANN401 - one memory for every kind
        if value is not None:
            self.forget_stranger(key)
        # Whatever it is, everything is put together anew: simple, and calls outnumber changes.
        self._changes += 1
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
        prefix = read_model.credential_key("")
        if key.startswith(prefix):
            self.strangers.discard(key.removeprefix(prefix))

    def _compose(self, presented: Presented, *, stale: bool) -> Known | list[str]:
        get, touch = self.entries.get, self.entries.touch
        cred_key = read_model.credential_key(presented.sha256_hex)
        found = get(cred_key, MISSING)
        if found is MISSING:
            return [cred_key]
        touch(cred_key)
        credential: Credential | None = same_kind(found, presented)
        if credential is None:
            return STRANGER
        policy_key = read_model.policy_key(credential.tenant_id)
        margin_key = read_model.margin_key(credential.tenant_id)
        policy: Policy | None = get(policy_key, MISSING)
        margin: Margin | None = get(margin_key, MISSING)
        if policy is MISSING or margin is MISSING:
            return [policy_key, margin_key]
        touch(policy_key)
        touch(margin_key)
        if margin is None:
            return Known(presented=True, credential=credential, policy=policy, stale=stale)
        consumed_key = read_model.consumed_key(margin.partition)
        confirmed_micros = get(consumed_key, MISSING)
        if confirmed_micros is MISSING:
            return [consumed_key]
        touch(consumed_key)
        return Known(
            presented=True,
            credential=credential,
            policy=policy,
            margin=margin,
            margin_confirmed_micros=confirmed_micros or 0,
            stale=stale,
        )
