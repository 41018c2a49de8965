import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.domain.features import (
    PATH_CHARS_MAX,
    Rule,
    Rules,
    TemplateError,
    pattern_of,
    plain_path,
)


def rule(template: str, *features: str, methods: str = "", weight_units: int = 1) -> Rule:
    return Rule(
        methods=frozenset(methods.split()),
        path_template=template,
        features=features,
        weight_units=weight_units,
    )


def needed(path: str, *rules: Rule, method: str = "GET") -> tuple[str, ...] | None:
    """Return the features; None where neither a rule nor the default allows the call."""
    needs = Rules(rules).needs_of(method=method, path=path)
    return needs.features if needs.known else None


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/v1/chat", "/v1/chat"),
        ("/v1/chat", "/v1/chat/"),
        ("/v1/chat", "/v1/chat?stream=true"),
        ("/v1/chat", "/v1/chat?a=/b/../c;d#e"),
        ("/v1/chat", "/v1/chat#fragment"),
        ("/v1/chat", "/v1/chat;x=1"),
        ("/v1/chat", "/v1;a=b/chat;x=1;y=2?q"),
        ("/v1/chat", "/v1/chat/;x"),
        ("/v1/chat", "/;x/v1/.;y/chat"),
        ("/v1/chat", "/v1/other/..;x/chat"),
        ("/v1/chat", "/..;x/v1/chat"),
        ("/v1/chat/", "/v1/chat"),
        ("/v1//chat", "/v1/chat"),
        ("/files/{id}", "/files/7"),
        ("/files/{id}/parts/{part}", "/files/7/parts/%20"),
        ("/files/**", "/files"),
        ("/files/**", "/files/"),
        ("/files/**", "/files/a/b//c"),
        ("/files/{id}/**", "/files/7"),
        ("/**", "/"),
        ("/**", "/anything/at/all"),
        ("/", "/"),
        ("/a.b+c", "/a.b+c"),
        ("/line", "/line?\n"),
    ],
)
def test_a_template_matches(template: str, path: str) -> None:
    assert needed(path, rule(template, "f")) == ("f",)


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/v1/chat", "/v1/chatter"),
        ("/v1/chat", "/v1/chat/completions"),
        ("/v1/chat", "/V1/chat"),
        ("/v1/chat", "/v1/chat//"),
        ("/v1/chat", "v1/chat"),
        ("/v1/chat", ""),
        ("/v1/chat", "/x/v1/chat"),
        ("/v1/chat", "/v1/chat\n"),
        ("/files/{id}", "/files/"),
        ("/files/{id}", "/files"),
        ("/files/{id}", "/files/7/8"),
        ("/files/**", "/filesystem"),
        ("/files/**", "/files/7/..;x/..;y/admin"),
        ("/a.b+c", "/aXbbc"),
        ("/", "/x"),
    ],
)
def test_a_template_does_not_match(template: str, path: str) -> None:
    assert needed(path, rule(template, "f")) is None


@pytest.mark.parametrize(
    "template", ["v1", "", "/a/**/b", "/a*", "/a/{b", "/a/b}", "/{a}{b}", "/{a}b", "/{a*}", "/***"]
)
def test_a_template_that_is_ambiguous_is_refused_with_its_text(template: str) -> None:
    with pytest.raises(TemplateError, match="path template"):
        pattern_of(template)


def test_the_first_rule_that_matches_wins() -> None:
    rules = (rule("/v1/chat", "first"), rule("/v1/**", "second"))

    assert needed("/v1/chat", *rules) == ("first",)
    assert needed("/v1/chat", *reversed(rules)) == ("second",)


def test_a_rule_may_be_of_some_methods_only() -> None:
    rules = (rule("/files", "write", methods="POST PUT"), rule("/files", "read"))

    assert needed("/files", *rules, method="PUT") == ("write",)
    assert needed("/files", *rules, method="GET") == ("read",)


def test_what_no_rule_names_is_refused_unless_the_default_allows_it() -> None:
    assert not Rules([rule("/a", "f")]).needs_of(method="GET", path="/b").known
    allowed = Rules([rule("/a", "f")], default_allows=True).needs_of(method="GET", path="/b")
    assert allowed.known
    assert allowed.features == ()


def test_features_are_sorted_and_once() -> None:
    assert needed("/a", rule("/a", "z", "a", "z")) == ("a", "z")


def test_a_rule_says_how_heavy_a_call_is() -> None:
    rules = Rules([rule("/a", "f", weight_units=5)])

    assert rules.needs_of(method="GET", path="/a").weight_units == 5


@pytest.mark.parametrize("filling", ["a", ";", "/"])
def test_a_path_of_absurd_length_is_refused_even_where_the_default_allows(filling: str) -> None:
    long = "/" + filling * PATH_CHARS_MAX
    rules = Rules([rule("/dear/**", "f")], default_allows=True)

    assert not rules.needs_of(method="GET", path=long).known
    assert rules.needs_of(method="GET", path=long[:-1]).known
    assert rules.needs_of(method="GET", path=f"/dear?{long}").features == ("f",)
    assert rules.position_of(method="GET", path="/dear" + long) is None


segments = st.text(st.characters(blacklist_characters="/;?#", min_codepoint=33), min_size=1).filter(
    lambda text: text not in {".", ".."}
)
parameters = st.text(st.characters(blacklist_characters="/?#", min_codepoint=33))


@given(parts=st.lists(st.tuples(segments, parameters), min_size=1), query=st.text())
def test_parameters_and_query_never_change_what_a_path_needs(
    parts: list[tuple[str, str]], query: str
) -> None:
    plain = "".join(f"/{name}" for name, _ in parts)
    decorated = "".join(f"/{name};{parameter}" for name, parameter in parts)

    assert plain_path(decorated) == plain
    assert plain_path(f"{plain}?{query}") == plain


@given(path=st.text(st.sampled_from("/.;a%")))
def test_a_plain_path_holds_no_parameter_and_plain_once_is_plain_twice(path: str) -> None:
    plain = plain_path(path)

    assert ";" not in plain
    assert plain_path(plain) == plain
    if ";" in path:
        assert not {"", ".", ".."} & set(plain.split("/")[1:]) or plain == "/"
