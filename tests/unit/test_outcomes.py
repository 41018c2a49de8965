"""What became of the work: the tables of HTTP and gRPC, row by row."""

import pytest

from aforo_meter.domain.outcomes import ExecutionStatus, execution_status

HTTP = {
    "SUCCESS": [200, 201, 204, 299, 301, 302, 304, 399],
    "TIMEOUT": [408, 504],
    "CANCELLED": [499],
    "VALIDATION_FAILED": [400, 422],
    "BLOCKED": [401, 403, 429],
    "ERROR": [402, 404, 405, 409, 410, 418, 451, 498, 500, 501, 502, 503, 505, 599],
    None: [0, 100, 101, 103, 199, 600, 999],
}
GRPC = {
    "SUCCESS": [0],
    "CANCELLED": [1],
    "VALIDATION_FAILED": [3, 9, 11],
    "TIMEOUT": [4],
    "BLOCKED": [7, 8, 16],
    "ERROR": [2, 5, 6, 10, 12, 13, 14, 15, 17, 99],
}


@pytest.mark.parametrize(
    ("status", "expected"), [(one, to) for to, statuses in HTTP.items() for one in statuses]
)
def test_http(status: int, expected: str | None) -> None:
    assert execution_status(status=status) == expected


@pytest.mark.parametrize(
    ("code", "expected"), [(one, to) for to, codes in GRPC.items() for one in codes]
)
def test_grpc_goes_before_http_whose_status_is_200_anyway(code: int, expected: str) -> None:
    assert execution_status(status=200, grpc_status=str(code)) == expected


@pytest.mark.parametrize("grpc_status", ["", "-1", "x", "1" * 11, "\u00b2"])
def test_what_is_no_status_of_grpc_is_not_asked(grpc_status: str) -> None:
    assert execution_status(status=504, grpc_status=grpc_status) is ExecutionStatus.TIMEOUT


def test_a_client_that_left_got_nothing_of_what_the_status_promised() -> None:
    assert execution_status(status=200, aborted=True) is ExecutionStatus.CANCELLED
    assert execution_status(status=0, aborted=True) is ExecutionStatus.CANCELLED


def test_whom_we_refuse_is_blocked_whatever_the_status_says() -> None:
    assert execution_status(status=200, grpc_status="14", blocked=True) is ExecutionStatus.BLOCKED
