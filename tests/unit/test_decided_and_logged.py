"""A decision and what the log tells of its call: counted under the same tenant, hour and outcome.

Where that differs, completeness shows a loss that never was beside a surplus.
"""

import itertools

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from google.protobuf.json_format import MessageToDict

from aforo_authz.check import Call, to_check_response
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import PASSING, Decision, Reason, _conclude
from aforo_authz.domain.features import Needs
from aforo_authz.tally import NOBODY, Tally
from aforo_meter.domain.rating import LoggedKey
from aforo_meter.wire import usage_of
from tests.authz_samples import make_credential, make_policy
from tests.unit.test_access_log import make_entry, read_event

NOW = 1_795_000_000_000_000
CALL = Call(
    presented=None, method="GET", path="/", route_features=None, provider="", spoofed_headers=()
)
# Whom `decide` refuses before it looks at a policy: no plan's shadow mode lets them pass.
OF_NOBODY = frozenset({Reason.UNAUTHENTICATED, Reason.UNKNOWN_CREDENTIAL})
OF_THE_CALLER = OF_NOBODY | {Reason.CREDENTIAL_REVOKED, Reason.SUBSCRIPTION_INACTIVE}


def decision_of(found: Reason, *, plan_shadow: bool) -> Decision:
    needs = Needs(features=("api", "chat"))
    if found in OF_THE_CALLER:
        credential = None if found in OF_NOBODY else make_credential()
        return Decision(reason=found, needs=needs, credential=credential)
    policy = make_policy(shadow=plan_shadow)
    reason, shadow_reason, _ = _conclude(found, policy, (), NOW)
    return Decision(reason=reason, needs=needs, policy=policy, shadow_reason=shadow_reason)


def decided_under(decision: Decision) -> LoggedKey:
    tally = Tally()
    tally.count(decision, NOW)
    tally.gather()
    (total,) = tally.take(1)
    tenant_id = "" if total.tenant_id == NOBODY else total.tenant_id
    features = ",".join(total.features)
    return LoggedKey(total.hour_s * 1_000_000, tenant_id, features, total.outcome)


def logged_under(decision: Decision, *, envoy_shadow: bool) -> LoggedKey | None:
    """Return what the ledger makes of the call's entry, by way of Envoy's access log."""
    answer = CheckResponse.FromString(
        to_check_response(decision, CALL, decision_id="d" * 32, now_micros=NOW, denials=DENIALS)
    )
    refused = decision.reason not in PASSING and not envoy_shadow
    entry = make_entry(
        said=MessageToDict(answer.dynamic_metadata),
        details="ext_authz_denied" if refused else "via_upstream",
        status=403 if refused else 200,
    )
    event = read_event(entry)
    event.source = "envoy:edge"
    return usage_of(event.SerializeToString()).logged


@pytest.mark.parametrize(
    ("found", "plan_shadow", "envoy_shadow"),
    list(itertools.product(Reason, (False, True), (False, True))),
)
def test_a_call_is_logged_under_what_was_decided_in_every_shadow_mode(
    found: Reason,
    plan_shadow: bool,  # noqa: FBT001
    envoy_shadow: bool,  # noqa: FBT001
) -> None:
    decision = decision_of(found, plan_shadow=plan_shadow)

    assert logged_under(decision, envoy_shadow=envoy_shadow) == decided_under(decision)
