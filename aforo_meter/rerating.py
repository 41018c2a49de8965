"""`aforo-meter rerate`: rows of the ledger at the prices in force now, as adjustments.

It may be stopped anywhere and run again: what is right is left alone. Consumers go on beside it.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from redis.exceptions import RedisError

from aforo_meter import redis_client
from aforo_meter.command_arguments import CommandError
from aforo_meter.contract_messages import UnreadableError
from aforo_meter.contracts import Contracts, NotSyncedError
from aforo_meter.correction_effects import Effect, effects, read_before
from aforo_meter.corrections import Corrections, Scope
from aforo_meter.domain.corrections import Adjustment, Choice, Known, choose, rerated
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.rating import ChargeKey
from aforo_meter.domain.terms import Terms
from aforo_meter.ledger import PriceConflictError, TooLargeError
from aforo_meter.ledger_adjusting import Order
from aforo_meter.progress import Progress
from aforo_meter.redis_faults import redis_away

BATCH_ROWS_MAX = 500  # In one transaction: consumers wait for it.
SPAN_MICROS = 7 * 24 * HOUR_MICROS  # Of one tenant's rows, in memory at a time.
REDIS_TIMEOUT_S = 5.0


@dataclass(slots=True, kw_only=True)
class Rerated:
    """What was done, or would be."""

    effects: list[Effect] = field(default_factory=list)
    waiting: int = 0
    without: int = 0


class Rerating:
    """One run.

    Args:
        corrections: The ledger.
        contracts: Contracts and prices, as sync wrote them.
        order: Who wants it, and why; None: nothing is written, this is a preview.
    """

    def __init__(self, corrections: Corrections, contracts: Contracts, order: Order | None) -> None:
        self._corrections = corrections
        self._contracts = contracts
        self._order = order

    async def run(self, scope: Scope) -> Rerated:
        """Look through all rows in scope, and put right what is to be put right.

        Raises:
            CommandError: Prices can't be had, or contradict those that the ledger has used.
        """
        done = Rerated()
        tenants = await self._corrections.tenants(scope)
        progress = Progress("rerating" if self._order else "looking", len(tenants))
        try:
            for number, tenant_id in enumerate(tenants):
                progress.at(number, tenant_id)
                await self._tenant(replace(scope, tenant_id=tenant_id), done)
        except PriceConflictError as error:
            raise CommandError(str(error)) from error
        except TooLargeError as error:
            raise CommandError(f"{error}; its rows can't be rated again") from error
        finally:
            progress.end()
        return done

    async def _tenant(self, scope: Scope, done: Rerated) -> None:
        assert scope.tenant_id is not None
        terms = await known_terms(self._contracts, scope.tenant_id)
        hours = await self._corrections.hours(scope)
        before = await read_before(self._corrections, scope.tenant_id, terms)
        adjustments: list[Adjustment] = []
        for span in _spans(hours):
            choice, planned = await self._plan(replace(scope, hours=span))
            done.waiting += choice.waiting
            done.without += choice.without
            adjustments += planned if self._order is None else await self._apply(choice)
        done.effects += effects(before, adjustments)

    async def _plan(self, scope: Scope) -> tuple[Choice, list[Adjustment]]:
        """Return what is to be done, and what will come of it."""
        assert scope.tenant_id is not None
        rows, known = await self._corrections.rows(scope), await self._corrections.prices()
        choice = choose(rows, known, self._contracts.prices(scope.tenant_id))
        fresh = {
            price_id: Known.of(entry, self._currency) for price_id, entry in choice.entries.items()
        }
        contradicted = [
            price_id
            for price_id, one in fresh.items()
            if price_id in known and known[price_id].figures != one.figures
        ]
        if contradicted:
            raise PriceConflictError(contradicted)
        foreign = {known[key.price_id].currency for key in choice.to} - {self._currency}
        if foreign:
            raise CommandError(
                f"{scope.tenant_id!r} has charges in {', '.join(sorted(foreign))}, and prices are"
                f" in {self._currency} now: amounts of two currencies can't be set off; narrow"
                " --from and --to to the time after the change"
            )
        return choice, rerated(rows, choice.to, {**fresh, **known})

    async def _apply(self, choice: Choice) -> list[Adjustment]:
        assert self._order is not None
        written: list[Adjustment] = []
        for some in _batches(sorted(choice.to)):
            to = {key: choice.to[key] for key in some}
            entries = [choice.entries[one] for one in sorted({*to.values()} & {*choice.entries})]
            written += await self._corrections.rerate(to, entries, self._currency, self._order)
        return written

    @property
    def _currency(self) -> str:
        book = self._contracts.book
        assert book is not None, "know() needs the price book"
        return book.currency


async def known_terms(contracts: Contracts, tenant_id: str) -> Terms | None:
    """Read a tenant's terms, and the prices; return the former, if it has a contract.

    Raises:
        CommandError: They can't be had.
    """
    try:
        await contracts.know([(tenant_id, "")])
    except (NotSyncedError, UnreadableError) as error:
        raise CommandError(str(error)) from error
    except (RedisError, OSError) as error:
        raise redis_away(contracts.address, error) from error
    return contracts.terms(tenant_id)


@contextlib.asynccontextmanager
async def open_contracts(redis_url: str) -> AsyncIterator[Contracts]:
    redis = redis_client.connect(redis_url, timeout_s=REDIS_TIMEOUT_S)
    try:
        yield Contracts(redis)
    finally:
        await redis.aclose()


def _spans(hours: PeriodMicros | None) -> Iterator[PeriodMicros]:
    """Cut hours into spans: an hour's rows are never apart."""
    if hours is None:
        return
    for start in range(hours.start_micros, hours.end_micros, SPAN_MICROS):
        yield PeriodMicros(start, min(start + SPAN_MICROS, hours.end_micros))


def _batches(keys: Sequence[ChargeKey]) -> Iterator[Sequence[ChargeKey]]:
    waiting = iter(keys)
    while some := list(itertools.islice(waiting, BATCH_ROWS_MAX)):
        yield some
