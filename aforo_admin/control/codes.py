"""What codes of decisions and of the record mean, in plain words: one table for pages and commands.

A code is what programs, logs and callers get. A code that is not here is shown as it is.
"""

from typing import Final

from aforo_admin.control.recording import Source
from aforo_authz.domain.access import Reason
from aforo_meter import alerts

REASONS: Final[dict[str, str]] = {
    Reason.UNAUTHENTICATED: "no credential shown",
    Reason.UNKNOWN_CREDENTIAL: "credential not known",
    Reason.CREDENTIAL_REVOKED: "credential revoked or expired",
    Reason.SUBSCRIPTION_INACTIVE: "no active subscription",
    Reason.FEATURE_NOT_ENTITLED: "feature not in the plan",
    Reason.MARGIN_LIMIT_EXCEEDED: "margin below the block floor",
    Reason.QUOTA_EXCEEDED: "quota used up",
    Reason.MARGIN_THROTTLE: "margin below the throttle floor",
    Reason.ALLOWED: "nothing against it",
}
SOURCES: Final[dict[str, str]] = {
    Source.UI: "admin page",
    Source.REST: "REST",
    Source.YAML: "catalog file",
    Source.SHELL: "shell",
}
ALERTS: Final[dict[str, str]] = {
    alerts.LEVEL_CHANGED: "level changed",
    alerts.QUOTA_REACHED: "quota reached",
    alerts.USAGE_UNPRICED: "usage without a price",
    alerts.PRICE_CHANGED: "price changed",
    alerts.COMPLETENESS_LOW: "calls missing from the log",
    alerts.SYNC_STALE: "catalog not synced",
    alerts.TEST: "a try",
}


def reason(code: str) -> str:
    """Return why a call was decided so."""
    return REASONS.get(code, code)


def source(code: str) -> str:
    """Return by which way a change came."""
    return SOURCES.get(code, code)


def alert(code: str) -> str:
    """Return what an alert of a kind says."""
    return ALERTS.get(code, code)
