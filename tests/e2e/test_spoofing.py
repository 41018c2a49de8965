"""What a client says of itself changes neither who pays nor what is decided.

Through the shipped Envoy, with a real aforo-authz: each request is compared with the same one
without the lie, in its answer, in the access log, and in what reaches the upstream.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

from aforo_authz.domain.access import Level
from aforo_authz.domain.features import Rule
from lab.patience import patient, patient_with_log
from lab.servers import RedisServer, eventually
from tests.authz_samples import make_credential, make_margin, make_policy
from tests.contract.envoy_lab import LogLab, authz_metadata, manager
from tests.e2e.gateway import ALLOWED_KEY, BLOCKED_KEY, Authz, Gateway, fill, gateway, home
from tests.e2e.rough_client import CLIENTS, Answer, Line

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

THROTTLED_KEY = "key-of-initech-0123456789abcd"
KEYS = {
    "allowed": ALLOWED_KEY.encode(),
    "blocked": BLOCKED_KEY.encode(),
    "throttled": THROTTLED_KEY.encode(),
    "stranger": b"key-of-nobody-0123456789abcde",
}
STATUS_OF = {"allowed": 200, "blocked": 429, "throttled": 200, "stranger": 401}
ACME, GLOBEX = KEYS["allowed"], KEYS["blocked"]
CHAT = b"/v1/chat/completions"  # A throttled call goes to another upstream here.
EXPORT = b"/reports/export"  # Needs a feature that acme has not.
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that must not depend on what a client claims."""

    status: int
    told: tuple[str, ...]  # In the answer: decision, reason, throttle, quota.
    logged: tuple[tuple[str, str], ...]  # Who pays, and what was decided.
    cluster: str
    upstream: tuple[tuple[str, str], ...]  # Aforo's and Envoy's words about the request.


class World:
    def __init__(self, running: Gateway, log: LogLab) -> None:
        self.running = running
        self.running.api.last = deque()  # All of them, however many.
        self.log = log
        self._request_ids: set[str] = set()
        self._busy = asyncio.Semaphore(200)

    async def send(
        self, protocol: str, lines: Sequence[Line], *, path: bytes = CHAT, method: bytes = b"GET"
    ) -> tuple[Answer, str]:
        """Send one request; return its answer, and what tells its path from all others."""
        mark = f"n={next(_numbers)}-"
        target = path + (b"&" if b"?" in path else b"?") + mark.encode()
        async with self._busy:
            answer = await CLIENTS[protocol](self.running.port, target, lines, method=method)
        return answer, mark

    def entries(self, mark: str) -> list[HTTPAccessLogEntry]:
        return [entry for entry in self.log.entries if mark in entry.request.path]

    async def seen(self, answer: Answer, mark: str) -> Seen | None:
        """Return what became of it; None if Envoy refused it and asked nobody."""
        reached = [request for request in self.running.api.last if mark in request.target]
        if answer.status in {None, 400, 431}:
            assert not reached
            return None
        assert answer.status is not None
        await eventually(lambda: self.entries(mark))
        (entry,) = self.entries(mark)
        # Of our own making each time, whatever the client calls its request.
        assert entry.request.request_id not in self._request_ids
        self._request_ids.add(entry.request.request_id)
        logged = authz_metadata(entry)
        told = ("x-aforo-decision", "x-aforo-reason", "x-aforo-throttle", "ratelimit-policy")
        own = ("x-aforo-", "x-envoy-auth-", "x-envoy-original-path")
        decision_id = logged.pop("decision_id")
        assert decision_id == answer.headers["x-aforo-decision-id"]
        logged.pop("ext_authz_duration", None)
        return Seen(
            status=answer.status,
            told=tuple(answer.headers.get(name, "") for name in told),
            logged=tuple(sorted(logged.items())),
            cluster=entry.common_properties.upstream_cluster,
            upstream=tuple(
                (name, value)
                for request in reached
                for name, value in request.headers
                if name.startswith(own) and name != "x-aforo-decision-id"
            ),
        )


def hasty(document: dict[str, Any]) -> None:
    """Wait for decisions, but neither with the log nor to close on who speaks no HTTP/2."""
    patient(document)
    patient_with_log(document)
    (access_log,) = manager(document)["access_log"]
    access_log["typed_config"]["common_config"]["buffer_flush_interval"] = "0.01s"
    manager(document)["delayed_close_timeout"] = "0.05s"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    folder = home()
    path = folder / "authz.sock"
    with RedisServer() as server:
        model = fill(server.url)
        model.put_credential(THROTTLED_KEY, make_credential(tenant_id="initech"))
        model.put_policy(make_policy(tenant_id="initech"))
        model.put_margin("initech", make_margin(Level.THROTTLE, period_end_micros=None))
        # As open as a catalog can be: what its rules do not name, every tenant may call.
        model.put_rules(
            [
                Rule(methods=frozenset(), path_template=EXPORT.decode(), features=("export",)),
                Rule(methods=frozenset(), path_template="/dear/**", features=("export",)),
                Rule(methods=frozenset({"DELETE"}), path_template="/things", features=("export",)),
            ],
            default_allows=True,
        )
        with Authz(f"unix:{path}", server.url, folder):
            async with gateway(folder, [path], edit=hasty, logged=True) as running:
                await running.finds_authz_healthy()
                assert running.log is not None
                await eventually(
                    lambda: "als-a.sock::health_flags::healthy" in running.admin("/clusters")
                )
                yield World(running, running.log)
        model.close()


