"""Thresholds and guards, in the domain's words → the messages of aforo_proto."""

import functools
from dataclasses import asdict

from aforo_admin.domain import catalog as said
from aforo_admin.domain.entitling import GuardInForce
from aforo_proto.contract_pb2 import Guard, Thresholds


# Most tenants of a plan have the same: one message for all, which nobody changes.
@functools.lru_cache(maxsize=1024)
def thresholds(given: said.Thresholds, *, source: str) -> Thresholds:
    # What is None is left out: protobuf takes it as absent.
    return Thresholds(**asdict(given), source=source)


@functools.lru_cache(maxsize=1024)
def guard(given: GuardInForce) -> Guard:
    own = given.guard
    message = Guard(
        guard_id=own.guard_id,
        features=sorted(own.features),
        meters=own.meters,
        thresholds=thresholds(given.thresholds, source=given.thresholds_source),
    )
    if own.revenue_nanos is not None:
        message.revenue_nanos = own.revenue_nanos
    else:
        message.revenue_share_bp = own.revenue_share_bp or 0
    return message
