"""What Envoy makes of each outcome of an authorization server: the ground that Aforo stands on.

Row by row for both values of `failure_mode_allow`. Two of them surprise: a denial without a
status lets the request through, and a status UNAVAILABLE inside an answer is a denial that
`failure_mode_allow` does not soften.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.envoy_lab import EnvoyLab, authz_metadata, envoy_lab, ext_authz

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

TOO_SLOW_S = 2.0  # Longer than is shipped: a busy machine may be late with the other outcomes.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def closed() -> AsyncIterator[EnvoyLab]:
    """The shipped configuration, but with `failure_mode_allow: false`."""

    def edit(document: dict[str, Any]) -> None:
        ext_authz(document)["failure_mode_allow"] = False

    async with envoy_lab(edit=edit, check_s=TOO_SLOW_S) as lab:
        yield lab


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_() -> AsyncIterator[EnvoyLab]:
    """The configuration as it is shipped: `failure_mode_allow: true`."""
    async with envoy_lab(check_s=TOO_SLOW_S) as lab:
        yield lab


@pytest.mark.parametrize(
    ("outcome", "status_closed", "status_open"),
    [
        ("bare-ok", 200, 200),
        ("deny", 429, 429),
        ("deny-without-status", 200, 200),
        ("unavailable-in-body", 403, 403),
        ("abort", 503, 200),
        ("raise", 503, 200),
        ("too-slow", 503, 200),
    ],
)
async def test_what_the_caller_gets_for_each_outcome(
    closed: EnvoyLab, open_: EnvoyLab, outcome: str, status_closed: int, status_open: int
) -> None:
    for lab, status in ((closed, status_closed), (open_, status_open)):
        lab.forget()
        answer = await lab.client.get("/echo", headers={"x-lab-outcome": outcome})

        assert answer.status == status
        assert len(lab.api.last) == (1 if status == 200 else 0)


async def test_a_denial_reaches_the_caller_as_it_was_written(open_: EnvoyLab) -> None:
    path = open_.unique("/echo")
    answer = await open_.client.get(path, headers={"x-lab-outcome": "deny"})

    assert answer.json() == {"title": "Margin Limit Exceeded"}
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("retry-after") == "60"
    assert answer.header("x-aforo-decision") == "block"
    entry = await open_.log.entry(path)
    assert entry.response.response_code_details == "ext_authz_denied"
    assert authz_metadata(entry)["decision"] == "block"


@pytest.mark.parametrize("outcome", ["abort", "raise", "too-slow"])
async def test_a_request_that_passed_unchecked_is_marked_for_upstream_and_log(
    open_: EnvoyLab, outcome: str
) -> None:
    path = open_.unique("/echo")
    answer = await open_.client.get(path, headers={"x-lab-outcome": outcome})

    assert dict(answer.json()["headers"])["x-envoy-auth-failure-mode-allowed"] == "true"
    entry = await open_.log.entry(path)
    assert entry.request.request_headers["x-envoy-auth-failure-mode-allowed"] == "true"
    assert not authz_metadata(entry)


@pytest.mark.parametrize("outcome", ["abort", "raise", "too-slow"])
async def test_a_request_refused_for_want_of_an_answer_is_logged_as_an_error(
    closed: EnvoyLab, outcome: str
) -> None:
    path = closed.unique("/echo")
    await closed.client.get(path, headers={"x-lab-outcome": outcome})

    entry = await closed.log.entry(path)
    assert entry.response.response_code_details == "ext_authz_error"
    assert not authz_metadata(entry)


async def test_a_header_that_is_no_header_refuses_even_where_failures_are_allowed(
    closed: EnvoyLab, open_: EnvoyLab
) -> None:
    """`validate_mutations`: a mistake of ours must not smuggle a second header."""
    for lab in (closed, open_):
        answer = await lab.client.get("/echo", headers={"x-lab-outcome": "invalid-header"})

        assert answer.status == 500


async def test_the_check_may_set_aforos_headers_and_nothing_else(open_: EnvoyLab) -> None:
    answer = await open_.client.get("/echo", headers={"x-lab-outcome": "overreach"})

    seen = answer.json()
    assert seen["target"] == "/echo"
    names = {name for name, _ in seen["headers"]}
    assert "x-other" not in names
    assert dict(seen["headers"])["host"] != "elsewhere.example"
    assert dict(seen["headers"])["x-aforo-tenant"] == "acme"
