"""The shipped Envoy configuration: whom it believes, where it sends a request, what it asks."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.envoy_lab import EnvoyLab, authz_metadata, envoy_lab, http_filters

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

CHAT = "/v1/chat/completions"
COMPLETION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[EnvoyLab]:
    async with envoy_lab() as lab:
        yield lab


@pytest.fixture
def lab(running: EnvoyLab) -> EnvoyLab:
    running.forget()
    return running


# --- Whom it believes -----------------------------------------------------------------------


async def test_no_client_can_speak_with_aforos_voice(lab: EnvoyLab) -> None:
    spoofed = [
        ("x-aforo-tenant", "other"),
        ("X-Aforo-Tenant", "another"),
        ("X-AFORO-DECISION", "allow"),
        ("x-AFORO-throttle", "true"),
        ("x-aforo-quantity", "1"),
        ("x-aforo-anything", "1"),
        ("X-Envoy-Auth-Failure-Mode-Allowed", "true"),
        ("X-Envoy-Auth-Partial-Body", "false"),
    ]
    answer = await lab.client.send("GET", "/echo", headers=spoofed)

    (check,) = lab.authz.requests
    assert not _own(check.attributes.request.http.headers)
    seen = answer.json()["headers"]
    assert sorted(_own(name for name, _ in seen)) == [
        "x-aforo-decision",
        "x-aforo-features",
        "x-aforo-subscription",
        "x-aforo-tenant",
    ]
    assert dict(seen)["x-aforo-tenant"] == "acme"


async def test_no_client_can_speak_with_aforos_voice_when_nobody_is_asked(lab: EnvoyLab) -> None:
    headers = {"X-Aforo-Tenant": "other", "x-lab-outcome": "abort"}
    answer = await lab.client.get("/echo", headers=headers)

    assert answer.status == 200
    assert _own(name for name, _ in answer.json()["headers"]) == [
        "x-envoy-auth-failure-mode-allowed"
    ]


@pytest.mark.parametrize("name", ["x_aforo_tenant", "X_Aforo-Throttle", "x-aforo_decision"])
async def test_an_underscore_is_not_taken_for_a_dash(lab: EnvoyLab, name: str) -> None:
    answer = await lab.client.get("/echo", headers={name: "other"})

    assert answer.status == 400
    assert not lab.authz.requests
    assert not lab.api.last


async def test_what_an_upstream_says_in_aforos_name_stays_inside(lab: EnvoyLab) -> None:
    said = {
        "x-aforo-decision": "block",
        "X-Aforo-Tenant": "secret",
        "x-aforo-throttle": "true",
        "x-aforo-stale": "true",
        "x-margin-guard-level": "L3",
    }
    for outcome in ("allow", "abort"):
        headers = {"x-lab-outcome": outcome, "x-lab-response-headers": json.dumps(said)}
        answer = await lab.client.get("/echo", headers=headers)

        decisions = [value for name, value in answer.headers if name == "x-aforo-decision"]
        assert decisions == (["allow"] if outcome == "allow" else [])
        for name in ("x-aforo-tenant", "x-aforo-throttle", "x-aforo-stale", "x-margin-guard-level"):
            assert answer.header(name) is None


async def test_what_an_upstream_reports_of_its_usage_is_logged(lab: EnvoyLab) -> None:
    path = lab.unique("/echo")
    said = {"x-aforo-metric": "pages.rendered", "x-aforo-quantity": "12"}
    await lab.client.get(path, headers={"x-lab-response-headers": json.dumps(said)})

    entry = await lab.log.entry(path)
    assert {name: entry.response.response_headers[name] for name in said} == said


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("/a/../echo", "/echo"),
        ("/a/%2e%2e/echo", "/echo"),
        ("//echo", "/echo"),
        ("/v1//chat/./completions", CHAT),
    ],
)
async def test_check_and_upstream_see_the_same_plain_path(
    lab: EnvoyLab, sent: str, seen: str
) -> None:
    await lab.client.get(sent)

    (check,) = lab.authz.requests
    assert check.attributes.request.http.path == seen
    ((upstream, last),) = [(one, one.last[-1]) for one in (lab.api, lab.premium) if one.last]
    assert last.target == seen
    assert upstream is (lab.premium if seen == CHAT else lab.api)


@pytest.mark.parametrize("path", ["/v1%2Fchat/completions", "/a%5Cecho", "/echo%00"])
async def test_a_path_that_could_be_read_in_two_ways_is_refused(lab: EnvoyLab, path: str) -> None:
    answer = await lab.client.get(path)

    assert answer.status == 400
    assert not lab.authz.requests


async def test_the_check_gets_every_credential_but_no_cookie(lab: EnvoyLab) -> None:
    headers = {"authorization": "Bearer key", "x-api-key": "key", "cookie": "session=1"}
    answer = await lab.client.get("/echo", headers=headers)

    (check,) = lab.authz.requests
    asked = check.attributes.request.http.headers
    assert asked["authorization"] == "Bearer key"
    assert asked["x-api-key"] == "key"
    assert "cookie" not in asked
    assert dict(answer.json()["headers"])["cookie"] == "session=1"


async def test_the_check_gets_the_claims_of_a_verified_token() -> None:
    """A stand-in sets what Envoy's JWT filter would have set, in that filter's namespace."""
    claims = {
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [
                {
                    "metadata_namespace": "envoy.filters.http.jwt_authn",
                    "value": {"jwt_payload": {"sub": "acme"}},
                }
            ],
        },
    }
    async with envoy_lab(edit=lambda document: http_filters(document).insert(0, claims)) as lab:
        await lab.client.get("/echo")

        (check,) = lab.authz.requests
        told = check.attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]
        assert told["jwt_payload"]["sub"] == "acme"


# --- Where it sends a request ---------------------------------------------------------------


async def test_health_is_answered_without_a_check_an_upstream_or_a_log_entry(
    lab: EnvoyLab,
) -> None:
    answer = await lab.client.get("/healthz")
    path = lab.unique("/echo")
    await lab.client.get(path)
    await lab.log.entry(path)

    assert (answer.status, answer.text) == (200, "ok\n")
    assert [entry.request.path for entry in lab.log.entries] == [path]
    assert len(lab.authz.requests) == 1


@pytest.mark.parametrize(
    ("path", "provider"),
    [(CHAT, "openai"), ("/v1/responses", "openai"), ("/v1/messages", "anthropic")],
)
async def test_the_check_learns_the_provider_from_the_route(
    lab: EnvoyLab, path: str, provider: str
) -> None:
    await lab.client.post(path, COMPLETION)

    (check,) = lab.authz.requests
    assert dict(check.attributes.context_extensions) == {"aforo.provider": provider}


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_throttled_call_goes_to_the_cheaper_upstream(
    lab: EnvoyLab, path: str, *, stream: bool
) -> None:
    unique = lab.unique(path)
    headers = {"x-lab-outcome": "throttle"}
    answer = await lab.client.post(unique, COMPLETION | {"stream": stream}, headers=headers)

    assert answer.status == 200
    assert answer.header("x-aforo-throttle") == "true"
    assert not lab.premium.last
    (reached,) = lab.economy.last
    assert reached.header("x-aforo-throttle") == "true"
    assert reached.header("x-aforo-tenant") == "acme"
    assert len(lab.authz.requests) == 1, "the new route must not be checked a second time"
    entry = await lab.log.entry(unique)
    assert entry.common_properties.upstream_cluster == "llm_economy"
    assert entry.request.request_headers["x-aforo-throttle"] == "true"
    assert authz_metadata(entry)["decision"] == "throttle"


@pytest.mark.parametrize("outcome", ["allow", "abort"])
async def test_no_client_can_choose_the_cheaper_upstream(lab: EnvoyLab, outcome: str) -> None:
    headers = {"X-Aforo-Throttle": "true", "x-lab-outcome": outcome}
    answer = await lab.client.post(CHAT, COMPLETION, headers=headers)

    assert answer.status == 200
    assert len(lab.premium.last) == 1
    assert not lab.economy.last


async def test_a_throttled_call_without_a_cheaper_route_goes_where_it_always_went(
    lab: EnvoyLab,
) -> None:
    answer = await lab.client.get("/echo", headers={"x-lab-outcome": "throttle"})

    assert answer.header("x-aforo-throttle") == "true"
    assert dict(answer.json()["headers"])["x-aforo-throttle"] == "true"
    assert len(lab.api.last) == 1


async def test_aforo_can_be_reached_over_tcp_as_well() -> None:
    async with envoy_lab(tcp=True) as lab:
        path = lab.unique("/echo")
        answer = await lab.client.get(path)

        assert answer.header("x-aforo-decision") == "allow"
        assert authz_metadata(await lab.log.entry(path))["tenant"] == "acme"


def _own(names: Any) -> list[str]:  # noqa: ANN401 - any iterable, Envoy's maps are untyped
    """Return those names that only Aforo and Envoy's check may use."""
    return [name for name in names if name.startswith(("x-aforo-", "x-envoy-auth-"))]
