"""What was decided for callers who did not wait: Envoy never used it, so it is not tallied."""

from collections.abc import Callable

from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from aforo_authz.domain.access import Outcome
from aforo_authz.tally import NOBODY, Tally


def taking_back(tally: Tally) -> Callable[[bytes], None]:
    """Return what takes an unheard answer out of the tally again.

    Envoy logs such a call without a decision: counted, it would be missing from the log for ever.
    """

    def take_back(answer: bytes) -> None:
        fields = CheckResponse.FromString(answer).dynamic_metadata.fields
        if "decision" not in fields:
            return  # Of the health service.
        told = {name: value.string_value for name, value in fields.items()}
        features = told.get("features", "")
        tally.take_back(
            tenant_id=told.get("tenant", NOBODY),
            features=tuple(features.split(",")) if features else (),
            outcome=Outcome(told["decision"]),
            hour_s=int(told["hour"]),
        )

    return take_back
