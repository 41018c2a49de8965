"""Keeping an outflow and its writer at work, and the end of that."""

import asyncio
import time

import structlog

from aforo_meter.kafka import KafkaWriter
from aforo_meter.outflow import Outflow

LOOK_S = 0.1

log = structlog.get_logger()


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
