"""What decisions take tenants' levels as, where overrides soften what was reckoned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aforo_admin.places import places
from aforo_meter.domain.margin import Level
from aforo_meter.tenant_reading import Override, tenant_reader

Overrides = Mapping[str, Override]  # Those in force, by tenant.


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelInForce:
    """A tenant's level as a list shows it."""

    reckoned: Level
    override: Override | None  # In force.

    @property
    def level(self) -> Level:
        """What decisions take it as."""
        return min(self.reckoned, self.override.level_max) if self.override else self.reckoned


def in_force(tenant_id: str, reckoned: Level, overrides: Overrides | None) -> LevelInForce:
    """Return a level as decisions take it; as it was reckoned, where no override could be read."""
    return LevelInForce(reckoned=reckoned, override=(overrides or {}).get(tenant_id))


async def read_overrides(tenant_ids: Sequence[str], *, now_micros: int) -> Overrides:
    """Return what decisions go by, of all tenants of a page in one question.

    Raises:
        NotSetError, CommandError: Redis can't be asked.
    """
    if not tenant_ids:
        return {}
    async with tenant_reader(places().redis()) as tenants:
        return await tenants.overrides(tenant_ids, at_micros=now_micros)
