"""Meters, metering rules and ingest keys: what may be written, and what Redis then holds."""

from datetime import UTC, datetime, timedelta

import pytest

from aforo_admin.__main__ import main
from aforo_admin.catalog_yaml import read_text
from aforo_admin.differences import report
from aforo_admin.faults import CatalogError
from aforo_admin.mint import sha256_of_key
from aforo_admin.read_model import build, is_ours_to_remove
from aforo_admin.sync import Differences
from aforo_proto.metering_pb2 import (
    INGEST_SCOPE_QUOTAS_READ,
    INGEST_SCOPE_USAGE_INGEST,
    QUANTITY_SOURCE_ONE,
    QUANTITY_SOURCE_REPORTED,
    QUANTITY_SOURCE_RESPONSE_BYTES,
    QUANTITY_SOURCE_UNSPECIFIED,
    IngestKey,
    Metering,
)

NOW = datetime(2026, 11, 20, tzinfo=UTC)
HEAD = """version: 1
currency: USD
features: [{id: chat}]
plans: {pro: {committed_fee: 1, features: []}}
tenants:
  acme:
    subscription: {id: s, plan: pro, started_at: 2026-01-01}
    credentials: [{id: main, sha256: %s}]
""" % ("a" * 64)
GOOD = (
    HEAD
    + """meters:
  - {id: report.pages, title: Pages, unit: page, aliases: [pagesRendered, Report.Pages]}
metering:
  - {id: errors, status: [404, 5xx], exclude: true}
  - {id: batch, methods: [POST], path: "/b/{id}", meter: api.calls, quantity: 2.5}
  - {id: calls, meter: api.calls, features: chat, execution_status: SUCCESS, routes: [api]}
  - {id: out, meter: bytes.response, quantity: response_bytes}
  - {id: pages, meter: report.pages, quantity: reported}
ingest_keys:
  - id: bridge
    sha256: %s
    scopes: ["usage:ingest", "quotas:read"]
    installation: eu-1
    tenants: [acme]
    expires_at: 2027-01-01
"""
    % ("B" * 64)
)


def faults(text: str) -> list[str]:
    with pytest.raises(CatalogError) as raised:
        read_text(text.encode(), name="c.yaml")
    return raised.value.lines


def test_rules_and_meters_reach_redis_as_they_are_written() -> None:
    model = build(read_text(GOOD.encode(), name="c.yaml"), NOW)
    metering = Metering.FromString(model.basis[b"aforo:v1:metering"])
    errors, batch, calls, out, pages = metering.rules

    assert metering.catalog_version
    assert (errors.exclude, list(errors.status_ranges)) == (True, ["404", "5xx"])
    assert errors.quantity == QUANTITY_SOURCE_UNSPECIFIED
    assert (list(batch.methods), batch.path_template) == (["POST"], "/b/{id}")
    assert (batch.quantity, batch.quantity_micros) == (QUANTITY_SOURCE_ONE, 2_500_000)
    assert (calls.meter, calls.quantity_micros) == ("api.calls", 1_000_000)
    assert (list(calls.features), list(calls.routes)) == (["chat"], ["api"])
    assert list(calls.execution_statuses) == ["SUCCESS"]
    assert (out.quantity, out.quantity_micros) == (QUANTITY_SOURCE_RESPONSE_BYTES, 0)
    assert (pages.rule_id, pages.quantity) == ("pages", QUANTITY_SOURCE_REPORTED)
    (meter,) = metering.meters
    assert (meter.meter, meter.title, meter.unit) == ("report.pages", "Pages", "page")
    assert list(meter.aliases) == ["pagesRendered", "Report.Pages"]


def test_an_ingest_key_is_found_by_its_hash_and_goes_with_the_catalogs() -> None:
    model = build(read_text(GOOD.encode(), name="c.yaml"), NOW)
    name = b"aforo:v1:ingest:" + b"b" * 64
    key = IngestKey.FromString(model.credentials[name])

    assert (key.key_id, key.installation, list(key.tenants)) == ("bridge", "eu-1", ["acme"])
    assert list(key.scopes) == [INGEST_SCOPE_USAGE_INGEST, INGEST_SCOPE_QUOTAS_READ]
    assert key.expires_at_micros == 1_798_761_600_000_000
    assert key.catalog_version
    assert is_ours_to_remove(b"aforo:v1:ingest:" + b"c" * 64, model)


def test_a_catalog_without_rules_says_so_that_ship_learns_of_it() -> None:
    model = build(read_text(HEAD.encode(), name="c.yaml"), NOW)

    assert not Metering.FromString(model.basis[b"aforo:v1:metering"]).rules


