"""Panels about the control plane; and all dashboards: one for each question."""

from typing import Final

from ops.observability.dashboards import Dashboard, Panel
from ops.observability.promql import quantile, rate
from ops.observability.shown_decisions import DECISIONS, MARGINS
from ops.observability.shown_usage import CONSUME, METERING

CONTROL: Final = Dashboard(
    uid="aforo-control",
    title="Aforo: sync and control plane",
    panels=(
        Panel(
            title="Age of the last sync, as decisions see it",
            says="By what sync left in Redis.",
            queries=[
                ("time() - (aforo_authz_synced_timestamp_seconds > 0)", "{{instance}}"),
            ],
            unit="s",
            red_from=90,
        ),
        Panel(
            title="Age of the last sync, as it says",
            says="It is silent with its process.",
            queries=[
                ("time() - max(aforo_sync_last_success_timestamp_seconds)", "sync"),
            ],
            unit="s",
            red_from=90,
        ),
        Panel(
            title="Faults of the catalog",
            says="While there are any, the last good version is in force.",
            queries=[("max(aforo_sync_catalog_faults)", "faults")],
            figure=True,
            red_from=1,
        ),
        Panel(
            title="Passes",
            says="By result.",
            queries=[(rate("aforo_sync_passes_total", "result"), "{{result}}")],
            unit="ops",
        ),
        Panel(
            title="Time of a pass",
            says="The building of the read model included.",
            queries=[(quantile(0.99, "aforo_sync_pass_seconds"), "99 %")],
            unit="s",
        ),
        Panel(
            title="Values",
            says="Repaired: somebody else had changed them.",
            queries=[(rate("aforo_sync_values_total", "action"), "{{action}}")],
            unit="wps",
        ),
        Panel(
            title="Tenants",
            says="Of the catalog in force.",
            queries=[("max(aforo_sync_tenants)", "tenants")],
            figure=True,
        ),
        Panel(
            title="Processes, by version",
            says="More than one version only during an upgrade.",
            queries=[("count by (process, version) (aforo_build_info)", "{{process}} {{version}}")],
        ),
    ),
)

DASHBOARDS: Final = (DECISIONS, MARGINS, METERING, CONSUME, CONTROL)
