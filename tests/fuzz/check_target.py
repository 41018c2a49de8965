"""CheckRequests, right and wrong, into the decision as it is served."""

import asyncio
from collections.abc import Hashable, Iterable
from random import Random

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.message import DecodeError

from aforo_authz.server import INVALID_ARGUMENT, RpcError, answer, guarded
from tests.authz_requests import Request, by_xds_protos
from tests.fuzz.engine import Finding
from tests.fuzz.mutate import CASE_BYTES_MAX, mutated
from tests.fuzz.noted import Noted
from tests.fuzz.protobuf import mutated_message
from tests.fuzz.tenants import (
    COUNTED_TENANT,
    KEYS,
    PRINCIPAL,
    QUOTA_UNITS,
    SUBJECT,
    look_at,
    make_authorization,
)

HANG_S = 20.0
RUNS_OF_ONE = 2000  # With one memory of quotas and decisions.
CREDENTIALS = [*KEYS.values(), "key-of-nobody", "", " ", "\0", "\xff", "ключ", "Bearer", "a,b"]
SCHEMES = ["Bearer ", "bearer ", "BEARER  ", "Basic ", "", " Bearer ", "Bearer\t"]
NAMES = [
    *("x-api-key", "authorization", "X-Api-Key", "cookie", "", "x-aforo-", "x-aforo-tenant"),
    *("x-aforo-decision", "x-aforo-decision-id", "x-aforo-throttle", "x-aforo-failure-mode"),
]
PATHS = [
    *("/v1/chat", "/v1/items/7", "/admin/x", "/v1/chat;x=1", "/v1/items/..;/admin/x", "//", ""),
    *("/v1/%2e%2e/admin/x", "/v1/chat?key=1#x", "*", "/" + "a" * 9000, "/\U0001f600\n\0"),
]
METHODS = ["GET", "POST", "get", "", "CONNECT", "A" * 100]
FEATURES = ["", "chat", "chat,search", ",, chat ,", "admin", "\n"]
JWTS: list[dict[str, object]] = [
    {},
    {"claims": {"sub": SUBJECT}},
    {"claims": {"sub": "nobody"}},
    {"claims": SUBJECT},
    {"claims": {"sub": {"sub": SUBJECT}}},
    {"claims": {"sub": [SUBJECT]}},
    {"sub": SUBJECT},
]
TEXTS = [*CREDENTIALS, *NAMES, *PATHS, *METHODS, *FEATURES, SUBJECT, PRINCIPAL, "aforo.features"]
WORDS = [text.encode() for text in TEXTS] + [b"\xff\xfe", b"\xed\xa0\x80", b"\x80" * 11]


class CheckTarget:
    """One decision after another; memory and quotas are carried on for a while."""

    name = "check"

    def __init__(self, noted: Noted) -> None:
        self._noted = noted
        self._runs = 0
        self._begin()

    def _begin(self) -> None:
        self._authorization = make_authorization()
        self._check = guarded(self._authorization.check)
        self._counted = 0

    def fresh(self, random: Random) -> bytes:
        headers = {random.choice(NAMES): random.choice(CREDENTIALS) for _ in range(3)}
        if random.random() < 0.7:
            headers["x-api-key"] = random.choice(CREDENTIALS)
        else:
            headers["authorization"] = random.choice(SCHEMES) + random.choice(CREDENTIALS)
        context = {"aforo.features": random.choice(FEATURES)} if random.random() < 0.3 else {}
        request = Request(
            method=random.choice(METHODS),
            path=random.choice(PATHS),
            headers=headers,
            context_extensions={**context, "aforo.provider": random.choice(["", "openai"])},
            jwt_metadata=random.choice(JWTS),
            principal=random.choice(["", "", PRINCIPAL, "spiffe://other"]),
        )
        return by_xds_protos(request)

    def mutated(self, random: Random, case: bytes, other: bytes) -> bytes:
        match random.randrange(8):
            case 0:
                return mutated(random, case, WORDS)
            case 1:  # Protobuf merges messages that are written one behind the other.
                return (case + other)[:CASE_BYTES_MAX]
            case 2 | 3:
                return _retold(random, case)
            case _:
                for _ in range(random.choice((1, 1, 2, 5))):
                    case = mutated_message(random, case, WORDS)
                return case[:CASE_BYTES_MAX]

    async def run(self, case: bytes) -> Iterable[Hashable]:
        self._runs += 1
        if self._runs % RUNS_OF_ONE == 0:
            self._begin()
        budget_s = (None, 0.03, 0.0)[len(case) % 3]
        try:
            async with asyncio.timeout(HANG_S):
                answered = await answer(self._check, case, budget_s)
        except TimeoutError as error:
            raise Finding("no answer") from error
        except RpcError as error:
            self._look_at_error(case, error)
            return {error.code, *self._noted.taken()}
        remarkable = look_at(case, answered)
        self._count(*remarkable[:2])
        return {remarkable, *self._noted.taken()}

    def _look_at_error(self, case: bytes, error: RpcError) -> None:
        self._noted.taken()
        if error.code != INVALID_ARGUMENT:
            raise Finding(f"an error of our own: {error.code} {error.message}")
        try:
            CheckRequest.FromString(case)
        except DecodeError:
            return
        raise Finding(f"a CheckRequest is called none: {error.message}")

    def _count(self, reason: str, tenant: str) -> None:
        """A hard quota is exact, whatever was sent: each call weighs a unit at least."""
        if reason == "allowed" and tenant == COUNTED_TENANT:
            self._counted += 1
            if self._counted > QUOTA_UNITS:
                raise Finding(f"{self._counted} calls passed a quota of {QUOTA_UNITS}")


def _retold(random: Random, case: bytes) -> bytes:
    """Change what a valid request says, as a client and a route could."""
    try:
        request = CheckRequest.FromString(case)
    except DecodeError:
        return mutated(random, case, WORDS)
    attributes = request.attributes
    http = attributes.request.http
    text = random.choice(TEXTS)
    match random.randrange(6):
        case 0:
            http.path = text
        case 1:
            http.method = text
        case 2:
            http.headers["authorization"] = random.choice(SCHEMES) + text
        case 3:
            http.headers.pop(random.choice(NAMES), None)
        case 4:
            attributes.context_extensions["aforo.features"] = text
        case _:
            http.headers[random.choice(NAMES)] = text
    encoded: bytes = request.SerializeToString()
    return encoded[:CASE_BYTES_MAX]
