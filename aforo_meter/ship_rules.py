"""What ship reads entries by: the built-in rules, or the catalog's as they are followed."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, cast

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_meter import redis_client
from aforo_meter.access_log import Reader
from aforo_meter.domain.metering import Applied, Metering, Rule, built_in_rules
from aforo_meter.domain.tokens import Estimates
from aforo_meter.event_reading import EventReader
from aforo_meter.metering_messages import metering_of
from aforo_meter.metering_rules import METERING_KEY, ROUTES_KEY, RulesFollower
from aforo_meter.settings_ship import ShipSettings

ONCE_S_MAX: Final = 5.0


def event_reader(
    settings: ShipSettings,
    metering: Metering | None = None,
    *,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> EventReader:
    """Return what reads entries by these rules, or by the built-in ones.

    Args:
        settings: What operators set of it.
        metering: The catalog's rules.
        new_id: Makes the ids of events whose entries have none.
    """
    return EventReader(
        Applied(metering or Metering(rules=_built_in(settings))),
        estimates=Estimates(
            event_bytes_per_token=settings.event_bytes_per_token,
            text_bytes_per_token=settings.text_bytes_per_token,
        ),
        # A tenth less: Envoy's timers may fire early, counted from a request's beginning. Who says
        # in vain that a call was told of before makes the ledger look, and no more than that.
        continued_after_ms=settings.interim_every_ms * 9 // 10,
        new_id=new_id,
    )


def _built_in(settings: ShipSettings) -> tuple[Rule, ...]:
    return built_in_rules(
        unmetered_paths=frozenset(settings.unmetered_paths),
        unmetered_statuses=frozenset(settings.unmetered_statuses),
    )


def _kept_in(settings: ShipSettings) -> Path | None:
    if settings.rules_file is None and settings.spool_dir:
        return Path(settings.spool_dir) / "rules.json"
    return settings.rules_file


async def rules_now(settings: ShipSettings) -> Metering | None:
    """Return the catalog's rules as Redis has them; None if ship is not told where to find them.

    Raises:
        RedisError, OSError: Redis does not answer.
        LookupError: It has none.
        UnreadableError: They can't be understood.
    """
    if not settings.redis_url:
        return None
    redis = redis_client.connect(settings.redis_url, timeout_s=ONCE_S_MAX)
    try:
        metering = cast("bytes | None", await redis.get(METERING_KEY))
        routes = cast("bytes | None", await redis.get(ROUTES_KEY))
    finally:
        await redis.aclose()
    if metering is None:
        raise LookupError(f"{METERING_KEY} is missing; does `aforo-admin sync` run?")
    return metering_of(metering, routes or b"", built_in=_built_in(settings))


@contextlib.asynccontextmanager
async def follow_rules(settings: ShipSettings, reader: Reader) -> AsyncIterator[None]:
    """Let the reader follow the catalog's rules, if it is said where to find them."""
    if not settings.redis_url:
        yield
        return
    timeout_s = max(1.0, settings.rules_poll_ms / 1000)
    redis = redis_client.connect(
        settings.redis_url,
        timeout_s=timeout_s,
        retry=Retry(NoBackoff(), 0),  # The next look is the next try.
    )
    follower = RulesFollower(
        redis,
        built_in=_built_in(settings),
        changed=lambda metering: reader.follow(event_reader(settings, metering)),
        poll_s=settings.rules_poll_ms / 1000,
        kept_in=_kept_in(settings),
    )
    await follower.start()
    following = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})
        await redis.aclose()
