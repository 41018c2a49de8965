"""The port: what is known of a caller. And the adapter that keeps it in memory, for tests."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol

from aforo_authz.domain.access import Credential, CredentialKind, Known, Margin, Policy
from aforo_authz.domain.features import Rules


class PoliciesUnavailableError(Exception):
    """The read model could not be asked, and nothing is remembered. Never means "unknown"."""


@dataclass(slots=True, kw_only=True)  # One for every call: see Decision.
class Presented:
    """The proof of identity that came with a call; never the secret itself."""

    kind: CredentialKind
    sha256_hex: str


class Policies(Protocol):
    """Answers at once where it can: a cached caller costs no task and no turn of the loop."""

    @property
    def rules(self) -> Rules:
        """The catalog's rules, as last known."""
        ...

    @property
    def ready(self) -> bool:
        """Has the read model been loaded once, so that calls can be decided?"""
        ...

    def find(self, presented: Presented, budget_s: float) -> Known | Awaitable[Known]:
        """Return what is known of the caller, or an awaitable of it.

        Args:
            presented: The proof of identity.
            budget_s: How long a look-up may take.

        Raises:
            PoliciesUnavailableError: Nothing is remembered and the store did not answer in time.
        """
        ...


NOBODY = Known(presented=False)
STRANGER = Known(presented=True)


def same_kind(credential: Credential | None, presented: Presented) -> Credential | None:
    """Return the credential only if it is of the kind that was shown."""
    return credential if credential is not None and credential.kind is presented.kind else None


class InMemoryPolicies:
    """Policies from dictionaries: for tests, and for what-if questions."""

    def __init__(
        self,
        *,
        credentials: Mapping[str, Credential],
        policies: Mapping[str, Policy],
        margins: Mapping[str, Margin] | None = None,
        rules: Rules | None = None,
    ) -> None:
        self._credentials = credentials
        self._policies = policies
        self._margins = margins or {}
        self.rules = rules or Rules()
        self.ready = True

    def find(self, presented: Presented, budget_s: float) -> Known:  # noqa: ARG002 - the port's
        credential = same_kind(self._credentials.get(presented.sha256_hex), presented)
        if credential is None:
            return STRANGER
        return Known(
            presented=True,
            credential=credential,
            policy=self._policies.get(credential.tenant_id),
            margin=self._margins.get(credential.tenant_id),
        )
