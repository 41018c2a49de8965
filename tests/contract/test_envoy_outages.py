"""The shipped Envoy configuration when parts of Aforo are away, and what its log entries carry."""

import asyncio
import time
import uuid

import pytest

from lab.http_client import Answer
from lab.servers import HANG_S, eventually
from tests.contract.envoy_lab import EnvoyLab, envoy_lab

pytestmark = pytest.mark.contract


async def unasked(lab: EnvoyLab) -> bool:
    """Send one request; say whether it passed without a check."""
    checks = len(lab.authz.requests)
    answer = await lab.client.get("/echo")
    assert answer.status == 200
    return len(lab.authz.requests) == checks


async def until(lab: EnvoyLab, *, is_unasked: bool) -> float:
    """Send requests until they are, or are not, passed unasked; return how long it took."""
    started = time.monotonic()
    while await unasked(lab) is not is_unasked:
        assert time.monotonic() - started < HANG_S, f"still not {is_unasked=}"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def quickest(lab: EnvoyLab) -> tuple[Answer, float]:
    """Return the answer that took least of some, and how long: cores are shared."""
    found = []
    for _ in range(20):
        started = time.monotonic()
        answer = await lab.client.get("/echo")
        found.append((answer, time.monotonic() - started))
    return min(found, key=lambda each: each[1])


async def test_an_authorization_server_that_is_not_ready_is_not_asked_until_it_is() -> None:
    async with envoy_lab(check_s=None) as lab:
        await until(lab, is_unasked=False)

        lab.authz.ready = False
        await until(lab, is_unasked=True)
        answer, took_s = await quickest(lab)
        assert took_s < 0.2, "nobody waits for the timeout of a check, a quarter of a second"
        assert dict(answer.json()["headers"])["x-envoy-auth-failure-mode-allowed"] == "true"

        lab.authz.ready = True
        await until(lab, is_unasked=False)


async def test_requests_pass_while_there_is_no_authorization_server() -> None:
    async with envoy_lab(check_s=None) as lab:
        await lab.authz.stop()

        assert await unasked(lab)


async def test_the_second_receiver_of_the_access_log_takes_over() -> None:
    async with envoy_lab(check_s=None) as lab:
        path = lab.unique("/echo")
        await lab.client.get(path)
        await lab.log.entry(path)
        assert not lab.backup.entries, "the second one is asked only where the first is away"

        await lab.log.stop()
        started = time.monotonic()
        while not lab.backup.entries:
            await lab.client.get(lab.unique("/echo"))
            assert time.monotonic() - started < HANG_S
            await asyncio.sleep(0.02)

        # From here on, nothing is lost.
        paths = [lab.unique("/echo") for _ in range(50)]
        for path in paths:
            await lab.client.get(path)
        await eventually(lambda: all(lab.backup.about(path) for path in paths))
        assert all(len(lab.backup.about(path)) == 1 for path in paths)


async def test_every_log_entry_has_an_id_that_no_client_chooses() -> None:
    async with envoy_lab(check_s=None) as lab:
        path = lab.unique("/echo")
        for _ in range(2):
            await lab.client.get(path, headers={"x-request-id": "the-same"})
        await eventually(lambda: len(lab.log.about(path)) == 2)

        tags = [entry.common_properties.custom_tags for entry in lab.log.about(path)]
        ids = {str(uuid.UUID(tag["uid"])) for tag in tags}
        assert len(ids) == 2
        assert not ids & {entry.request.request_id for entry in lab.log.about(path)}
        assert all(int(tag["authz_us"]) > 0 for tag in tags)
        assert "the-same" not in {entry.request.request_id for entry in lab.log.about(path)}


async def test_what_tells_a_preflight_is_logged() -> None:
    async with envoy_lab(check_s=None) as lab:
        path = lab.unique("/echo")
        headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
        await lab.client.send("OPTIONS", path, headers=headers)

        entry = await lab.log.entry(path)
        assert {name: entry.request.request_headers[name] for name in headers} == headers