def test_what_would_change_is_told_by_name() -> None:
    model = build(read_text(GOOD.encode(), name="c.yaml"), NOW)
    held = IngestKey(key_id="old").SerializeToString()
    differences = Differences(
        stale=dict.fromkeys([*model.basis, *model.credentials]),
        gone={b"aforo:v1:ingest:" + b"c" * 64: held},
    )
    lines = report(model, differences).lines

    assert "+ metering" in lines
    assert "+ ingest key bridge (bbbbbbbb…)" in lines
    assert "- ingest key old (cccccccc…)" in lines


def test_a_changed_rule_and_key_are_shown_as_people_write_them() -> None:
    before = build(read_text(GOOD.encode(), name="c.yaml"), NOW)
    text = GOOD.replace("quantity: 2.5", "quantity: 3").replace(', "quotas:read"]', "]")
    after = build(read_text(text.encode(), name="c.yaml"), NOW)
    held = {**before.basis, **before.credentials}
    wanted = {**after.basis, **after.credentials}
    stale = {key: held[key] for key in wanted if held[key] != wanted[key]}
    lines = report(after, Differences(stale=stale, gone={})).lines

    assert (
        "    metering.rules[batch]: POST, /b/{id}: 2.5 api.calls → POST, /b/{id}: 3 api.calls"
        in (lines)
    )
    assert any(line.startswith("    ingest.scopes: ") for line in lines)


def case(name: str, old: str, new: str, expected: str) -> object:
    assert old in GOOD, old
    return pytest.param(GOOD.replace(old, new, 1), expected, id=name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        case(
            "built-in meter",
            "id: report.pages, title",
            "id: api.calls, title",
            'c.yaml:10: meters[0].id: "api.calls" is a built-in meter',
        ),
        case(
            "no meter's name",
            "id: report.pages, title",
            "id: Report Pages, title",
            'c.yaml:10: meters[0].id: "Report Pages" is no meter: use 1 to 128 of a-z, 0-9, ".", '
            '"_" and "-"',
        ),
        case(
            "alias of a meter that is one",
            "[pagesRendered,",
            "[api.calls,",
            'c.yaml:10: meters[0].aliases[0]: "api.calls" is a meter of its own',
        ),
        case(
            "alias twice",
            "[pagesRendered,",
            "[Report.Pages,",
            'c.yaml:10: meters[0].aliases[1]: "Report.Pages" is another name already: '
            "meters[0].aliases[0]",
        ),
        case(
            "alias with a space",
            "[pagesRendered,",
            "[pages rendered,",
            'c.yaml:10: meters[0].aliases[0]: "pages rendered" is no name of a metric: use 1 to '
            "255 printable characters without spaces",
        ),
        case(
            "no status",
            "[404, 5xx]",
            "[404, 6xx]",
            'c.yaml:12: metering[0].status[1]: "6xx" is no status: write 404, 5xx or 200-299',
        ),
        case(
            "excluding everything",
            "status: [404, 5xx], exclude",
            "exclude",
            "c.yaml:12: metering[0]: excludes every call: say which, by path, status …",
        ),
        case(
            "excluding and counting",
            "exclude: true}",
            "exclude: true, meter: api.calls}",
            "c.yaml:12: metering[0].meter: what a rule excludes counts on no meter: remove one",
        ),
        case(
            "counting nothing",
            ", exclude: true",
            "",
            "c.yaml:12: metering[0]: counts nothing: give a meter, or exclude: true",
        ),
        case(
            "method",
            "[POST]",
            "[post]",
            'c.yaml:13: metering[1].methods[0]: "post" is no method: write it in capitals, like '
            "POST",
        ),
        case(
            "path",
            '"/b/{id}"',
            "b",
            "c.yaml:13: metering[1].path: path template 'b' must start with '/'",
        ),
        case(
            "quantity of nothing",
            "quantity: 2.5",
            "quantity: 0",
            "c.yaml:13: metering[1].quantity: must be above 0 and of at most 14 digits; what is "
            "not to count is excluded",
        ),
        case(
            "quantity too fine",
            "quantity: 2.5",
            "quantity: 0.0000001",
            'c.yaml:13: metering[1].quantity: "0.0000001" is no quantity: write units a call, like '
            "1, 10 or 0.5",
        ),
        case(
            "quantity from nowhere",
            "quantity: response_bytes",
            "quantity: responsebytes",
            'c.yaml:15: metering[3].quantity: no quantity "responsebytes"; did you mean '
            '"response_bytes"? quantities are: request_bytes, response_bytes, duration_ms, '
            "reported",
        ),
        case(
            "execution status",
            "SUCCESS",
            "WON",
            'c.yaml:14: metering[2].execution_status[0]: no execution status "WON"; '
            "execution statuses are: BLOCKED, CANCELLED, ERROR, FAILED, FAILURE, "
            "HITL_REQUIRED, PARTIAL, PENDING, SUCCESS, TIMEOUT, VALIDATION_FAILED",
        ),
        case(
            "feature",
            "features: chat,",
            "features: chad,",
            'c.yaml:14: metering[2].features[0]: no feature "chad"; did you mean "chat"? features '
            "are: chat",
        ),
        case(
            "tokens",
            "meter: bytes.response",
            "meter: llm.output_tokens",
            "c.yaml:15: metering[3].meter: llm.output_tokens is counted by what providers and "
            "protocols say: remove the rule",
        ),
        case(
            "never reached",
            '{id: batch, methods: [POST], path: "/b/{id}", ',
            "{id: batch, ",
            "c.yaml:14: metering[2]: is never reached: metering[1] takes every call for "
            "api.calls, and the first that matches wins",
        ),
        case(
            "id twice",
            "id: pages,",
            "id: calls,",
            'c.yaml:16: metering[4].id: "calls" is already the id of metering[2]',
        ),
        case(
            "key in the clear",
            "B" * 64,
            "aforo_secret",
            "c.yaml:19: ingest_keys[0].sha256: is no SHA-256 (64 digits 0-9, a-f); never write the "
            "key itself here: make one with `aforo-admin mint`, or hash it with "
            '`printf %s "$KEY" | sha256sum`',
        ),
        case(
            "a tenant's key",
            "B" * 64,
            "a" * 64,
            'c.yaml:19: ingest_keys[0].sha256: is the credential "acme/main" too; a tenant\'s key '
            "must not report usage: mint another (aforo-admin mint --ingest)",
        ),
        case(
            "no scope",
            '["usage:ingest", "quotas:read"]',
            "[]",
            "c.yaml:20: ingest_keys[0].scopes: may do nothing: give one of usage:ingest, "
            "quotas:read, usage:correct",
        ),
        case(
            "unknown scope",
            '"quotas:read"',
            '"quota:read"',
            'c.yaml:20: ingest_keys[0].scopes[1]: no scope "quota:read"; did you mean '
            '"quotas:read"? scopes are: quotas:read, usage:correct, usage:ingest',
        ),
        case(
            "unknown tenant",
            "tenants: [acme]",
            "tenants: [acne]",
            'c.yaml:22: ingest_keys[0].tenants[0]: no tenant "acne"; did you mean "acme"? tenants '
            "are: acme",
        ),
    ],
)
def test_a_fault_names_line_field_and_remedy(text: str, expected: str) -> None:
    assert faults(text)[0] == expected


