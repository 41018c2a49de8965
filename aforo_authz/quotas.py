"""The port: counting calls against hard and soft quotas. And the adapter in memory, for tests."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from aforo_authz.domain.quotas import Reservation, Standing, standing_of


class QuotasUnavailableError(Exception):
    """The store did not answer in time. The call may or may not have been counted."""


class Quotas(Protocol):
    async def reserve(
        self, tenant_id: str, reservations: Sequence[Reservation], budget_s: float
    ) -> tuple[Standing, ...]:
        """Count one call in several windows, in all of them or in none, atomically.

        No counter stands below its reservation's seed.

        Returns:
            A standing for each reservation, in order. If any that is enforced is exceeded,
            nothing was counted.

        Raises:
            QuotasUnavailableError: The store did not answer within the budget.
        """
        ...


def standings_of(
    reservations: Sequence[Reservation], used_units: Sequence[int], *, counted: bool
) -> tuple[Standing, ...]:
    """Turn what the store answered into standings.

    Args:
        reservations: What was asked.
        used_units: Counters, in the same order: after counting, or as they stood if refused.
        counted: Was the call counted?
    """
    return tuple(
        Standing(
            quota=wish.quota,
            window=wish.window,
            used_units=used,
            exceeded=used > wish.quota.limit_units,
        )
        if counted
        else standing_of(wish.quota, wish.window, used_units=used, asked_units=wish.units)
        for wish, used in zip(reservations, used_units, strict=True)
    )


class InMemoryQuotas:
    """Counters in a dictionary: one process, never expiring. For tests and what-if questions."""

    def __init__(self, used_units: Mapping[tuple[str, str, int], int] | None = None) -> None:
        # By tenant, quota and beginning of the window in Unix seconds.
        self._used_units = dict(used_units or {})

    async def reserve(
        self,
        tenant_id: str,
        reservations: Sequence[Reservation],
        budget_s: float,  # noqa: ARG002 - the port's
    ) -> tuple[Standing, ...]:
        keys = [(tenant_id, wish.quota.quota_id, wish.window.start_s) for wish in reservations]
        before = [
            max(self._used_units.get(key, 0), wish.seed_units)
            for key, wish in zip(keys, reservations, strict=True)
        ]
        fits = all(
            used + wish.units <= wish.quota.limit_units
            for used, wish in zip(before, reservations, strict=True)
            if wish.enforced
        )
        if not fits:
            return standings_of(reservations, before, counted=False)
        after = [used + wish.units for used, wish in zip(before, reservations, strict=True)]
        self._used_units.update(zip(keys, after, strict=True))
        return standings_of(reservations, after, counted=True)
