"""What became of the work itself, by the status that the caller got. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class ExecutionStatus(StrEnum):
    """As clients of ingest tell it; at the gateway it follows from status codes."""

    SUCCESS = "SUCCESS"
    PARTIAL = "PARTIAL"
    TIMEOUT = "TIMEOUT"
    ERROR = "ERROR"
    VALIDATION_FAILED = "VALIDATION_FAILED"
    FAILED = "FAILED"
    FAILURE = "FAILURE"
    CANCELLED = "CANCELLED"
    PENDING = "PENDING"
    BLOCKED = "BLOCKED"
    HITL_REQUIRED = "HITL_REQUIRED"


HTTP: Final[Mapping[int, ExecutionStatus]] = {
    400: ExecutionStatus.VALIDATION_FAILED,
    401: ExecutionStatus.BLOCKED,
    403: ExecutionStatus.BLOCKED,
    408: ExecutionStatus.TIMEOUT,
    422: ExecutionStatus.VALIDATION_FAILED,
    429: ExecutionStatus.BLOCKED,
    499: ExecutionStatus.CANCELLED,
    504: ExecutionStatus.TIMEOUT,
}
HTTP_BY_HUNDRED: Final[Mapping[int, ExecutionStatus]] = {
    2: ExecutionStatus.SUCCESS,
    3: ExecutionStatus.SUCCESS,
    4: ExecutionStatus.ERROR,
    5: ExecutionStatus.ERROR,
}
# By grpc-status; any other code is an error.
GRPC: Final[Mapping[int, ExecutionStatus]] = {
    0: ExecutionStatus.SUCCESS,
    1: ExecutionStatus.CANCELLED,
    3: ExecutionStatus.VALIDATION_FAILED,
    4: ExecutionStatus.TIMEOUT,
    7: ExecutionStatus.BLOCKED,
    8: ExecutionStatus.BLOCKED,
    9: ExecutionStatus.VALIDATION_FAILED,
    11: ExecutionStatus.VALIDATION_FAILED,
    16: ExecutionStatus.BLOCKED,
}
GRPC_DIGITS_MAX: Final = 10


def execution_status(
    *,
    status: int,
    grpc_status: str = "",
    blocked: bool = False,
    aborted: bool = False,
    timed_out: bool = False,
) -> ExecutionStatus | None:
    """Return what became of a call; None where nothing is known.

    Args:
        status: Of HTTP; 0 if none was sent.
        grpc_status: As it stands in the header or the trailer. It goes before the status of HTTP,
            which is 200 for refused and failed calls too.
        blocked: We refused it, whatever the status was.
        aborted: The client left before the end: nobody got what the status promised.
        timed_out: A limit of the gateway's ended the answer, with the same effect.
    """
    if blocked:
        return ExecutionStatus.BLOCKED
    if aborted:
        return ExecutionStatus.CANCELLED
    if timed_out:
        return ExecutionStatus.TIMEOUT
    if grpc_status.isdecimal() and len(grpc_status) <= GRPC_DIGITS_MAX:
        return GRPC.get(int(grpc_status), ExecutionStatus.ERROR)
    return HTTP.get(status) or HTTP_BY_HUNDRED.get(status // 100)
