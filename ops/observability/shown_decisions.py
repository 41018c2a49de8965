"""Panels about decisions and margins."""

from typing import Final

from ops.observability.dashboards import Dashboard, Panel
from ops.observability.promql import quantile, rate

HITS: Final = rate("aforo_authz_cache_hits_total")

DECISIONS: Final = Dashboard(
    uid="aforo-decisions",
    title="Aforo: decisions",
    panels=(
        Panel(
            title="Decisions",
            says="Calls a second, by what was answered.",
            queries=[(rate("aforo_authz_decisions_total", "decision"), "{{decision}}")],
            unit="reqps",
        ),
        Panel(
            title="Why calls are refused or slowed",
            says="Reasons are those of docs/deny-reasons.md.",
            queries=[
                (
                    'sum by (reason) (rate(aforo_authz_decisions_total{decision!="allow"}[5m]))',
                    "{{reason}}",
                )
            ],
            unit="reqps",
        ),
        Panel(
            title="In shadow mode: what would be refused",
            says="These calls passed.",
            queries=[(rate("aforo_authz_shadow_decisions_total", "reason"), "{{reason}}")],
            unit="reqps",
        ),
        Panel(
            title="Time of a decision",
            says="From the arrival of a check to its answer.",
            queries=[
                (quantile(0.5, "aforo_authz_decision_seconds"), "median"),
                (quantile(0.99, "aforo_authz_decision_seconds"), "99 %"),
            ],
            unit="s",
            red_from=0.005,
        ),
        Panel(
            title="Undecided, stale, uncounted",
            says="failed: Envoy's failure_mode_allow ruled. stale: decided with old values."
            " uncounted: a hard quota did not count the call.",
            queries=[
                (rate("aforo_authz_failed_checks_total", "code"), "failed, code {{code}}"),
                (rate("aforo_authz_stale_decisions_total"), "stale"),
                (rate("aforo_authz_uncounted_decisions_total"), "uncounted"),
                (rate("aforo_authz_own_faults_total"), "own faults"),
            ],
            unit="reqps",
        ),
        Panel(
            title="Passed undecided, as Envoy counts",
            says="Calls that nobody decided, also where authz was not reached or too slow."
            " unheard: authz decided, and Envoy had given up.",
            queries=[
                (rate("envoy_http_ext_authz_failure_mode_allowed", "instance"), "{{instance}}"),
                (rate("aforo_authz_tally_decisions_unheard_total"), "unheard"),
            ],
            unit="reqps",
            red_from=0.001,
        ),
        Panel(
            title="Stale now",
            says="Processes that can't confirm what they know.",
            queries=[("sum(aforo_authz_cache_stale)", "stale processes")],
            figure=True,
            red_from=1,
        ),
        Panel(
            title="Redis: 99 % of answers",
            says="What authz waited for Redis, by what it asked.",
            queries=[(quantile(0.99, "aforo_authz_redis_seconds", "purpose"), "{{purpose}}")],
            unit="s",
        ),
        Panel(
            title="Redis: not answered",
            says="By purpose and why.",
            queries=[
                (
                    rate("aforo_authz_redis_failures_total", "purpose", "failure"),
                    "{{purpose}}: {{failure}}",
                )
            ],
            unit="reqps",
        ),
        Panel(
            title="Found in memory",
            says="The share of callers that Redis was not asked for.",
            queries=[(f"{HITS} / ({HITS} + {rate('aforo_authz_cache_misses_total')})", "hits")],
            unit="percentunit",
        ),
        Panel(
            title="Memory of values",
            says="What is remembered, by process.",
            queries=[("aforo_authz_cache_bytes", "{{instance}}")],
            unit="bytes",
        ),
        Panel(
            title="Limits",
            says="Connections and streams that were ended because of a limit.",
            queries=[(rate("aforo_authz_refused_total", "limit"), "{{limit}}")],
        ),
    ),
)

MARGINS: Final = Dashboard(
    uid="aforo-margins",
    title="Aforo: margins and alerts",
    panels=(
        Panel(
            title="Changes of a level",
            says="To which level tenants went, an hour. Figures of money are in the admin.",
            queries=[
                (
                    "sum by (to) (increase(aforo_consume_level_transitions_total[1h]))",
                    "to {{to}}",
                )
            ],
        ),
        Panel(
            title="From a call to its margin",
            says="How long usage needs until decisions know it.",
            queries=[
                (quantile(0.5, "aforo_consume_freshness_seconds"), "median"),
                (quantile(0.95, "aforo_consume_freshness_seconds"), "95 %"),
            ],
            unit="s",
            red_from=1,
        ),
        Panel(
            title="Usage without a price",
            says="Rows that count as no COGS: margins look better than they are.",
            queries=[("max(aforo_consume_unpriced_rows)", "rows")],
            figure=True,
            red_from=1,
        ),
        Panel(
            title="Margins written",
            says="To Redis, a second; after it was emptied, all of them once.",
            queries=[
                (rate("aforo_consume_published_total"), "changed"),
                (rate("aforo_consume_republished_total"), "written again"),
            ],
            unit="wps",
        ),
        Panel(
            title="Alerts left",
            says="By kind (docs/alerts.md), an hour.",
            queries=[("sum by (kind) (increase(aforo_consume_alerts_total[1h]))", "{{kind}}")],
        ),
        Panel(
            title="Alerts that wait",
            says="Age of the oldest message that its endpoint has not taken.",
            queries=[("max by (endpoint) (aforo_deliver_oldest_seconds)", "{{endpoint}}")],
            unit="s",
            red_from=900,
        ),
        Panel(
            title="Deliveries",
            says="Attempts by result.",
            queries=[
                (
                    rate("aforo_deliver_attempts_total", "endpoint", "result"),
                    "{{endpoint}}: {{result}}",
                )
            ],
            unit="reqps",
        ),
        Panel(
            title="Given up, or gone",
            says="Messages that failed for a day; endpoints that answered 410.",
            queries=[
                ("sum by (endpoint) (increase(aforo_deliver_gave_up_total[1d]))", "{{endpoint}}"),
                ("aforo_deliver_gone == 1", "{{endpoint}} is gone"),
            ],
        ),
    ),
)