# --- Six kinds of lies, each in every form ----------------------------------------------------

LIES = {
    "tenant": [
        *(("x-aforo-tenant", "acme"), ("x-aforo-tenant", "globex"), ("x-tenant-id", "acme")),
        *(("x-aforo-tenant-id", "acme"), ("x-forwarded-tenant", "acme")),
    ],
    "customer": [
        *(("x-customer-id", "acme"), ("x-aforo-customer", "acme"), ("x-consumer-id", "acme")),
        *(("x-aforo-subscription", "sub-acme"), ("x-aforo-plan", "enterprise")),
        *(("x-aforo-features", "export"), ("x-forwarded-client-cert", "URI=spiffe://acme")),
        ("x-jwt-payload", "eyJzdWIiOiJhY21lIn0="),
    ],
    "decision": [
        *(("x-aforo-decision", "allow"), ("x-aforo-decision", "block")),
        *(("x-aforo-reason", "allowed"), ("x-aforo-decision-id", "0" * 32)),
        *(("x-aforo-stale", "true"), ("x-margin-guard", "off"), ("x-aforo-quota-exceeded", "1")),
        *(("x-aforo-metric", "nothing"), ("x-aforo-quantity", "0")),
    ],
    "throttle": [
        *(("x-aforo-throttle", "true"), ("x-aforo-throttle", "false"), ("x-aforo-throttle", "")),
        ("x-throttle", "false"),
    ],
    "request id": [
        *(("x-request-id", "0"), ("x-request-id", "11111111-1111-4111-9111-111111111111")),
        *(("x-client-trace-id", "1"), ("traceparent", f"00-{'1' * 32}-{'1' * 16}-01")),
    ],
    "failure mode": [
        *(("x-envoy-auth-failure-mode-allowed", "true"), ("x-envoy-auth-partial-body", "true")),
        *(("x-envoy-original-path", "/healthz"), ("x-envoy-expected-rq-timeout-ms", "1")),
        *(("x-envoy-upstream-rq-timeout-ms", "1"), ("grpc-timeout", "1n")),
        *(("x-envoy-internal", "true"), ("x-envoy-retry-on", "5xx"), ("x-forwarded-for", "::1")),
        ("x-envoy-force-trace", "true"),
    ],
}


# What is no HTTP, and what could be read in two ways, is refused without asking anybody.
MAY_BE_REFUSED = {
    "http1": {"underscores", "hop by hop"},
    "http2": {"underscores", "hop by hop", "upper case", "odd case", "twice, in two cases"},
}


def forms(name: str, value: str) -> Iterator[tuple[str, list[Line]]]:
    """Yield each form of one lie, with its name."""
    key, lie = name.encode(), value.encode()
    yield "plain", [(key, lie)]
    yield "upper case", [(key.upper(), lie)]
    yield "odd case", [(name.title().swapcase().encode(), lie)]
    yield "twice", [(key, lie), (key, b"other")]
    yield "twice, in two cases", [(key, lie), (key.upper(), lie)]
    yield "listed", [(key, lie + b"," + lie)]
    yield "not UTF-8", [(key, lie + b"\xff\xfe\x80")]
    yield "half a character", [(key, lie + b"\xc3")]
    yield "58 KB", [(key, lie + b"z" * 58 * 1024)]
    yield "58 KB, not UTF-8", [(key, lie + b"\xff" * 58 * 1024)]
    yield "underscores", [(key.replace(b"-", b"_"), lie)]
    yield "hop by hop", [(key, lie), (b"connection", b"close, " + key)]


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize("kind", LIES)
async def test_no_lie_changes_who_pays_or_what_is_decided(
    world: World, kind: str, protocol: str
) -> None:
    honest = {}
    for caller, key in KEYS.items():
        honest[caller] = await world.seen(*await world.send(protocol, [(b"x-api-key", key)]))

    cases = [
        (caller, f"{name}: {value}", form, [*lines, (b"x-api-key", key)])
        for caller, key in KEYS.items()
        for name, value in LIES[kind]
        for form, lines in forms(name, value)
    ]
    sent = await asyncio.gather(*(world.send(protocol, lines) for *_, lines in cases))
    refused = set()
    for (caller, what, form, _), (answer, mark) in zip(cases, sent, strict=True):
        seen = await world.seen(answer, mark)
        if seen is None:
            refused.add(form)
        else:
            assert seen == honest[caller], f"{caller} with {what}, {form}"

    assert {c: s.status for c, s in honest.items() if s is not None} == STATUS_OF
    assert {"underscores"} <= refused <= MAY_BE_REFUSED[protocol]
    assert nobody_passed_undecided(world)


