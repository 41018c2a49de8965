"""Which looks for alerts `consume` repeats, wired."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from redis.asyncio import Redis

from aforo_meter.alerting import Alerting, ReachedQuotas
from aforo_meter.alerting_sql import SqlAlerts
from aforo_meter.batches import now_micros
from aforo_meter.contracts import Contracts
from aforo_meter.ledger_sql import SqlLedger
from aforo_meter.partitions import Partitions
from aforo_meter.price_watch import PriceWatch
from aforo_meter.publish import Publisher
from aforo_meter.settings_consume import ConsumeSettings
from aforo_meter.sync_watch import SyncWatch


def alert_work(
    settings: ConsumeSettings,
    redis: Redis,
    ledger: SqlLedger,
    contracts: Contracts,
    partitions: Partitions,
    publisher: Publisher,
    *,
    tenants: Callable[[], Sequence[str]],
) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """Return what is to be repeated, by a name for the log. Each raises what may be waited for."""
    alerts, reached = SqlAlerts(ledger), ReachedQuotas(settings.quota_alerts_bp)
    publisher.seen = reached.note
    alerting = Alerting(alerts, partitions, reached, now_micros=now_micros)
    prices = PriceWatch(*(alerts, contracts, partitions), tenants=tenants, now_micros=now_micros)
    sync = SyncWatch(
        *(redis, alerts, partitions),
        topic=settings.kafka_topic,
        stale_after_s=settings.sync_stale_s,
        now_micros=now_micros,
    )
    return {
        "quota alerts": alerting.tell_quotas,
        "unpriced usage": alerting.tell_unpriced,
        "price changes": prices.look,
        "age of the sync": sync.look,
    }
