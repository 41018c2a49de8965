"""Who may change what: one table, from which groups, permissions and docs/roles.md follow.

Every role may see everything but users and tokens. What follows from a change of several rows is in
`permitting`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What somebody is here. A group in the database has its name."""

    VIEWER = "viewer"
    PRODUCT = "product"
    DEVELOPER = "developer"
    FINANCE = "finance"
    OWNER = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What the same roles may change.

    Args:
        what: For people.
        roles: Who may; an owner always may.
        tables: Models, in small letters, whose rows are added, edited and removed.
        acts: What is done beside that, each a permission of its own.
    """

    what: str
    roles: frozenset[Role]
    tables: tuple[str, ...] = ()
    acts: tuple[str, ...] = ()


SET_FLOORS: Final = "set_floors"
PUBLISH: Final = "publish_planversion"
KILL_SESSION: Final = "kill_session"
RESEND_ALERT: Final = "resend_alert"
APPLY_CATALOG: Final = "apply_catalog"
REMOVE_ANY_SCENARIO: Final = "remove_any_scenario"

ACTS: Final = {
    SET_FLOORS: "Can set margin floors",
    PUBLISH: "Can publish and retire versions of plans",
    KILL_SESSION: "Can end a session",
    RESEND_ALERT: "Can send an alert again",
    APPLY_CATALOG: "Can make the catalog equal to a file",
    REMOVE_ANY_SCENARIO: "Can remove a scenario that somebody else has kept",
}

_SELLING: Final = frozenset({Role.PRODUCT, Role.FINANCE})
_MONEY: Final = frozenset({Role.FINANCE})
_RUNNING: Final = frozenset({Role.DEVELOPER})

AREAS: Final = (
    Area(
        what="features; plans: drafts, publishing, retiring",
        roles=_SELLING,
        tables=("feature", "plan", "planversion", "planquota", "planratecard"),
        acts=(PUBLISH,),
    ),
    Area(
        what="tenants, subscriptions, deals",
        roles=_SELLING,
        tables=(
            *("tenant", "subscription", "formersubscription", "planchange"),
            *("deal", "dealquota", "dealratecard"),
        ),
    ),
    Area(
        what="margin floors: thresholds anywhere, guards, shadow mode, what a stale margin does",
        roles=_MONEY,
        tables=("planguard", "dealguard"),
        acts=(SET_FLOORS,),
    ),
    Area(what="margin overrides", roles=_MONEY, tables=("marginoverride",)),
    Area(
        what="the price book, negotiated costs, exchange rates, general settings",
        roles=_MONEY,
        tables=("costprice", "negotiatedcost", "exchangerate", "general"),
    ),
    Area(
        what="routes, meters, metering rules",
        roles=_RUNNING,
        tables=("route", "meter", "meteringrule"),
    ),
    Area(
        what="credentials, ingest keys, webhook endpoints",
        roles=_RUNNING,
        tables=("credential", "ingestkey", "webhookendpoint"),
    ),
    Area(
        what="scenarios of the what-if: keeping them, and removing one's own",
        roles=_SELLING | _RUNNING,
        tables=("scenario",),
    ),
    Area(
        what="removing scenarios that others have kept",
        roles=frozenset(),
        acts=(REMOVE_ANY_SCENARIO,),
    ),
    Area(what="ending a session", roles=_RUNNING, acts=(KILL_SESSION,)),
    Area(what="sending an alert again", roles=_RUNNING | _MONEY, acts=(RESEND_ALERT,)),
    Area(what="a whole catalog, applied from a file", roles=frozenset(), acts=(APPLY_CATALOG,)),
    Area(what="users and their roles, tokens", roles=frozenset()),
)

VIEW: Final = "view"
WRITES: Final = ("add", "change", "delete")
# Beyond the catalog's tables; who may see users, beside owners, is nobody.
OF_OWNERS: Final = tuple(f"auth.{act}_user" for act in (VIEW, *WRITES))


def may(role: Role, area: Area) -> bool:
    return role is Role.OWNER or role in area.roles


def permissions(role: Role) -> frozenset[str]:
    """Return all that a role may do, as Django names it: control.change_tenant."""
    return frozenset(_permissions(role))


def _permissions(role: Role) -> Iterator[str]:
    yield f"control.{VIEW}_auditentry"
    for area in AREAS:
        acts = (VIEW, *WRITES) if may(role, area) else (VIEW,)
        yield from (f"control.{act}_{table}" for table in area.tables for act in acts)
        if may(role, area):
            yield from (f"control.{act}" for act in area.acts)
    if role is Role.OWNER:
        yield from OF_OWNERS
