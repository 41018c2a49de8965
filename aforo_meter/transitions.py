"""Says in the log and in numbers that a tenant's level has changed."""

from collections.abc import Iterable

import structlog

from aforo_meter import consume_metrics as metrics
from aforo_meter.ledger import Transition

log = structlog.get_logger()


def log_transitions(transitions: Iterable[Transition]) -> None:
    for transition in transitions:
        watch, after = transition.watch, transition.after
        metrics.TRANSITIONS.labels(after.level.name.lower()).inc()
        ratio = after.gross_margin_ratio
        log.info(
            "margin level changed",
            tenant=watch.tenant_id,
            subscription=watch.subscription_id,
            guard=transition.guard.guard_id if transition.guard is not None else None,
            before=transition.before.name.lower(),
            after=after.level.name.lower(),
            gross_margin_ratio=None if ratio is None else str(ratio),
            revenue_nanos=after.revenue_nanos,
            cogs_nanos=after.cogs_nanos,
            thresholds=transition.thresholds.source,
        )
