"""What the API says of itself, tried with each role's token: no 500, and nothing beyond the role.

AFORO_TEST_API_EXAMPLES says how often each operation is tried (`make api-fuzz`).
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
import schemathesis
from django.core.wsgi import get_wsgi_application
from django.test import override_settings
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aforo_admin import audit, scenario_store, store
from aforo_admin.control import roles
from aforo_admin.control.models import AuditEntry
from aforo_admin.control.permitting import FLOORS
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import REMOVE_ANY_SCENARIO, SET_FLOORS, Role
from aforo_admin.domain.scenario import FeeChange, Scenario
from aforo_admin.places import Places
from aforo_admin.simulating import ground_of, simulate
from lab.servers import KafkaServer
from tests.conftest import KafkaAt
from tests.contract.rest_lab import Api, api_of, applied, fill_redis, forget_failures
from tests.contract.test_screens_letters import put as put_letters

ASKED = os.environ.get("AFORO_TEST_API_EXAMPLES")
EXAMPLES = int(ASKED or "2")
# It asks the API a thousand times, which takes a while where others compute as well.
TIMEOUT_S = 0 if ASKED else 900

pytestmark = [pytest.mark.contract, pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]

# Names of the example catalog, so that what is tried also meets what is there.
KNOWN = {
    "tenant": ("acme", "globex", "initech"),
    "plan": ("pro", "free"),
    "number": ("1", "2"),
    "entry": ("chat", "main", "acme-renewal", "report.pages", "billing-bridge"),
    "feature": ("chat", "reports"),
    "endpoint": ("ops",),
    "scenario": ("1", "2", "3"),
}
# Bodies that name nothing the catalog lacks: what is made up names plans that there are not.
KNOWN_BODIES: dict[str, tuple[Any, ...]] = {
    "post_scenarios": tuple({"name": name} for name in ("one", "two", "three")),
    "put_scenarios_scenario": ({},),
    "patch_scenarios_scenario": ({"name": "four"},),
    "post_scenarios_scenario_drafts": ({"begins": "2900-01-01"},),
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# By the kind that the record names; what tokens themselves do to catalogs of others is elsewhere.
TABLES = {
    "general settings": "general",
    "metering rule": "meteringrule",
    "plan version": "planversion",
}


@pytest.fixture(autouse=True)
def places(
    sqlite_database: str,  # noqa: ARG001 - Django uses it.
    redis_url: str,
    empty_ledger: Path,
    kafka_server: KafkaServer | KafkaAt,
) -> Iterator[None]:
    """The example's catalog in the database and in Redis, a ledger, and dead letters."""
    forget_failures()
    applied()
    with redis.Redis.from_url(redis_url) as client:
        fill_redis(client)
    topic = f"letters-{uuid4().hex}"
    asyncio.run(put_letters(kafka_server.bootstrap, topic))
    found = Places(
        ledger_url=f"sqlite:///{empty_ledger}",
        redis_url=redis_url,
        kafka_bootstrap=kafka_server.bootstrap,
        dead_letter_topic=topic,
    )
    with override_settings(AFORO_PLACES=found):
        # One that is somebody else's: owners may remove it, nobody may replace it.
        asked = Scenario(fees=(FeeChange(plan_id="pro", percent_bp=1000),))
        played = simulate(asked, ground_of(store.load_catalog().catalog))
        scenario_store.save("kept", asked, played, author="tests", source=Source.SHELL)
        yield


@pytest.fixture(scope="module")
def described() -> BaseSchema:
    app = get_wsgi_application()
    headers = {"Host": "testserver"}
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", app, headers=headers)


def test_no_role_meets_a_500_or_does_what_is_not_its_own(described: BaseSchema) -> None:
    of_acme = api_of(Role.OWNER, tenant="acme")
    apis = [*(api_of(role) for role in Role), of_acme]
    seq = audit.last_seq()

    for operation in described.get_all_operations():
        assert isinstance(operation, Ok)
        _try(operation.ok(), apis)

    assert audit.verify().broken_at is None
    entries = AuditEntry.objects.filter(seq__gt=seq)
    # Whoever is asked first writes it; later roles find it there. In a few examples not each does.
    assert len({each.kind for each in entries}) > 1, "most was refused: nothing was tried"
    assert not entries.filter(actor__startswith="token viewer").exists()
    assert entries.filter(kind="scenario", before__isnull=True).exists()
    gone = set(entries.filter(kind="tenant", after__isnull=True).values_list("tenant_id", "at"))
    beyond = [
        f"{each.actor}: {each}"
        for each in entries
        # What goes with its tenant is removed by who may remove that.
        if not _may(each) and not (each.after is None and (each.tenant_id, each.at) in gone)
    ]
    assert not beyond
    of_one = entries.filter(actor="token owner-0")
    assert set(of_one.values_list("tenant_id", flat=True)) <= {"acme"}


def _try(operation: APIOperation[Any, Any, Any, Any], apis: Sequence[Api]) -> None:
    """Ask what the operation's description allows, as each role, the least one first."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=not ASKED,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), data=st.data())
    def tried(case: schemathesis.Case[Any], data: st.DataObject) -> None:
        for name in case.path_parameters or {}:
            if name in KNOWN and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(KNOWN[name]))
        # The first example is the simplest: this one.
        known = KNOWN_BODIES.get(operation.definition.raw["operationId"])
        if known and data.draw(st.sampled_from((True, False))):
            case.body = data.draw(st.sampled_from(known))
        headers = {"Host": "testserver"}
        if "If-Match" in {each.name for each in operation.headers} and data.draw(st.booleans()):
            headers["If-Match"] = "*"
        for api in apis:
            shown = {**headers, "Authorization": f"Bearer {api.token}"}
            answer = case.call_and_validate(headers=shown, checks=CHECKS)
            if api.tenant and "globex" not in f"{answer.request.url} {answer.request.body!r}":
                assert "globex" not in answer.text

    tried()


def _may(entry: AuditEntry) -> bool:
    """Whether the role table lets the actor do what the record says."""
    had = roles.permissions(Role(entry.actor.removeprefix("token ").partition("-")[0]))
    before, after = entry.before or {}, entry.after or {}
    act = "add" if entry.before is None else "delete" if entry.after is None else "change"
    needed = {f"{act}_{TABLES.get(entry.kind, entry.kind.replace(' ', ''))}"}
    if entry.kind == "plan version" and act == "change" and "state" in after:
        needed = {roles.PUBLISH}
    elif any((before.get(name) or None) != (after.get(name) or None) for name in FLOORS):
        needed.add(SET_FLOORS)
    elif entry.kind == "scenario" and before.get("author", entry.actor) != entry.actor:
        assert act == "delete", f"{entry.actor} replaced what is {before['author']}'s"
        needed.add(REMOVE_ANY_SCENARIO)
    return {f"control.{each}" for each in needed} <= had
