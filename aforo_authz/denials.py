"""What a caller reads when refused: status, title and code per reason, and the problem document."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from aforo_authz.domain.access import Decision, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """How one reason is told to the caller. `code` is stable: programs rely on it."""

    status: int  # HTTP
    title: str
    code: str
    detail: str


DENIALS: Mapping[Reason, Denial] = {
    Reason.UNAUTHENTICATED: Denial(
        status=401,
        title="Authentication Required",
        code="UNAUTHENTICATED",
        detail="Send your API key in the header x-api-key, or as Authorization: Bearer.",
    ),
    Reason.UNKNOWN_CREDENTIAL: Denial(
        status=401,
        title="Unknown Credential",
        code="UNKNOWN_CREDENTIAL",
        detail="The credential is not known here. Check it, or ask for a new one.",
    ),
    Reason.CREDENTIAL_REVOKED: Denial(
        status=401,
        title="Credential Revoked",
        code="CREDENTIAL_REVOKED",
        detail="The credential was revoked or has expired. Use another one.",
    ),
    Reason.SUBSCRIPTION_INACTIVE: Denial(
        status=402,
        title="Subscription Inactive",
        code="SUBSCRIPTION_INACTIVE",
        detail="There is no active subscription for this credential.",
    ),
    Reason.FEATURE_NOT_ENTITLED: Denial(
        status=403,
        title="Feature Not Entitled",
        code="FEATURE_NOT_ENTITLED",
        detail="Your plan does not include what this call needs.",
    ),
    Reason.MARGIN_LIMIT_EXCEEDED: Denial(
        status=429,
        title="Margin Limit Exceeded",
        code="SERVICE_RESTRICTED_MARGIN",
        detail="The service is restricted for this contract. Contact your account manager.",
    ),
    Reason.QUOTA_EXCEEDED: Denial(
        status=429,
        title="Quota Exceeded",
        code="QUOTA_EXCEEDED",
        detail="The quota of your plan is used up. See Retry-After and RateLimit.",
    ),
}


def problem(denial: Denial, decision: Decision, decision_id: str) -> str:
    """Return the body, application/problem+json (RFC 9457). It holds no figure of money."""
    document = {
        "type": f"urn:aforo:problem:{decision.reason}",
        "title": denial.title,
        "status": denial.status,
        "detail": denial.detail,
        "code": denial.code,
        "decision_id": decision_id,
    }
    if decision.retry_after_s is not None:
        document["retry_after_s"] = decision.retry_after_s
    return json.dumps(document)
