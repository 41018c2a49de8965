"""Names that people type, held against those that the ledger has: a misspelt one is told."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

from aforo_meter.command_arguments import CommandError
from aforo_meter.corrections import Scope
from aforo_meter.ledger_sql import SqlLedger

# Of what usage may be chosen by; those that a row has several of stand in one text.
COLUMNS: Final = frozenset({"meter", "provider", "model", "tool", "feature"})
TENANTS = "SELECT tenant_id FROM margin_state UNION SELECT tenant_id FROM outbox"
ENDPOINTS = "SELECT DISTINCT endpoint_id FROM delivery"


def unknown(kind: str, given: str, known: Iterable[str]) -> CommandError:
    """Return the complaint about a name that nothing has."""
    near = difflib.get_close_matches(given, [*known], n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return CommandError(f"no {kind} {given!r} in the ledger{meant}")


class KnownNames:
    """On the connections of an open ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def require_tenant(self, tenant_id: str) -> None:
        """Complain of a tenant that the ledger has nothing of.

        Raises:
            CommandError: It has not.
        """
        _require("tenant", tenant_id, await self._names(TENANTS))

    async def require_endpoint(self, endpoint_id: str) -> None:
        """Complain of an endpoint that no message ever went to.

        Raises:
            CommandError: None did.
        """
        _require("deliveries to an endpoint", endpoint_id, await self._names(ENDPOINTS))

    async def require_usage(self, scope: Scope) -> None:
        """Complain of the first filter that no usage answers to, whatever the others say.

        Raises:
            CommandError: There is one.
        """
        asked = [*scope.equal.items(), *(("feature", name) for name in sorted(scope.features))]
        for name, value in asked:
            known = await self._of_usage(name, scope.tenant_id)
            _require(f"usage of the {name}", value, known)

    async def _of_usage(self, column: str, tenant_id: str | None) -> Sequence[str]:
        assert column in COLUMNS, "columns are named by us alone"
        where, values = ("", ()) if tenant_id is None else (" WHERE tenant_id = ?", (tenant_id,))
        found = await self._names(f"SELECT DISTINCT {column} FROM charge{where}", *values)  # noqa: S608
        if column == "feature":
            return [part for text in found for part in text.split(",")]
        return found

    async def _names(self, statement: str, *values: str) -> Sequence[str]:
        return await self._ledger.read(
            lambda sql: [row[0] for row in sql.execute(statement, values)]
        )


def _require(kind: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise unknown(kind, given, known)
