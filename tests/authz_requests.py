"""CheckRequests as Envoy sends them, by two independent encoders."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.struct_pb2 import Struct

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # It defines its classes in a way that pydantic deprecates.
    import envoy_data_plane.envoy.config.core.v3 as data_plane_core
    import envoy_data_plane.envoy.service.auth.v3 as data_plane
    import envoy_data_plane.google.protobuf as data_plane_known

JWT_NAMESPACE = "envoy.filters.http.jwt_authn"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client sends, and what Envoy adds."""

    method: str = "GET"
    path: str = "/v1/chat"
    headers: Mapping[str, str] = field(default_factory=dict)
    context_extensions: Mapping[str, str] = field(default_factory=dict)
    jwt_metadata: Mapping[str, Any] = field(default_factory=dict)
    principal: str = ""


def by_xds_protos(request: Request) -> bytes:
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.principal = request.principal
    http = attributes.request.http
    http.method, http.path = request.method, request.path
    http.headers.update(_with_pseudo_headers(request))
    attributes.context_extensions.update(request.context_extensions)
    if request.jwt_metadata:
        struct = Struct()
        struct.update(request.jwt_metadata)
        attributes.metadata_context.filter_metadata[JWT_NAMESPACE].CopyFrom(struct)
    encoded: bytes = message.SerializeToString()
    return encoded


def by_envoy_data_plane(request: Request) -> bytes:
    metadata = {}
    if request.jwt_metadata:
        metadata[JWT_NAMESPACE] = data_plane_known.Struct.from_dict(dict(request.jwt_metadata))
    return bytes(
        data_plane.CheckRequest(
            attributes=data_plane.AttributeContext(
                source=data_plane.AttributeContextPeer(principal=request.principal),
                request=data_plane.AttributeContextRequest(
                    http=data_plane.AttributeContextHttpRequest(
                        method=request.method,
                        path=request.path,
                        headers=_with_pseudo_headers(request),
                    )
                ),
                context_extensions=dict(request.context_extensions),
                metadata_context=data_plane_core.Metadata(filter_metadata=metadata),
            )
        )
    )


def _with_pseudo_headers(request: Request) -> dict[str, str]:
    return {
        ":authority": "api.example",
        ":method": request.method,
        ":path": request.path,
        ":scheme": "https",
        "x-request-id": "00000000-0000-0000-0000-000000000000",
        **request.headers,
    }


ENCODERS = {"xds-protos": by_xds_protos, "envoy-data-plane": by_envoy_data_plane}