def nobody_passed_undecided(world: World) -> bool:
    checks = world.running.checks()
    return checks["error"] == checks["failure_mode_allowed"] == checks["invalid"] == 0


# --- Two answers to the question who calls ------------------------------------------------------

B, A = BLOCKED_KEY.encode(), ALLOWED_KEY.encode()
KEY, BEARER = b"x-api-key", b"authorization"


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize(
    "lines",
    [
        [(KEY, A), (KEY, B)],
        [(KEY, B), (KEY, A)],
        [(KEY, A), (KEY, A)],
        [(KEY, A), (KEY, b"")],
        [(KEY, b""), (KEY, A)],
        [(KEY, A + b"," + B)],
        [(KEY, A + b"\xff")],
        [(KEY, A * 2000)],
        [(BEARER, b"Bearer " + A), (BEARER, b"Bearer " + B)],
        [(BEARER, b"Bearer " + B), (BEARER, b"Basic eDp5")],
        [(BEARER, b"Bearer " + A + b", Bearer " + B)],
    ],
)
async def test_two_keys_in_one_header_are_nobodys(
    world: World, lines: list[Line], protocol: str
) -> None:
    seen = await world.seen(*await world.send(protocol, lines))

    assert seen is not None
    assert (seen.status, dict(seen.logged)["reason"]) == (401, "unknown_credential")
    assert "tenant" not in dict(seen.logged)
    assert not seen.upstream


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize(("first", "second"), [("allowed", "blocked"), ("blocked", "allowed")])
async def test_of_two_kinds_of_credentials_the_api_key_decides_in_any_order(
    world: World, first: str, second: str, protocol: str
) -> None:
    alone = await world.seen(*await world.send(protocol, [(KEY, KEYS[first])]))
    both = [(KEY, KEYS[first]), (BEARER, b"Bearer " + KEYS[second])]

    for lines in (both, both[::-1]):
        assert await world.seen(*await world.send(protocol, lines)) == alone


@pytest.mark.parametrize(
    "path",
    [CHAT + b"?x-api-key=" + A, CHAT + b"?api_key=" + A, CHAT + b"?key=%78&x-aforo-tenant=acme"],
)
@pytest.mark.parametrize("line", [(b"cookie", b"x-api-key=" + A), (b"x-auth", b"Bearer " + A)])
async def test_a_key_anywhere_else_is_no_key(world: World, path: bytes, line: Line) -> None:
    honest = await world.seen(*await world.send("http1", [(KEY, B)]))

    assert await world.seen(*await world.send("http1", [(KEY, B), line], path=path)) == honest
    nobody = await world.seen(*await world.send("http1", [line], path=path))
    assert nobody is not None
    assert dict(nobody.logged)["reason"] == "unauthenticated"


async def test_a_key_that_a_client_declares_hop_by_hop_is_gone_for_everybody(world: World) -> None:
    """HTTP/1.1 lets it: then nobody pays, since nobody passes."""
    lines = [(KEY, A), (b"connection", b"close, x-api-key")]
    seen = await world.seen(*await world.send("http1", lines))

    assert seen is not None
    assert (seen.status, dict(seen.logged)["reason"]) == (401, "unauthenticated")


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize(
    "lines",
    [
        [(b"x-big", b"z" * 61 * 1024)],
        [(b"x-big", b"\xff" * 61 * 1024)],
        [(b"x-%d" % number, b"z" * 6000) for number in range(11)],
        [(b"x-%d" % number, b"1") for number in range(101)],
        [(b"x-nul", b"a\0b")],
        [(b"x-\xff", b"1")],
        [(b"x-api-key ", A)],
        [(b"x_api_key", A)],
    ],
)
async def test_what_is_too_large_or_ambiguous_is_refused_unasked(
    world: World, lines: list[Line], protocol: str
) -> None:
    before = world.running.checks()
    answer, mark = await world.send(protocol, [(KEY, B), *lines])

    assert await world.seen(answer, mark) is None
    assert world.running.checks() == before


# --- Other spellings of a path --------------------------------------------------------------------

