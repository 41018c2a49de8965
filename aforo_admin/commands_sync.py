"""`aforo-admin sync`: the catalog's file or database, followed into Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from redis.asyncio import Redis

from aforo_admin import commands_control, metrics, process, redis_access, settings
from aforo_admin.catalog_file import open_file
from aforo_admin.catalog_source import CatalogSource
from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.catalog import Catalog
from aforo_admin.faults import StoreAwayError
from aforo_admin.following import Follower

OK: Final = 0
RETRY_S: Final = 1.0  # Of a start without the database.
NOT_READ: Final = "the catalog was not read yet: see the log"

log = structlog.get_logger("aforo_admin")


async def once(chosen: settings.SyncSettings) -> int:
    """Make Redis equal to the catalog, once.

    Raises:
        CatalogError: The catalog is wrong.
        StoreError: The database can't be used.
        RedisError: Redis does not answer, or refuses.
    """
    _set_up(chosen)
    async with _redis(chosen) as redis, _source(chosen) as source:
        await _follower(chosen, redis, source).pass_once()
    return OK


async def follow(chosen: settings.SyncSettings) -> int:
    """Make Redis equal to the catalog, and keep it so until a signal.

    Raises:
        CatalogError: The catalog is wrong at the start.
        StoreError: The database can't be used at the start. One that is away is waited for.
        ListenError: The address for metrics is in use.
    """
    _set_up(chosen)
    stop = process.stop_on_signals()
    follower: Follower | None = None

    def complaint() -> str | None:
        return NOT_READ if follower is None else follower.complaint()

    # Probes are answered first: who waits for the database lives, and says so.
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(process.health_server(chosen.metrics_listen, complaint))
        redis = await stack.enter_async_context(_redis(chosen))
        source = await _opened(stack, chosen, stop)
        if source is not None:
            leads = await stack.enter_async_context(_leading(chosen, stop))
            follower = _follower(chosen, redis, source, leads=leads)
            log.info("following", catalog=_shown(chosen), interval_s=chosen.sync_interval_s)
            await follower.run(stop)
    log.info("stopped")
    return OK


def catalog_of(chosen: settings.SyncSettings) -> tuple[Catalog, Path]:
    """Read the catalog that a sync would follow, and say from where it names other files.

    Raises:
        CatalogError: It is wrong.
        StoreError: The database can't be used.
    """
    if not chosen.database_url:
        assert chosen.catalog is not None, "the settings want one of the two"
        return read_file(chosen.catalog), chosen.catalog
    commands_control.set_up(chosen.database_url)
    # They need Django set up.
    from aforo_admin import catalog_database, control_work, store  # noqa: PLC0415

    with control_work.told(chosen.database_url):
        return store.load_checked().catalog, catalog_database.PLACE


def _set_up(chosen: settings.SyncSettings) -> None:
    if chosen.database_url:
        commands_control.set_up(chosen.database_url)


def _follower(
    chosen: settings.SyncSettings,
    redis: Redis,
    source: CatalogSource,
    *,
    leads: Callable[[], bool] = lambda: True,
) -> Follower:
    return Follower(
        redis=redis,
        source=source,
        clock=lambda: datetime.now(UTC),
        interval_s=chosen.sync_interval_s,
        leads=leads,
    )


@contextlib.asynccontextmanager
async def _redis(chosen: settings.SyncSettings) -> AsyncIterator[Redis]:
    redis = redis_access.connect(chosen)
    try:
        yield redis
    finally:
        await redis.aclose()


@contextlib.asynccontextmanager
async def _source(chosen: settings.SyncSettings) -> AsyncIterator[CatalogSource]:
    if not chosen.database_url:
        assert chosen.catalog is not None, "the settings want one of the two"
        yield await open_file(chosen.catalog)
        return
    from aforo_admin import catalog_database, control_work  # noqa: PLC0415 - as above.

    with control_work.told(chosen.database_url):
        database = await catalog_database.open_database()
    try:
        yield database
    finally:
        await database.close()


async def _opened(
    stack: contextlib.AsyncExitStack, chosen: settings.SyncSettings, stop: asyncio.Event
) -> CatalogSource | None:
    """Read the catalog as soon as its database answers. None: stopped meanwhile.

    Raises:
        CatalogError: The catalog is wrong.
        StoreError: The database can't be used.
    """
    while not stop.is_set():
        try:
            source = await stack.enter_async_context(_source(chosen))
        except StoreAwayError as error:
            metrics.WAITING.set(1)
            log.warning("waiting for the catalog's database", error=str(error), retry_in_s=RETRY_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_S)
        else:
            metrics.WAITING.set(0)
            return source
    return None


@contextlib.asynccontextmanager
async def _leading(
    chosen: settings.SyncSettings, stop: asyncio.Event
) -> AsyncIterator[Callable[[], bool]]:
    """Seek the lease while the body runs. A file has no lease: its reader always leads."""
    if not chosen.database_url:
        yield lambda: True
        return
    from aforo_admin.leading import Leader  # noqa: PLC0415 - as above.

    leader = Leader()
    seeking = asyncio.create_task(leader.run(stop))
    try:
        yield leader.leads
    finally:
        stop.set()
        await seeking


def _shown(chosen: settings.SyncSettings) -> str:
    return settings.without_password(chosen.database_url) or str(chosen.catalog)
