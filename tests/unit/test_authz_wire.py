from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.wire import metadata_added, response_headers_added, upstream_headers_added

# Up to three bytes of length: longer than any header of ours.
texts = st.text(max_size=40) | st.integers(0, 20_000).map(lambda size: "x" * size)


@given(headers=st.lists(st.tuples(texts, texts), max_size=4))
def test_headers_are_encoded_as_envoys_own_classes_read_them(
    headers: list[tuple[str, str]],
) -> None:
    answer = CheckResponse.FromString(response_headers_added(headers))

    options = answer.ok_response.response_headers_to_add
    assert [(o.header.key, o.header.value) for o in options] == headers
    assert {o.append_action for o in options} <= {HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD}
    answer.ok_response.ClearField("response_headers_to_add")
    assert answer == CheckResponse(ok_response=answer.ok_response)
    assert not answer.HasField("status")


@given(headers=st.lists(st.tuples(texts, texts), max_size=4), data=st.dictionaries(texts, texts))
def test_what_is_said_of_a_tenant_is_read_so_behind_another_answer(
    headers: list[tuple[str, str]], data: dict[str, str]
) -> None:
    first = upstream_headers_added([("first", "1")]) + metadata_added([("first", "1")])

    added = upstream_headers_added(headers) + metadata_added(data.items())
    answer = CheckResponse.FromString(first + added)

    options = answer.ok_response.headers
    assert [(o.header.key, o.header.value) for o in options] == [("first", "1"), *headers]
    assert {o.append_action for o in options} == {HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD}
    fields = answer.dynamic_metadata.fields
    assert {name: fields[name].string_value for name in fields} == {"first": "1"} | data
    answer.ok_response.ClearField("headers")
    answer.ClearField("dynamic_metadata")
    assert answer == CheckResponse(ok_response=answer.ok_response)
