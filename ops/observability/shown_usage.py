"""Panels about usage: what is metered, and what is consumed."""

from typing import Final

from ops.observability.dashboards import Dashboard, Panel
from ops.observability.promql import quantile, rate

DROPPED: Final = "envoy_access_logs_grpc_access_log_logs_dropped"

METERING: Final = Dashboard(
    uid="aforo-metering",
    title="Aforo: metering and completeness",
    panels=(
        Panel(
            title="Completeness",
            says="Logged to decided calls of the last 24 hours that are closed and read; of the"
            " consumer whose tenants have the lowest.",
            queries=[('min(aforo_completeness_ratio{of="all"})', "of all")],
            unit="percentunit",
            figure=True,
            red_below=0.99,
        ),
        Panel(
            title="The worst hour of a tenant",
            says="aforo-meter completeness says whose.",
            queries=[('min(aforo_completeness_ratio{of="lowest"})', "lowest")],
            unit="percentunit",
            figure=True,
            red_below=0.99,
        ),
        Panel(
            title="Missing calls",
            says="Decided and not logged, of the last 24 hours that are closed and read.",
            queries=[("sum(aforo_completeness_missing_calls)", "calls")],
            figure=True,
            red_from=1,
        ),
        Panel(
            title="Access-log entries",
            says="What became of them at ship.",
            queries=[(rate("aforo_ship_entries_total", "as"), "{{as}}")],
            unit="ops",
        ),
        Panel(
            title="Usage events",
            says="By the call's outcome.",
            queries=[(rate("aforo_ship_events_total", "outcome"), "{{outcome}}")],
            unit="ops",
        ),
        Panel(
            title="Dead letters",
            says="An hour; nothing of them is charged until they are repaired.",
            queries=[
                ("sum(increase(aforo_ship_dead_letters_total[1h]))", "ship"),
                ("sum(increase(aforo_ingest_dead_letters_total[1h]))", "ingest"),
                ("sum(increase(aforo_consume_dead_letters_total[1h]))", "consume"),
            ],
        ),
        Panel(
            title="Waiting for Kafka",
            says="Records that ship and ingest hold.",
            queries=[
                ("aforo_ship_buffer_records", "{{instance}}"),
                ("aforo_ingest_buffer_records", "{{instance}}"),
            ],
        ),
        Panel(
            title="Spool",
            says="How full it is. At 1 Envoy's streams are not read.",
            queries=[("aforo_ship_spool_bytes / aforo_ship_spool_bytes_max", "{{instance}}")],
            unit="percentunit",
            red_from=0.5,
        ),
        Panel(
            title="Lost",
            says="Records that are gone; entries that Envoy dropped.",
            queries=[
                ("sum by (instance) (increase(aforo_ship_lost_total[1d]))", "{{instance}}"),
                (f"sum by (instance) (increase({DROPPED}[1d]))", "Envoy {{instance}}"),
            ],
            figure=True,
            red_from=1,
        ),
        Panel(
            title="Usage over HTTP",
            says="Requests by status.",
            queries=[(rate("aforo_ingest_requests_total", "status"), "{{status}}")],
            unit="reqps",
        ),
        Panel(
            title="Events over HTTP",
            says="What became of them.",
            queries=[(rate("aforo_ingest_events_total", "as"), "{{as}}")],
            unit="ops",
        ),
        Panel(
            title="Rejected, by field",
            says="Clients are told why, and drop them.",
            queries=[(rate("aforo_ingest_rejected_total", "field"), "{{field}}")],
            unit="ops",
        ),
    ),
)

CONSUME: Final = Dashboard(
    uid="aforo-consume",
    title="Aforo: consumer lag",
    panels=(
        Panel(
            title="Lag",
            says="Records that Kafka has and the ledger not.",
            queries=[("sum(aforo_consume_lag_records)", "all partitions")],
            red_from=100_000,
        ),
        Panel(
            title="Lag by partition",
            says="One that grows alone is one tenant's.",
            queries=[("aforo_consume_lag_records", "{{partition}}")],
        ),
        Panel(
            title="Records settled",
            says="A second, by process.",
            queries=[(rate("aforo_consume_records_total", "instance"), "{{instance}}")],
            unit="ops",
        ),
        Panel(
            title="Time until it is empty",
            says="Lag by the rate of the last five minutes; in equilibrium it is about nothing.",
            queries=[
                (
                    f"sum(aforo_consume_lag_records) / {rate('aforo_consume_records_total')}",
                    "at this rate",
                )
            ],
            unit="s",
        ),
        Panel(
            title="Time of a transaction",
            says="With its wait for the ledger.",
            queries=[
                (quantile(0.5, "aforo_consume_commit_seconds"), "median"),
                (quantile(0.99, "aforo_consume_commit_seconds"), "99 %"),
            ],
            unit="s",
        ),
        Panel(
            title="Waiting",
            says="For what is away.",
            queries=[("aforo_consume_waiting == 1", "{{instance}} for {{for}}")],
            red_from=1,
        ),
        Panel(
            title="Seen before, late, corrected",
            says="Events a second that were known already, came a day late, or corrected others.",
            queries=[
                (rate("aforo_consume_duplicates_total"), "known already"),
                (rate("aforo_consume_late_total"), "late"),
                (rate("aforo_consume_corrections_total", "as"), "true figures: {{as}}"),
            ],
            unit="ops",
        ),
        Panel(
            title="Fenced",
            says="Writes refused as another consumer had been there: rebalances, an hour.",
            queries=[("sum(increase(aforo_consume_partitions_lost_total[1h]))", "fenced")],
        ),
    ),
)
