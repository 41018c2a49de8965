"""What processes say of themselves in their metrics, judged: signs of trouble, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from aforo_admin.domain.diagnosis import Seen

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[str, Mapping[Labels, float]]  # Of each metric, by its labels.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A value that a metric has only if something is wrong."""

    metric: str
    when: Literal["positive", "zero"]
    means: str
    do: str
    fault: bool = True  # Else a warning: it is over, or nothing is lost by it.


SIGNS: Final = (
    Sign(
        metric="aforo_authz_cache_stale",
        when="positive",
        means="decisions rest on what was last known; who is not remembered is UNAVAILABLE",
        do="does authz reach Redis, and has a sync completed?",
    ),
    Sign(
        metric="aforo_authz_own_faults_total",
        when="positive",
        means="a fault of this program ended checks; Envoy's failure_mode_allow ruled",
        do='its log has "a method broke", with the traceback: report it',
        fault=False,
    ),
    Sign(
        metric="aforo_authz_unreadable_values_total",
        when="positive",
        means="values in Redis were written by a newer version, or by somebody else",
        do="upgrade authz: readers before writers",
        fault=False,
    ),
    Sign(
        metric="aforo_ship_kafka_reachable",
        when="zero",
        means="usage waits in the spool; nothing is lost while that has room",
        do="does ship reach Kafka, and may it write the topic? its log says why not",
    ),
    Sign(
        metric="aforo_ship_spool_working",
        when="zero",
        means="what comes is in memory only: a kill would lose it",
        do="make room on the spool's disk, or bring Kafka back",
    ),
    Sign(
        metric="aforo_ship_lost_total",
        when="positive",
        means="usage was lost since its start",
        do="its log says which; docs/operations.md, “What to watch”",
        fault=False,
    ),
    Sign(
        metric="aforo_ingest_kafka_reachable",
        when="zero",
        means="clients are told to come again, or its spool fills",
        do="does ingest reach Kafka, and may it write the topic?",
    ),
    Sign(
        metric="aforo_ingest_redis_reachable",
        when="zero",
        means="new keys and tenants get 503",
        do="does ingest reach Redis?",
    ),
    Sign(
        metric="aforo_ingest_ledger_reachable",
        when="zero",
        means="clients are not told of duplicates, nor of killed sessions",
        do="does ingest reach the ledger?",
    ),
    Sign(
        metric="aforo_consume_waiting",
        when="positive",
        means="no usage is charged, or no margin moves, until what it waits for is back",
        do="bring back what the label `for` names",
    ),
    Sign(
        metric="aforo_consume_dead_letters_total",
        when="positive",
        means="records could not be read, and are not charged",
        do="aforo-meter dlq list",
        fault=False,
    ),
    Sign(
        metric="aforo_consume_unpriced_rows",
        when="positive",
        means="usage that no price covers: it counts as no COGS yet, margins look too good",
        do="add a price to the catalog; it is rated at once",
        fault=False,
    ),
    Sign(
        metric="aforo_deliver_gone",
        when="positive",
        means="an endpoint answered 410: its alerts wait",
        do="aforo-meter alerts test ENDPOINT once it is back, or take it out",
        fault=False,
    ),
    Sign(
        metric="aforo_deliver_gave_up_total",
        when="positive",
        means="alerts failed for a day and were given up",
        do="aforo-meter alerts list --state gave-up, then resend",
        fault=False,
    ),
    Sign(
        metric="aforo_sync_waiting",
        when="positive",
        means="nothing that was changed since has effect, until the catalog's database is back",
        do="bring it back; its log says why it can't be used",
    ),
    Sign(
        metric="aforo_sync_catalog_faults",
        when="positive",
        means="the last good catalog stays in force; nothing that was changed since has effect",
        do="its log has each fault with file, line and field; aforo-admin check",
    ),
)


def judge_metrics(seen: Seen, samples: Samples) -> None:
    """Look for each sign."""
    for sign in SIGNS:
        for labels, value in samples.get(sign.metric, {}).items():
            if value > 0 if sign.when == "positive" else value == 0:
                told = ", ".join(f'{name}="{text}"' for name, text in labels)
                where = f"{sign.metric}{{{told}}}" if told else sign.metric
                say = seen.fault if sign.fault else seen.warning
                say(f"{where} is {value:g}", sign.means, sign.do)
