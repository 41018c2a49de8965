"""What ship reads entries by: the built-in rules, or the catalog's as they are followed."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aforo_meter.access_log import Reader
from aforo_meter.domain.metering import Applied, Metering, Rule, built_in_rules
from aforo_meter.domain.tokens import Estimates
from aforo_meter.event_reading import EventReader
from aforo_meter.metering_rules import RulesFollower
from aforo_meter.settings_ship import ShipSettings


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
        continued_after_ms=settings.interim_every_ms,
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


@contextlib.asynccontextmanager
async def follow_rules(settings: ShipSettings, reader: Reader) -> AsyncIterator[None]:
    """Let the reader follow the catalog's rules, if it is said where to find them."""
    if not settings.redis_url:
        yield
        return
    timeout_s = max(1.0, settings.rules_poll_ms / 1000)
    redis = Redis.from_url(
        settings.redis_url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
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
