"""What `make fuzz` once found worth keeping is still as it must be; and it sees what is not."""

from collections.abc import Awaitable

import pytest

from aforo_authz.server import answer, guarded
from tests.authz_requests import Request, by_xds_protos
from tests.fuzz.check_target import CheckTarget
from tests.fuzz.engine import CORPUS, CORPUS_BYTES_MAX, Finding, Search, Target, load
from tests.fuzz.http2_frames import ECHO
from tests.fuzz.http2_target import Http2Target
from tests.fuzz.noted import Noted
from tests.fuzz.tenants import KEYS, QUOTA_UNITS, make_authorization
from tests.http2_frames import PREFACE, grpc_call, settings

pytestmark = [
    pytest.mark.contract,
    pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"]),
]

SEED = 20260315
RUNS = 500  # A second or two.
ACME = by_xds_protos(Request(headers={"x-api-key": KEYS["acme"]}))
STRANGER = by_xds_protos(Request(headers={"x-api-key": "key-of-nobody"}))
CALL = PREFACE + settings() + grpc_call(1, ECHO, b"x")


@pytest.fixture
async def http2() -> Http2Target:
    target = Http2Target(listening())
    await target.begin()
    return target


@pytest.fixture
async def check() -> CheckTarget:
    return CheckTarget(listening())


@pytest.fixture(params=["http2", "check"])
def target(request: pytest.FixtureRequest, http2: Http2Target, check: CheckTarget) -> Target:
    return http2 if request.param == "http2" else check


def listening() -> Noted:
    noted = Noted()
    noted.listen()
    return noted


async def test_every_case_of_the_corpus_ends_as_it_must(target: Target) -> None:
    cases = load(CORPUS / target.name)

    for case in cases:
        await target.run(case)

    assert len(cases) > 50
    assert sum(map(len, cases)) <= CORPUS_BYTES_MAX


async def test_others_are_answered_after_all_of_the_corpus(http2: Http2Target) -> None:
    for case in load(CORPUS / "http2"):
        await http2.run(case)

    await http2.look_at_others()


async def test_a_short_search_from_the_corpus_finds_nothing(target: Target) -> None:
    search = Search(target, load(CORPUS / target.name), SEED)

    for _ in range(RUNS):
        await search.step()

    assert search.runs == RUNS


async def test_an_answer_for_another_tenant_is_a_finding(check: CheckTarget) -> None:
    ours = guarded(make_authorization().check)
    check._check = lambda _message, budget_s: ours(ACME, budget_s)

    await check.run(ACME)
    with pytest.raises(Finding, match="decided for 'acme', presented was ''"):
        await check.run(STRANGER)


async def test_a_wrong_turn_in_a_decision_is_a_finding(check: CheckTarget) -> None:
    check._check = guarded(break_down)

    with pytest.raises(Finding, match="a method broke"):
        await check.run(ACME)


async def test_a_quota_overrun_is_a_finding(check: CheckTarget) -> None:
    """Every call with a memory of its own: as if nothing was counted."""

    async def forgetful(message: bytes, budget_s: float | None) -> bytes:
        return await answer(make_authorization().check, message, budget_s)

    check._check = forgetful
    counted = by_xds_protos(Request(headers={"x-api-key": KEYS["globex"]}))

    for _ in range(QUOTA_UNITS):
        await check.run(counted)
    with pytest.raises(Finding, match="passed a quota of"):
        await check.run(counted)


@pytest.mark.parametrize("guard", [True, False], ids=["in a method", "in the connection"])
async def test_a_wrong_turn_in_the_server_is_a_finding(http2: Http2Target, guard: bool) -> None:  # noqa: FBT001 - a parameter
    http2.server.methods = {ECHO.encode(): guarded(break_down) if guard else break_down}

    with pytest.raises(Finding, match=r"ZeroDivisionError|a method broke"):
        await http2.run(CALL)


async def test_what_is_no_http2_from_the_server_is_a_finding(http2: Http2Target) -> None:
    def write_past_libnghttp2(message: bytes, _budget_s: float | None) -> bytes:
        (connection,) = http2.server.connections
        connection._transport.write(b"\0\0")
        return message

    http2.server.methods = {ECHO.encode(): write_past_libnghttp2}

    with pytest.raises(Finding, match=r"half a frame|where none may be"):
        await http2.run(CALL)


def break_down(_message: bytes, _budget_s: float | None) -> bytes | Awaitable[bytes]:
    raise ZeroDivisionError
