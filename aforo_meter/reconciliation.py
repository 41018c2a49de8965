"""What consume does besides charging: compares decided calls with logged ones, ends sessions.

An hour is judged once it is over, its grace has passed, and the partition of the tenant is in the
ledger until then: a consumer that lags must not take for lost what it has not read. Each consumer
judges, and counts, the tenants of its own partitions.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis

from aforo_meter.alerts import completeness_alert
from aforo_meter.completeness import Completeness
from aforo_meter.decisions import Decisions
from aforo_meter.domain.completeness import Score, closed_before, total
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.sessions import Sessions
from aforo_meter.settings_consume import ConsumeSettings

SECOND_MICROS: Final = 1_000_000
DAY_MICROS: Final = 24 * HOUR_MICROS
HOURS_WATCHED: Final = 24
ROWS_MAX: Final = 5000  # Of each kind, in one transaction.
TURNS_MAX: Final = 100  # At each look: 500,000 of each kind.

DECIDED = Counter(
    "aforo_consume_decided_totals_total", "Totals of decisions that had grown and were kept."
)
SCORE = Gauge(
    "aforo_completeness_ratio",
    "Logged to decided calls of the last 24 hours that are closed, and read to their end by this"
    " consumer: of all, and of the worst tenant's hour.",
    ["of"],
)
MISSING = Gauge("aforo_completeness_missing_calls", "Decided and not logged in these hours.")
ALERTS = Counter("aforo_completeness_alerts_total", "Hours of a tenant that are incomplete.")
IDLE = Counter("aforo_consume_idle_sessions_total", "Sessions that ended because of silence.")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator wants."""

    grace_micros: int
    threshold_bp: int
    keep_days: int
    idle_micros: int
    session_days: int


def rules_of(settings: ConsumeSettings) -> Rules:
    return Rules(
        grace_micros=settings.completeness_grace_s * 1_000_000,
        threshold_bp=settings.completeness_threshold_bp,
        keep_days=settings.completeness_days,
        idle_micros=settings.session_idle_s * 1_000_000,
        session_days=settings.session_days,
    )


class Reconciliation:
    """Lives in one event loop; several consumers may do all of it at once.

    Args:
        settled_until: Until when a tenant's usage is known to be in the ledger, Unix time; None if
            its partition is another consumer's, who judges it.
    """

    def __init__(
        self,
        redis: Redis,
        completeness: Completeness,
        sessions: Sessions,
        rules: Rules,
        *,
        settled_until: Callable[[str], int | None],
        now_micros: Callable[[], int],
    ) -> None:
        self._decisions = Decisions(redis, completeness)
        self._completeness = completeness
        self._sessions = sessions
        self._rules = rules
        self._settled_until = settled_until
        self._now_micros = now_micros

    async def keep(self) -> None:
        """Keep what was decided.

        Raises:
            RedisError, OSError, LedgerUnavailableError: It is kept with the next look.
        """
        DECIDED.inc(await self._decisions.keep(now_micros=self._now_micros()))

    async def judge(self) -> None:
        """Score the hours that are closed and read; leave an alert for each that is too low.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        now = self._now_micros()
        end = closed_before(now, self._rules.grace_micros)
        scores: list[Score] = []
        for back in range(HOURS_WATCHED, 0, -1):
            # One at a time: publishing asks the ledger on the same thread, and takes turns.
            start = end - back * HOUR_MICROS
            scores += await self._completeness.tenant_hours(
                PeriodMicros(start, start + HOUR_MICROS)
            )
        settled = [score for score in scores if self._is_settled(score)]
        _show(settled)
        for score in settled:
            # Nobody is told of calls of nobody: they are in the figures, and have no tenant.
            if score.tenant_id and score.is_below(self._rules.threshold_bp):
                await self._tell(score, now)

    async def tidy(self) -> None:
        """End sessions of which nothing is heard; forget what was kept long enough.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        now, rules = self._now_micros(), self._rules
        silent_since = now - rules.idle_micros
        ended = await _in_turns(
            self._sessions.end_idle, silent_since_micros=silent_since, rows_max=ROWS_MAX
        )
        IDLE.inc(ended)
        last_seen = now - rules.session_days * DAY_MICROS
        await _in_turns(self._sessions.prune, last_seen_before_micros=last_seen, rows_max=ROWS_MAX)
        kept_from = now - rules.keep_days * DAY_MICROS
        await _in_turns(self._completeness.prune, before_micros=kept_from, rows_max=ROWS_MAX)

    def _is_settled(self, score: Score) -> bool:
        settled_micros = self._settled_until(score.tenant_id)
        due_micros = score.hour_start_micros + HOUR_MICROS + self._rules.grace_micros
        return settled_micros is not None and settled_micros >= due_micros

    async def _tell(self, score: Score, now_micros: int) -> None:
        alert = completeness_alert(
            score, threshold_bp=self._rules.threshold_bp, now_micros=now_micros
        )
        if await self._completeness.leave(score.tenant_id, alert, now_micros=now_micros):
            ALERTS.inc()
            log.error(
                "calls were decided and not logged; see `aforo-meter completeness`",
                tenant=score.tenant_id,
                hour_start_micros=score.hour_start_micros,
                decided=score.decided,
                missing=score.missing,
                score_bp=score.score_bp,
            )


def _show(scores: Sequence[Score]) -> None:
    whole = total(scores)
    lowest_bp = min((s.score_bp for s in scores if s.score_bp is not None), default=None)
    for label, score_bp in (("all", whole.score_bp), ("lowest", lowest_bp)):
        # Nothing decided, nothing lost.
        SCORE.labels(label).set(1.0 if score_bp is None else score_bp / 10_000)
    MISSING.set(whole.missing)


async def _in_turns(work: Callable[..., Awaitable[int]], **given: int) -> int:
    """Repeat while there is more: each turn is a transaction, and others write between two."""
    done = 0
    for _ in range(TURNS_MAX):
        found = await work(**given)
        done += found
        if found < given["rows_max"]:
            break
    return done
