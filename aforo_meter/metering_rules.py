"""Metering rules from Redis, followed as they change, and kept over a restart without Redis."""

import asyncio
import base64
import binascii
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import structlog
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from aforo_meter.contract_messages import UnreadableError
from aforo_meter.domain.metering import Metering, Rule
from aforo_meter.metering_messages import metering_of

METERING_KEY: Final = "aforo:v1:metering"
ROUTES_KEY: Final = "aforo:v1:routes"
FIRST_ANSWER_S_MAX: Final = 2.0  # What was kept, or is built in, holds when it comes later.

FOLLOWED = Gauge("aforo_ship_rules_followed", "1 while Redis tells the metering rules, else 0.")

log = structlog.get_logger()


class RulesFollower:
    """Looks into Redis time and again. What can't be had, or understood, leaves all as it was."""

    def __init__(
        self,
        redis: Redis,
        *,
        built_in: tuple[Rule, ...],
        changed: Callable[[Metering], None],
        poll_s: float,
        kept_in: Path | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            redis: A client that answers in bytes.
            built_in: What holds where the catalog has no rules.
            changed: Told of rules that hold from now on.
            poll_s: How often to look.
            kept_in: A file for what was last known.
        """
        self._redis = redis
        self._built_in = built_in
        self._changed = changed
        self._poll_s = poll_s
        self._kept_in = kept_in
        self._held: tuple[bytes, bytes] | None = None
        self._complaint = ""  # Told once, and again when it is another one.

    async def start(self) -> None:
        """Take up what was kept, and what Redis says if it says it soon."""
        self._recall()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_S_MAX):
                await self.look()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - a mistake of ours must not end it.
                self._complain("looking for metering rules failed", repr(error))

    async def look(self) -> None:
        """Ask once."""
        try:
            # Two questions, since the keys may lie on two nodes of a cluster.
            metering = await self._redis.get(METERING_KEY)
            routes = await self._redis.get(ROUTES_KEY)
        except (RedisError, OSError) as error:
            self._complain("redis does not tell the metering rules", str(error))
            return
        if metering is None:
            self._complain(
                "no metering rules are in redis",
                f"{METERING_KEY} is missing; does `aforo-admin sync` run?",
            )
            return
        held = cast("tuple[bytes, bytes]", (metering, routes or b""))
        if held != self._held:
            if not self._take_up(held, whence="redis"):
                return
            self._keep(held)
        if self._complaint:
            log.info("metering rules are followed again")
            self._complaint = ""
        FOLLOWED.set(1)

    def _take_up(self, held: tuple[bytes, bytes], *, whence: str) -> bool:
        try:
            metering = metering_of(*held, built_in=self._built_in)
        except UnreadableError as error:
            self._complain(f"metering rules of {whence} can't be read", str(error))
            return False
        self._held = held
        self._changed(metering)
        log.info(
            "metering rules hold", rules=len(metering.rules), version=metering.version, by=whence
        )
        return True

    def _complain(self, what: str, why: str) -> None:
        FOLLOWED.set(0)
        if self._complaint != what:
            self._complaint = what
            log.warning(what, reason=why, hold="the last known ones")

    def _recall(self) -> None:
        if self._kept_in is None:
            return
        try:
            kept = json.loads(self._kept_in.read_bytes())
            held = (
                base64.b64decode(kept["metering"], validate=True),
                base64.b64decode(kept["routes"], validate=True),
            )
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
            log.warning("kept metering rules can't be read", file=str(self._kept_in), error=error)
            return
        self._take_up(held, whence="the last run")

    def _keep(self, held: tuple[bytes, bytes]) -> None:
        """Write down what is known, in one step: a crash leaves the former or this."""
        if self._kept_in is None:
            return
        metering, routes = (base64.b64encode(part).decode() for part in held)
        fresh = self._kept_in.with_name(self._kept_in.name + ".new")
        try:
            fresh.write_text(json.dumps({"metering": metering, "routes": routes}))
            os.replace(fresh, self._kept_in)  # noqa: PTH105 - what it does is in its name.
        except OSError as error:
            log.warning("metering rules can't be kept", file=str(self._kept_in), error=str(error))
