"""A Redis of one test's own, that it may kill, freeze, empty and cut off."""

from collections.abc import AsyncIterator, Iterator

import pytest

from lab.servers import RedisServer
from tests.authz_redis import ReadModel
from tests.contract.tcp_proxy import TcpProxy
from tests.e2e.outage_lab import fill


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """It knows all the callers of `outage_lab`."""
    with RedisServer() as server:
        model = ReadModel(server.url)
        fill(model)
        model.close()
        yield server


@pytest.fixture
def model(server: RedisServer) -> Iterator[ReadModel]:
    model = ReadModel(server.url)
    yield model
    model.close()


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(server.port).serving() as proxy:
        yield proxy
