from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from hypothesis import given
from hypothesis import strategies as st

from aforo_authz.wire import response_headers_added

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