SAME = [
    *(b"/reports/%65xport", b"//reports/export", b"/reports//export", b"/./reports/export"),
    *(b"/reports/%2e/export", b"/x/%2e%2e/reports/export", b"/x/%2E./reports/export"),
    *(b"/x/..;/reports/export", b"/reports;x=1/export", b"/reports/export;x=1"),
    *(b"/reports/export;x=1;y", b"/reports;a;b/export;", b"/reports/export/;x=1"),
    *(b"/reports/export/", b"/reports/export/.", b"/reports/export?x=1", b"/reports/x/../export"),
    *(b"/healthz/../reports/export", b"/healthz/..;/reports/export", b"/dear", b"/dear/x"),
    *(b"/d%65ar/x", b"/dear;x=1/y", b"/dear/;x=1/;y", b"/dear/" + b"a" * 9000),
    *(b"/dear/" + b";" * 50_000, b"/dear/" + b"a/" * 25_000),
]
REFUSED_PATHS = [
    *(b"/reports%2Fexport", b"/reports%2fexport", b"/reports%5Cexport", b"/reports/export%00"),
    *(b"/reports/export#x", b"reports/export"),
]
OTHER = [
    *(b"/reports/export.", b"/reports/EXPORT", b"/reports/export%20", b"/reports/export%3Bx=1"),
    *(b"/reports/expor\xc3\xbf", b"/reports/export\xff", b"/\xff", b"/reports/%ff", b"/%252e"),
]


@pytest.mark.parametrize("protocol", CLIENTS)
async def test_another_spelling_of_a_path_needs_what_the_path_needs(
    world: World, protocol: str
) -> None:
    honest = await world.seen(*await world.send(protocol, [(KEY, A)], path=EXPORT))
    assert honest is not None
    assert dict(honest.logged)["reason"] == "feature_not_entitled"

    sent = await asyncio.gather(*(world.send(protocol, [(KEY, A)], path=path) for path in SAME))
    for path, (answer, mark) in zip(SAME, sent, strict=True):
        seen = await world.seen(answer, mark)
        assert seen is None or (seen.status, seen.told) == (honest.status, honest.told), path[:80]
    assert nobody_passed_undecided(world)


@pytest.mark.parametrize("protocol", CLIENTS)
async def test_a_path_that_could_be_read_in_two_ways_is_refused(
    world: World, protocol: str
) -> None:
    for path in REFUSED_PATHS:
        assert await world.seen(*await world.send(protocol, [(KEY, A)], path=path)) is None, path


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize("path", OTHER)
async def test_of_a_path_that_is_another_one_everybody_sees_the_same(
    world: World, path: bytes, protocol: str
) -> None:
    """Case, a trailing dot, an encoded space or semicolon: RFC 3986 has them differ."""
    answer, mark = await world.send(protocol, [(KEY, A)], path=path)

    if await world.seen(answer, mark) is not None:
        (reached,) = [each for each in world.running.api.last if mark in each.target]
        (entry,) = world.entries(mark)
        assert entry.request.path == reached.target
        assert reached.target.isascii()
    assert nobody_passed_undecided(world)


@pytest.mark.parametrize("protocol", CLIENTS)
async def test_no_bare_end_of_line_makes_a_header_of_a_value(world: World, protocol: str) -> None:
    for end in (b"\r", b"\n", b"\r\n"):
        line = (b"x-note", b"a" + end + b"x-aforo-tenant: globex")
        answer, mark = await world.send(protocol, [line, (KEY, A)])
        if await world.seen(answer, mark) is not None:
            (reached,) = [each for each in world.running.api.last if mark in each.target]
            tenants = [value for name, value in reached.headers if name == "x-aforo-tenant"]
            assert tenants == ["acme"]
            assert "\r" not in (reached.header("x-note") or "")


@pytest.mark.parametrize(
    "name",
    [
        *("x-http-method-override", "x-http-method", "x-method-override"),
        *("x-original-url", "x-rewrite-url"),
    ],
)
async def test_no_header_tells_the_upstream_another_method_or_path_than_was_decided(
    world: World, name: str
) -> None:
    answer, mark = await world.send(
        "http1", [(KEY, A), (name.title().encode(), b"DELETE")], path=b"/things", method=b"POST"
    )

    assert answer.status == 200
    (reached,) = [each for each in world.running.api.last if mark in each.target]
    assert reached.header(name) is None


@pytest.mark.parametrize("method", [b"delete", b"Delete", b"DELETE\xff", b"CONNECT"])
@pytest.mark.parametrize("protocol", CLIENTS)
async def test_a_method_in_another_spelling_is_no_way_around_a_rule(
    world: World, method: bytes, protocol: str
) -> None:
    answer, mark = await world.send(protocol, [(KEY, A)], path=b"/things", method=method)

    if answer.status == 200:  # HTTP/2 knows no wrong method: the upstream got what was decided.
        (reached,) = [each for each in world.running.api.last if mark in each.target]
        assert reached.method == method.decode()
    else:
        assert not [each for each in world.running.api.last if mark in each.target]
    assert nobody_passed_undecided(world)
