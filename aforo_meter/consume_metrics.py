"""What the consumer counts."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

RECORDS = Counter("aforo_consume_records_total", "Records taken from Kafka and settled.")
BATCHES = Counter("aforo_consume_batches_total", "Transactions that moved the position.")
DUPLICATES = Counter("aforo_consume_duplicates_total", "Events that the ledger had already.")
CORRECTIONS = Counter(
    "aforo_consume_corrections_total",
    "True figures for calls, by what became of them: replaced (an estimate), waiting (for one),"
    " not_needed (the gateway's own count is exact).",
    ["as"],
)
LATE = Counter("aforo_consume_late_total", "Events that were a day old when they arrived.")
COMMIT = Histogram(
    "aforo_consume_commit_seconds", "A batch's transaction, with its wait.", buckets=_SECONDS
)
FRESHNESS = Histogram(
    "aforo_consume_freshness_seconds",
    "From a tenant's oldest new usage, by when its call began, until its margin was published.",
    buckets=_SECONDS,
)
DEAD_LETTERS = Counter("aforo_consume_dead_letters_total", "Records that could not be read.")
LAG = Gauge(
    "aforo_consume_lag_records",
    "Records that Kafka has and the ledger not, but for those that wait for more by choice.",
    ["partition"],
)
UNPRICED = Gauge("aforo_consume_unpriced_rows", "Rows of the ledger that no price covers yet.")
REPRICED = Counter("aforo_consume_repriced_rows_total", "Rows that got a price afterwards.")
TRANSITIONS = Counter("aforo_consume_level_transitions_total", "Changes of a level.", ["to"])
PUBLISHED = Counter("aforo_consume_published_total", "Margins written to Redis.")
REPUBLISHED = Counter(
    "aforo_consume_republished_total", "Margins written because Redis had been emptied."
)
PARTITIONS_LOST = Counter(
    "aforo_consume_partitions_lost_total", "Writes refused because another consumer had been there."
)
WAITING = Gauge("aforo_consume_waiting", "1 while something that is needed is away.", ["for"])
