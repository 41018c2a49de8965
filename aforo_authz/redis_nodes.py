"""All of Redis that a process talks to: finds the primaries, stays connected, asks the right one.

A server by itself, a primary that Sentinels name, or the primaries of a cluster: the same code,
with one or with several connections. Every one of them hears of changed keys.
"""

import asyncio
import binascii
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from aforo_authz.redis_link import (
    Answer,
    Failure,
    Link,
    Receiver,
    RedisAnswerError,
    connect,
    fail,
    packed,
)
from aforo_authz.redis_url import Kind, Node, Target, TcpNode

log = structlog.get_logger(__name__)

SLOTS = 16384
RETRY_S = 0.1
# A failover may leave the old primary reachable: who is the primary is asked again and again.
LOOK_AGAIN_S = 1.0
TICK_S = 0.005  # How late a budget's end may be noticed.
HELD_UP_S = 2 * TICK_S  # Noticed later than that: this process was stopped, or had no CPU.
BROKEN_RETRY_S = 1.0


class Follower(Protocol):
    """Who remembers what Redis says."""

    def on_changed(self, keys: list[str] | None) -> None:
        """Redis says that these keys were written; None: any may have been."""

    def on_connected(self) -> None:
        """From now on Redis tells of changes. What was read before may be old."""

    def on_disconnected(self, error: Exception | None) -> None:
        """From now on changes may go unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A primary, and the slots it serves: (first, last), both inclusive."""

    node: Node
    slots: tuple[tuple[int, int], ...] = ((0, SLOTS - 1),)


