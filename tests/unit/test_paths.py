"""Raw paths and their templates."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.domain import features
from aforo_meter.domain.paths import (
    CHARACTERS_MAX,
    RouteTemplate,
    Templates,
    pattern_of,
    plain_path,
    template_of,
)

UUID = "0f0e7fd2-51cb-4ef6-8e2c-f9ae7e0a0001"


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/v1/users/42", "/v1/users/:id"),
        ("/v1/users/42/orders/7", "/v1/users/:id/orders/:id"),
        (f"/v1/users/{UUID}", "/v1/users/:id"),
        (f"/v1/users/{UUID.upper()}/x", "/v1/users/:id/x"),
        (f"/v1/users/{UUID.replace('-', '')}", "/v1/users/:id"),
        ("/blobs/deadbeef", "/blobs/:id"),
        ("/blobs/0ddba11", "/blobs/:id"),
        ("/blobs/" + "a1" * 32, "/blobs/:id"),
        ("/batches/batch_689d1e2a3b4c", "/batches/:id"),
        ("/customers/cus_NffrFeUfNV2Hib", "/customers/:id"),
        ("/days/2026-11-26", "/days/:id"),
        ("/people/jane@example.com", "/people/:id"),
        ("/files/a%20b.pdf", "/files/:id"),
        ("/sessions/" + "x" * 41, "/sessions/:id"),
        ("/", "/"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1beta/models/gemini-2.5-flash:generateContent",) * 2,
        ("/oauth2/token", "/oauth2/token"),
        ("/package.Service/GetUserById", "/package.Service/GetUserById"),
        ("/feed/decade", "/feed/decade"),
        ("*", ""),
        ("", ""),
        ("/a" * 20, "/a" * 12 + "/**"),
    ],
)
def test_what_is_one_calls_own_is_left_out(path: str, template: str) -> None:
    assert template_of(path) == template


@given(st.text(max_size=3000), st.integers(0, 500))
def test_a_template_is_bounded_whatever_the_path_is(text: str, slashes: int) -> None:
    for path in (text, "/" + text, "/" + text.replace("a", "/"), "/x" * slashes + text):
        template = template_of(path)

        assert len(template) <= CHARACTERS_MAX
        assert not re.search(r"/\d+(/|$)", template)


@given(st.lists(st.sampled_from(["users", "42", UUID, "..", ";x", "v1", "a;b"]), max_size=8))
def test_a_template_of_a_template_is_the_same(segments: list[str]) -> None:
    once = template_of(plain_path("/" + "/".join(segments)))

    assert template_of(once) == once


@pytest.mark.parametrize(
    "path", ["/a?b", "/a;x=1/b", "/cheap/..;x/dear", "/a//b/;", "/a#b", "/.;/a"]
)
def test_paths_are_seen_as_the_decision_sees_them(path: str) -> None:
    assert plain_path(path) == features.plain_path(path)


@pytest.mark.parametrize("template", ["/", "/a", "/a/{b}", "/a/**", "/a/{b}/c", "/a.b/**"])
@given(st.lists(st.sampled_from(["a", "a.b", "c", "x", "", "\n"]), max_size=4))
def test_templates_match_as_in_the_decision(template: str, segments: list[str]) -> None:
    path = "/" + "/".join(segments)

    assert bool(pattern_of(template).fullmatch(path)) == bool(
        features.pattern_of(template).fullmatch(path)
    )


def test_the_catalogs_own_template_wins_and_the_first_of_several() -> None:
    templates = Templates(
        [
            RouteTemplate(methods=frozenset({"POST"}), path_template="/v1/batches/{batch}/run"),
            RouteTemplate(methods=frozenset(), path_template="/v1/batches/{id}/{action}"),
            RouteTemplate(methods=frozenset(), path_template="/files/**"),
        ]
    )

    def of(method: str, path: str) -> str:
        return templates.of(method=method, plain=path)

    assert of("POST", "/v1/batches/42/run") == "/v1/batches/{batch}/run"
    assert of("GET", "/v1/batches/42/run") == "/v1/batches/{id}/{action}"
    assert of("GET", "/files/secret/name.pdf") == "/files/**"
    assert of("GET", "/v1/users/42") == "/v1/users/:id"