def test_two_keys_are_two(capsys: pytest.CaptureFixture[str]) -> None:
    twice = GOOD + f'  - {{id: other, sha256: {"b" * 64}, scopes: ["usage:ingest"]}}\n'

    assert faults(twice) == [
        "c.yaml:24: ingest_keys[1].sha256: is the key of ingest_keys[0] too; mint another"
    ]
    assert capsys.readouterr().out == ""


def test_own_meters_can_be_priced_and_limited() -> None:
    priced = GOOD.replace("features: []}", "features: [], quotas: [{id: p, meter: report.pages, "
                          "limit: 5, window: day}]}", 1)  # fmt: skip
    catalog = read_text(
        (priced + "costs: [{meter: report.pages, price: 1, per: 1k, from: 2026-01-01}]\n").encode(),
        name="c.yaml",
    )

    assert catalog.costs[0].meter == catalog.plans["pro"].quotas[0].meter == "report.pages"


def test_a_minted_ingest_key_goes_into_a_catalog_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=30)
    assert main(["mint", "--ingest", "bridge", "--expires", f"{day:%Y-%m-%d}"]) == 0

    key, _, lines = capsys.readouterr().out.partition("\n")
    (minted,) = read_text((HEAD + lines.lstrip("\n")).encode(), name="c.yaml").ingest_keys
    assert (minted.key_id, minted.scopes) == ("bridge", ("usage:ingest",))
    assert minted.sha256 == sha256_of_key(key)
    assert minted.expires_at == day


def test_an_ingest_key_is_no_tenants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mint", "--ingest", "Bridge", "--tenant", "acme"]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert '--ingest: "Bridge" is no id' in said.err
    assert "--ingest: such a key is no tenant's" in said.err
