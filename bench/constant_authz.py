"""The floor of any authorization server on a transport: parses the request, always says yes."""

import argparse
import asyncio
import signal

import uvloop
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, OkHttpResponse
from google.rpc.status_pb2 import Status

from aforo_authz.authorize import PATH
from aforo_authz.health import PATH as HEALTH_PATH
from aforo_authz.health import SERVING
from aforo_authz.server import Server, parse_address
from aforo_authz.server_grpcio import GrpcioServer
from aforo_authz.server_ngh2 import Ngh2Server

ANSWER: bytes = CheckResponse(
    status=Status(code=0), ok_response=OkHttpResponse()
).SerializeToString()


def check(message: bytes, _budget_s: float | None) -> bytes:
    CheckRequest.FromString(message)
    return ANSWER


def healthy(_message: bytes, _budget_s: float | None) -> bytes:
    return SERVING


async def serve(listen: str, transport: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    methods = {PATH: check, HEALTH_PATH: healthy}
    server: Server = GrpcioServer(methods) if transport == "grpcio" else Ngh2Server(methods)
    await server.start([parse_address(listen)])
    await stop.wait()
    await server.drain(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="host:port or unix:/path")
    parser.add_argument("--transport", choices=["ngh2", "grpcio"], default="ngh2")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        options = parser.parse_args()
        runner.run(serve(options.listen, options.transport))


if __name__ == "__main__":
    main()
