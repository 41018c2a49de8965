"""Fills a Redis with tenants, as a sync would, for measuring decisions alone."""

import hashlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import hiredis

from aforo_proto import margin_pb2, policy_pb2

DAY_MICROS = 86_400_000_000
PLAIN, LIMITED = "plain", "limited"  # Kinds of tenants: with no quota, and with a hard one.
BATCH_BYTES = 1 << 20


def api_key(kind: str, number: int) -> str:
    return f"bench-{kind}-{number:07d}"


def fill(url: str, *, tenants: int, kinds: tuple[str, ...] = (PLAIN, LIMITED)) -> None:
    """Write credentials, policies and margins for `tenants` of each kind."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port or 6379)) as connection:
        reader = hiredis.Reader(notEnoughData=None)
        batch, waiting = bytearray(), 0
        for key, value in _values(tenants, kinds):
            batch += hiredis.pack_command(("SET", key, value))  # type: ignore[arg-type] # any number of words
            waiting += 1
            if len(batch) > BATCH_BYTES:
                connection.sendall(batch)
                _take_answers(connection, reader, waiting)
                batch, waiting = bytearray(), 0
        connection.sendall(batch)
        _take_answers(connection, reader, waiting)


def _take_answers(connection: socket.socket, reader: hiredis.Reader, count: int) -> None:
    while count:
        answer = reader.gets()
        if answer is None:
            reader.feed(connection.recv(1 << 16))
            continue
        if isinstance(answer, Exception):
            raise answer
        count -= 1


def _values(tenants: int, kinds: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    now_micros = time.time_ns() // 1000
    for kind in kinds:
        place = f"{kind}-{0:07d}"
        # Ids are of one length: a tenant's messages are the first one's with its own id.
        credential = _credential(place).SerializeToString()
        policy = _policy(place, now_micros, limited=kind == LIMITED).SerializeToString()
        margin = margin_pb2.Margin(tenant_id=place, as_of_micros=now_micros).SerializeToString()
        for number in range(tenants):
            tenant_id = f"{kind}-{number:07d}"
            own = (place.encode(), tenant_id.encode())
            digest = hashlib.sha256(api_key(kind, number).encode()).hexdigest()
            yield f"aforo:v1:cred:{digest}", credential.replace(*own)
            yield f"aforo:v1:{{{tenant_id}}}:policy", policy.replace(*own)
            yield f"aforo:v1:{{{tenant_id}}}:margin", margin.replace(*own)
    routes = policy_pb2.Routes(rules=[policy_pb2.RouteRule(path_template="/**", features=["api"])])
    yield "aforo:v1:routes", routes.SerializeToString()
    yield "aforo:v1:sync", policy_pb2.SyncState(tenants=tenants).SerializeToString()


def _credential(tenant_id: str) -> policy_pb2.Credential:
    return policy_pb2.Credential(
        tenant_id=tenant_id,
        kind=policy_pb2.CREDENTIAL_KIND_API_KEY,
        status=policy_pb2.CREDENTIAL_STATUS_ACTIVE,
        credential_id=f"{tenant_id}-key",
    )


def _policy(tenant_id: str, now_micros: int, *, limited: bool) -> policy_pb2.Policy:
    quota = policy_pb2.Quota(
        quota_id="daily",
        meter="api.calls",
        limit_units=1_000_000_000,
        window=policy_pb2.WINDOW_DAY,
    )
    return policy_pb2.Policy(
        tenant_id=tenant_id,
        subscription_id=f"{tenant_id}-subscription",
        plan_id="bench",
        state=policy_pb2.SUBSCRIPTION_STATE_ACTIVE,
        period_start_micros=now_micros - DAY_MICROS,
        period_end_micros=now_micros + 29 * DAY_MICROS,
        next_period_end_micros=now_micros + 59 * DAY_MICROS,
        features=["api", "llm"],
        quotas=[quota] if limited else [],
    )
