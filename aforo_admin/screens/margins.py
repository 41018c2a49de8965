"""The list of tenants by their margins."""

from typing import Any, Final

from aforo_admin.screens import stores
from aforo_admin.screens.in_force import in_force, read_overrides
from aforo_admin.screens.margins_reading import TenantMargin, read_margins
from aforo_admin.screens.page import ROWS_PER_PAGE, ScreenView
from aforo_meter.domain.margin import Level

LEVELS: Final = {level.name.lower(): level for level in Level}


class MarginsView(ScreenView):
    template_name = "control/screens/margins.html"
    refresh_s = 10

    def figures(self, now_micros: int) -> dict[str, Any]:
        level = self.asked("level", choices=tuple(LEVELS))
        begins = self.asked("tenant")
        missing = stores.Missing()
        found = stores.run(missing.of(self._read(LEVELS.get(level), begins))) or []
        rows = found[:ROWS_PER_PAGE]
        tenant_ids = [one.tenant_id for one in rows]
        overrides = stores.run(missing.of(read_overrides(tenant_ids, now_micros=now_micros)))
        return {
            "missing": missing.said,
            "rows": [
                (one, in_force(one.tenant_id, one.assessment.level, overrides)) for one in rows
            ],
            "level": level,
            "tenant": begins,
            "choices": list(LEVELS)[::-1],
            **self.pages(len(found)),
        }

    async def _read(self, level: Level | None, begins: str) -> list[TenantMargin]:
        async with stores.opened_ledger() as ledger:
            return list(
                await ledger.read(
                    lambda sql: read_margins(
                        sql,
                        level=level,
                        begins=begins,
                        count_max=ROWS_PER_PAGE + 1,
                        skipped=self.skipped,
                    )
                )
            )
