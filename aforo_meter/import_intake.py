"""Rows of a file → events, validated by the rules of ingest, of tenants that exist."""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aforo_meter import redis_client
from aforo_meter.command_arguments import CommandError
from aforo_meter.domain.import_rows import line_key
from aforo_meter.domain.ingest import DAY_MICROS, Reading, Rules, read_event
from aforo_meter.domain.ingest_metrics import Metric, metrics_of
from aforo_meter.domain.ingest_values import Rejection, shown
from aforo_meter.domain.usage import clip
from aforo_meter.import_file import Row
from aforo_meter.ingest import codec
from aforo_meter.ingest.events import record_of
from aforo_meter.ingest.redis_link import SYNC_KEY, RedisAwayError, RedisLink
from aforo_meter.ingest.tenants import MetricNames, Tenants
from aforo_meter.records import Record
from aforo_proto import usage_pb2

REDIS_TIMEOUT_S: Final = 5.0
SOURCE: Final = "import:"
BY_KEY: Final = "ik:"  # As ingest names them: a row that a client sent as well counts once.
BY_LINE: Final = "im:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A row, and the event that it is; or why it is none."""

    row: Row
    event: usage_pb2.UsageEvent | None = None
    rejection: Rejection | None = None


class Judge:
    """Use `open_judge`."""

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        tenants: Tenants | None,
        *,
        file_name: str,
        file_digest: str,
        age_days: int,
    ) -> None:
        self._metrics = metrics
        self._tenants = tenants
        self._source = clip(SOURCE + file_name)
        self._digest = file_digest
        self._age_micros_max = age_days * DAY_MICROS

    async def judge(self, rows: Sequence[Row]) -> list[Judged]:
        """Validate rows, in their order.

        Raises:
            CommandError: Redis does not answer.
        """
        now_micros = time.time_ns() // 1000
        rules = Rules(
            metrics=self._metrics,
            now_micros=now_micros,
            age_micros_max=self._age_micros_max,
            encode=codec.encode,
        )
        read = [self._read(row, rules) for row in rows]
        subscriptions = await self._subscriptions(
            {one.customer_id for _, one in read if isinstance(one, Reading)}
        )
        return [
            self._judged(row, event_id, one, subscriptions, now_micros)
            for row, (event_id, one) in zip(rows, read, strict=True)
        ]

    def _read(self, row: Row, rules: Rules) -> tuple[str, Reading | Rejection]:
        if row.rejection is not None:
            return "", row.rejection
        event = row.event
        event_id = ""
        if isinstance(event, dict) and event.get("idempotencyKey") in (None, ""):
            key = line_key(self._digest, row.line)
            event, event_id = {**event, "idempotencyKey": key}, BY_LINE + key
        try:
            reading = read_event(event, rules)
        except Rejection as rejection:
            return "", rejection
        return event_id or BY_KEY + reading.idempotency_key, reading

    async def _subscriptions(self, names: set[str]) -> Mapping[str, str | None]:
        if self._tenants is None:
            return dict.fromkeys(names, "")
        try:
            return await self._tenants.subscriptions(names)
        except RedisAwayError as error:
            raise _redis_away(error) from error

    def _judged(
        self,
        row: Row,
        event_id: str,
        reading: Reading | Rejection,
        subscriptions: Mapping[str, str | None],
        now_micros: int,
    ) -> Judged:
        if isinstance(reading, Rejection):
            return Judged(row=row, rejection=reading)
        subscription = subscriptions[reading.customer_id]
        if subscription is None:
            problem = f"no tenant {shown(reading.customer_id)}"
            return Judged(row=row, rejection=Rejection("customerId", problem))
        record = record_of(
            reading,
            topic="",
            event_id=event_id,
            tenant_id=reading.customer_id,
            subscription_id=subscription,
            received_micros=now_micros,
        )
        event = usage_pb2.UsageEvent.FromString(record.value)
        event.source = self._source
        return Judged(row=row, event=event)


@contextlib.asynccontextmanager
async def open_judge(
    redis_url: str | None, *, file_name: str, file_digest: str, age_days: int
) -> AsyncIterator[Judge]:
    """Make what validates a file's rows.

    Args:
        redis_url: Where tenants and the catalog's meters are; None: any tenant is taken, and the
            built-in meters alone.
        file_name: Named in the events.
        file_digest: Its SHA-256: rows without a key of their own are known by it and their line.
        age_days: How old usage may be.

    Raises:
        CommandError: Redis does not answer, or holds no catalog.
    """
    given = {"file_name": file_name, "file_digest": file_digest}
    if redis_url is None:
        yield Judge(metrics_of(), None, **given, age_days=age_days)
        return
    redis = redis_client.connect(redis_url, timeout_s=REDIS_TIMEOUT_S)
    try:
        link = RedisLink(redis)
        try:
            (synced,) = await link.ask(("EXISTS", SYNC_KEY))
        except RedisAwayError as error:
            raise _redis_away(error) from error
        if not synced:
            raise CommandError(
                "this Redis holds no catalog; is it the right one? run: aforo-admin sync"
            )
        names = MetricNames(link)
        await names.look()
        yield Judge(names.metrics, Tenants(link), **given, age_days=age_days)
    finally:
        await redis.aclose()


def _redis_away(error: RedisAwayError) -> CommandError:
    return CommandError(f"redis does not answer ({error}); check --redis-url, and run it again")


def record_for(event: usage_pb2.UsageEvent, topic: str) -> Record:
    return Record(topic=topic, key=event.tenant_id.encode(), value=event.SerializeToString())
