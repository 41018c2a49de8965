"""The life of an outflow and its writer: what they begin with, their work, their end."""

import asyncio
import time
from pathlib import Path

import structlog

from aforo_meter.kafka import KafkaWriter
from aforo_meter.outflow import Outflow
from aforo_meter.spool import Spool

LOOK_S = 0.1

log = structlog.get_logger()


def open_outflow(
    directory: str,
    *,
    setting: str,
    spool_bytes_max: int,
    records_max: int,
    bytes_max: int,
    sync_s: float,
) -> Outflow:
    """Return an outflow with a spool in a directory; with none if `directory` is empty.

    Raises:
        SpoolError: The directory can't be used; it names `setting`.
    """
    spool = None
    if directory:
        spool = Spool.open(Path(directory), bytes_max=spool_bytes_max, setting=setting)
        if spool.kept:
            log.info("the spool holds records of an earlier run; they go first", held=spool.kept)
    return Outflow(spool, records_max=records_max, bytes_max=bytes_max, sync_s=sync_s)


async def flow(outflow: Outflow, writer: KafkaWriter) -> None:
    """Move records to Kafka, and to the disk what it does not take, until cancelled."""
    if outflow.spool is None:
        log.warning("there is no spool: killed while kafka is away, this process loses what it has")
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.run())
        group.create_task(outflow.run())


async def drain(outflow: Outflow, flowing: asyncio.Task[None], *, within_s: float) -> int:
    """Write what is held, end `flowing`, and close the outflow; return the exit code.

    What the spool has need not be written, and is not waited for while Kafka is away. 1 means that
    something is lost, or that `flowing` failed.
    """
    end_s = time.monotonic() + within_s
    while (left_s := end_s - time.monotonic()) > 0 and outflow.held and not flowing.done():
        if not outflow.flowing and not outflow.unprotected:
            break
        emptied = asyncio.create_task(outflow.emptied())
        await asyncio.wait(
            {emptied, flowing}, timeout=min(left_s, LOOK_S), return_when=asyncio.FIRST_COMPLETED
        )
        emptied.cancel()
    flowing.cancel()
    (failure,) = await asyncio.gather(flowing, return_exceptions=True)
    await outflow.close()
    if isinstance(failure, Exception):  # It runs until it is cancelled: a mistake of ours.
        log.error("writing to kafka failed", exc_info=failure)
    if outflow.unprotected:
        outflow.lost += outflow.unprotected
        log.error(
            "stopped before kafka had everything",
            not_written=outflow.unprotected,
            in_spool=outflow.held - outflow.unprotected,
            drain_s=within_s,
        )
        return 1
    if outflow.held:
        log.info("stopped; the spool keeps what kafka lacks for the next start", held=outflow.held)
    else:
        log.info("stopped, nothing is left")
    return 1 if isinstance(failure, Exception) else 0