class RedisNodes:
    """Asks Redis. One per process; lives in one event loop.

    Args:
        target: Where it is.
        prefix: Keys that begin so are followed; None: only ask.
    """

    def __init__(self, target: Target, *, prefix: str | None) -> None:
        self.connected = False  # To all primaries.
        self.follower: Follower | None = None
        self.last_error: Exception | None = None
        self._target = target
        self._prefix = prefix
        self._links: dict[Node, Link] = {}
        self._only: Link | None = None  # The one connection, where there is but one.
        self._by_slot: list[Link | None] = [None] * SLOTS
        self._guide: Link | None = None  # To a Sentinel, or a node that knows the cluster.
        self._unsettled = asyncio.Event()
        self._deadlines: deque[tuple[float, Receiver]] = deque()
        self._held_up = False  # Was it this process that kept answers waiting?

    async def wait_connected(self) -> None:
        while not self.connected:  # noqa: ASYNC110 - for commands that begin and end, not for serving
            await asyncio.sleep(TICK_S)

    @property
    def several(self) -> bool:
        """May keys be spread over more than one primary?"""
        return self._target.kind is Kind.CLUSTER

    def ask(self, key: str, *command: str | bytes | int, budget_s: float) -> Answer:
        """Send a command to the primary of a key; everything of one turn leaves together.

        Returns:
            A future of Redis' answer, or of a RedisAnswerError: at the latest when the budget is
            spent. Then the command may have been carried out, or not.
        """
        answer: Answer = asyncio.get_running_loop().create_future()
        self.send(key, command, answer, budget_s=budget_s)
        return answer

    def send(
        self, key: str, command: tuple[str | bytes | int, ...], answer: Receiver, *, budget_s: float
    ) -> None:
        """Do what `ask` does, with an answer that is there already."""
        link = self._only or self._by_slot[slot_of(key)]
        if link is None:
            fail(answer, Failure.LOST, "no connection to Redis")
            return
        self.limit(answer, budget_s)
        link.send(packed(command), answer)

    def limit(self, answer: Receiver, budget_s: float) -> None:
        """Let an answer fail once a budget is spent, unless it is settled by then."""
        loop = asyncio.get_running_loop()
        if not self._deadlines:
            loop.call_later(TICK_S, self._expire)
        self._deadlines.append((loop.time() + budget_s, answer))

    async def ask_all(
        self, questions: Sequence[tuple[str | int, ...]], *, budget_s: float
    ) -> list[Any]:
        """Ask several commands, each of the primary of its first argument.

        Raises:
            RedisAnswerError: One of them could not be answered, other than by an error.

        Returns:
            The answers, in order; a RedisAnswerError where an error was the answer.
        """
        answers = [self.ask(str(each[1]), *each, budget_s=budget_s) for each in questions]
        settled: list[Any] = []
        unanswered: RedisAnswerError | None = None
        # One after another: they arrive together, and what is there already costs no waiting.
        for number, answer in enumerate(answers):
            try:
                settled.append(await answer)
            except RedisAnswerError as error:
                settled.append(error)
                if error.failure is not Failure.REFUSED:
                    unanswered = unanswered or error
            except asyncio.CancelledError:
                for left in answers[number + 1 :]:
                    _unheeded(left)
                raise
        if unanswered is not None:
            raise unanswered
        return settled

    async def run(self) -> None:
        """Keep the connections until cancelled. Errors end in another attempt."""
        try:
            while True:
                try:
                    self._unsettled.clear()
                    await self._settle_links()
                    await self._wait_for_unrest()
                except (OSError, TimeoutError, RedisAnswerError) as error:
                    self._tell_disconnected(error)
                    await asyncio.sleep(RETRY_S)
                except Exception as error:
                    # Whatever answers there, and whatever is wrong here: it will be tried again.
                    log.exception("looking for Redis broke")
                    self._tell_disconnected(error)
                    await asyncio.sleep(BROKEN_RETRY_S)
        finally:
            self.connected = False
            links = [*self._links.values(), *filter(None, [self._guide])]
            self._links.clear()  # Their ends are no news.
            for link in links:
                link.close()

    def on_changed(self, keys: list[str] | None) -> None:
        if self.follower is not None:
            self.follower.on_changed(keys)

    def on_lost(self, link: Link) -> None:
        if self._links.get(link.node) is link:
            self._tell_disconnected(ConnectionError(f"the connection to {link.node} was lost"))
            self._unsettled.set()

    def on_redirect(self, error: str, command: bytes, answer: Receiver) -> None:
        kind, _, address = error.split(" ")
        host, _, port = address.rpartition(":")
        link = self._links.get(TcpNode(host, int(port)))
        if kind == "MOVED":
            self._unsettled.set()  # The slots have changed hands.
        if link is None:
            fail(answer, Failure.LOST, f"not connected to {address}, where the key is now")
            return
        if kind == "ASK":
            _unheeded(link.ask("ASKING"))
        # Two nodes that point to each other go on until the budget is spent: then it is done.
        link.send(command, answer)

    async def _settle_links(self) -> None:
        """Find the primaries, and have one connection to each, and no other.

        Raises:
            OSError, TimeoutError, RedisAnswerError: Some could not be reached. The others serve.
        """
        places = await self._locate()
        nodes = {place.node for place in places}
        missing = [node for node in nodes if node not in self._links or not self._links[node].open]
        if missing:
            self.connected = False  # What is written there goes unnoticed until we are.
        for node in [node for node in self._links if node not in nodes]:
            self._links.pop(node).close()
        failures = await _each(missing, self._connect)
        by_slot: list[Link | None] = [None] * SLOTS
        for place in places:
            link = self._links.get(place.node)
            for first, last in place.slots:
                by_slot[first : last + 1] = [link] * (last - first + 1)
        self._by_slot = by_slot
        self._only = None if self.several else by_slot[0]
        if failures:
            raise failures[0]
        if not self.connected and all(link.open for link in self._links.values()):
            self.connected = True
            if self.follower is not None:
                self.follower.on_connected()

    async def _connect(self, node: Node) -> None:
        target = self._target
        link, role = await connect(node, target.login, target, self, prefix=self._prefix)
        if target.kind is Kind.SENTINEL and role != "master":
            link.close()
            raise RedisAnswerError(Failure.REFUSED, f"{node} is no primary (any more)")
        self._links[node] = link

    async def _locate(self) -> Sequence[Place]:
        if self._target.kind is Kind.SERVER:
            return [Place(node=self._target.nodes[0])]
        if self._target.kind is Kind.SENTINEL:
            return await self._from_guide(self._target.nodes, self._ask_sentinel)
        known = [node for node, link in self._links.items() if link.open]
        return await self._from_guide([*known, *self._target.nodes], self._ask_cluster)

    async def _from_guide(
        self, nodes: Sequence[Node], ask: Callable[[Link], Awaitable[list[Place]]]
    ) -> list[Place]:
        """Ask whoever knows where the primaries are: the last who knew, else one after another."""
        last_error: Exception = RedisAnswerError(Failure.LOST, "nobody to ask")
        if self._guide is not None and self._guide.open:
            try:
                return await _in_time(ask(self._guide))
            except (TimeoutError, RedisAnswerError):
                self._guide.close()
        is_sentinel = self._target.kind is Kind.SENTINEL
        login = self._target.guide_login if is_sentinel else self._target.login
        for node in dict.fromkeys(nodes):
            try:
                self._guide, _ = await connect(node, login, self._target, self, prefix=None)
                return await _in_time(ask(self._guide))
            except (OSError, TimeoutError, RedisAnswerError) as error:
                last_error = error
        raise last_error

    async def _ask_sentinel(self, guide: Link) -> list[Place]:
        found = await guide.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._target.service)
        if found is None:
            raise RedisAnswerError(
                Failure.REFUSED, f"the Sentinel does not know {self._target.service!r}"
            )
        host, port = (part.decode() for part in found)
        return [Place(node=TcpNode(host, int(port)))]

    async def _ask_cluster(self, guide: Link) -> list[Place]:
        slots: dict[Node, list[tuple[int, int]]] = {}
        for first, last, (host, port, *_), *_ in await guide.ask("CLUSTER", "SLOTS"):
            assert isinstance(guide.node, TcpNode), "a cluster has no UNIX sockets"
            node = TcpNode(host.decode() if host else guide.node.host, port)
            slots.setdefault(node, []).append((first, last))
        if not slots:
            raise RedisAnswerError(Failure.REFUSED, f"{guide.node} knows of no slots")
        return [Place(node=node, slots=tuple(ranges)) for node, ranges in slots.items()]

    async def _wait_for_unrest(self) -> None:
        """Return when a connection was lost or a key moved, or when it is time to look again."""
        look_again_s = None if self._target.kind is Kind.SERVER else LOOK_AGAIN_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(look_again_s):
                await self._unsettled.wait()

    def _tell_disconnected(self, error: Exception) -> None:
        self.connected = False
        self.last_error = error
        if self.follower is not None:
            self.follower.on_disconnected(error)

    def _expire(self) -> None:
        """End the waits whose budget is spent. One timer for all: most are answered long before."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        waiting = [(end_s, answer) for end_s, answer in self._deadlines if not answer.done()]
        self._deadlines.clear()
        held_up = False
        for end_s, answer in waiting:
            if end_s > now_s:
                self._deadlines.append((end_s, answer))
            elif end_s < now_s - HELD_UP_S and not self._held_up:
                # Nobody looked for so long: what Redis said meanwhile is read first.
                held_up = True
                self._deadlines.append((end_s, answer))
            else:
                fail(answer, Failure.TIMEOUT, "Redis did not answer in time")
        self._held_up = held_up
        if self._deadlines:
            loop.call_later(TICK_S, self._expire)


def slot_of(key: str) -> int:
    """Return a key's slot in a cluster: of what stands in its braces, if anything does.

    Source: the specification of Redis Cluster, "Key distribution model" and "Hash tags".
    """
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    hashed = tag if opened and closed and tag else key
    return binascii.crc_hqx(hashed.encode(), 0) % SLOTS


async def _each(
    nodes: Sequence[Node], work: Callable[[Node], Awaitable[None]]
) -> list[BaseException]:
    """Do something for all nodes at once; return what failed."""
    done = await asyncio.gather(*(work(node) for node in nodes), return_exceptions=True)
    for error in done:
        if error is not None and not isinstance(error, OSError | TimeoutError | RedisAnswerError):
            raise error
    return [error for error in done if error is not None]


async def _in_time(answering: Awaitable[list[Place]]) -> list[Place]:
    async with asyncio.timeout(LOOK_AGAIN_S):
        return await answering


def _unheeded(answer: Answer) -> None:
    # Else asyncio complains of an error that nobody looked at.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
