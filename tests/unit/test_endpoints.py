"""Whom to deliver to: what a file of endpoints may say, and what an operator is told otherwise."""

import base64
from pathlib import Path

import pytest

from aforo_meter.endpoints import DEFAULT_ID, EndpointsError, Format, endpoints_of
from aforo_meter.settings_deliver import DeliverSettings

KEYS = [bytes([number]) * 32 for number in range(3)]
SECRETS = ["whsec_" + base64.b64encode(key).decode() for key in KEYS]
LEDGER = "sqlite:////var/lib/aforo/ledger.db"
ENVIRON = {
    "FINANCE_NEW": SECRETS[0],
    "FINANCE_OLD": SECRETS[1],
    "SLACK": "https://hooks.test/T/B/x",
}
WHOLE = """
endpoints:
  - id: finance
    url: https://hooks.example.com/aforo
    kinds: [margin.level_changed, price.changed]
    tenants: [acme]
    secrets:
      - env: FINANCE_NEW
      - env: FINANCE_OLD
  - id: ops
    format: slack
    url: {env: SLACK}
"""


def settings(path: Path, text: str, **more: str) -> DeliverSettings:
    path = path / "endpoints.yaml"
    path.write_text(text)
    return DeliverSettings(ledger_url=LEDGER, endpoints=str(path), **more)  # type: ignore[arg-type]


def complaint(path: Path, text: str) -> str:
    with pytest.raises(EndpointsError) as caught:
        endpoints_of(settings(path, text), ENVIRON)
    return str(caught.value)


def test_a_file_names_endpoints_and_where_their_secrets_are(tmp_path: Path) -> None:
    finance, ops = endpoints_of(settings(tmp_path, WHOLE), ENVIRON)

    assert (finance.endpoint_id, finance.url) == ("finance", "https://hooks.example.com/aforo")
    assert (finance.format, finance.keys) == (Format.STANDARD, (KEYS[0], KEYS[1]))
    assert finance.wants(tenant_id="acme", kind="price.changed")
    assert not finance.wants(tenant_id="globex", kind="price.changed")
    assert not finance.wants(tenant_id="acme", kind="quota.reached")
    assert not finance.wants(tenant_id="", kind="price.changed")
    assert (ops.format, ops.url, ops.keys) == (Format.SLACK, "https://hooks.test/T/B/x", ())
    assert ops.wants(tenant_id="", kind="sync.stale")


def test_a_secret_may_lie_in_a_file_and_be_two(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRETS[0]}\n{SECRETS[2]}\n")
    text = f"endpoints: [{{id: a, url: 'https://a.test/', secrets: [{{file: {tmp_path}/secret}}]}}]"

    (endpoint,) = endpoints_of(settings(tmp_path, text), {})

    assert endpoint.keys == (KEYS[0], KEYS[2])


def test_one_endpoint_needs_no_file() -> None:
    given = DeliverSettings(
        ledger_url=LEDGER,
        webhook_url="https://hooks.example.com/aforo",
        webhook_secret=f"{SECRETS[0]} {SECRETS[1]}",  # type: ignore[arg-type]
    )

    (endpoint,) = endpoints_of(given, {})

    assert (endpoint.endpoint_id, endpoint.keys) == (DEFAULT_ID, (KEYS[0], KEYS[1]))
    assert endpoint.wants(tenant_id="", kind="sync.stale")


def test_nothing_that_is_shown_of_an_endpoint_is_a_secret(tmp_path: Path) -> None:
    for endpoint in endpoints_of(settings(tmp_path, WHOLE), ENVIRON):
        for text in (str(endpoint), repr(endpoint)):
            assert "/T/B/x" not in text
            assert repr(KEYS[0]) not in text
    assert str(endpoint) == "ops at hooks.test: slack, all kinds, all tenants"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("endpoints: [", "not YAML"),
        ("- finance", "expected endpoints: and a list"),
        ("endpoints: []", "endpoints: List should have at least 1 item"),
        (WHOLE.replace("id: ops", "id: finance"), "finance: an id is given to one endpoint only"),
        (WHOLE.replace("id: ops", "id: Ops!"), "endpoints[1].id: expected up to 64 of a-z"),
        (WHOLE.replace("price.changed", "price.moved"), "endpoints[0].kinds[1]: 'price.moved'"),
        (WHOLE.replace("format: slack", "format: teams"), "endpoints[1].format: "),
        (WHOLE.replace("tenants:", "tenant:"), "endpoints[0].tenant: Extra inputs"),
        (WHOLE.replace("env: FINANCE_NEW", "env: NOWHERE"), "the variable NOWHERE is not set"),
        (WHOLE.replace("env: FINANCE_NEW", "env: SLACK"), "starts with 'whsec_'"),
        (WHOLE.replace("env: FINANCE_NEW", "file: /no/where"), "/no/where can't be read"),
        (WHOLE.replace("env: FINANCE_OLD", "name: X"), "endpoints[0].secrets[1]"),
        (WHOLE.replace("env: FINANCE_OLD", "env: AFORO_METER_X"), "would be read as a setting"),
        (WHOLE.replace("format: slack", "format: standard"), "secrets is missing"),
        (WHOLE + "    secrets: [{env: FINANCE_NEW}]", "its URL is the secret"),
        (WHOLE.replace("https://hooks.example.com", "ftp://x"), "endpoint finance: expected https"),
        (
            WHOLE.replace("hooks.example.com", "10.0.0.1"),
            "leads to 10.0.0.1, which is not a public",
        ),
        (WHOLE.replace("{env: SLACK}", "{env: LOCAL}"), "the variable LOCAL is not set"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    said = complaint(tmp_path, text)

    assert told in said
    assert SECRETS[0] not in said
    assert "/T/B/x" not in said


def test_a_secret_where_its_name_belongs_is_not_repeated(tmp_path: Path) -> None:
    said = complaint(tmp_path, WHOLE.replace("- env: FINANCE_OLD", f"- {SECRETS[1]}"))

    assert "endpoints[0].secrets[1]" in said
    assert SECRETS[1] not in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    given = DeliverSettings(ledger_url=LEDGER, endpoints=f"{tmp_path}/none.yaml")

    with pytest.raises(EndpointsError, match=r"AFORO_METER_DELIVER_ENDPOINTS: .*none\.yaml"):
        endpoints_of(given, {})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "set it, or AFORO_METER_DELIVER_ENDPOINTS"),
        ({"webhook_url": "https://a.test/", "endpoints": "/e.yaml"}, "and not both"),
        ({"webhook_url": "https://a.test/"}, "AFORO_METER_DELIVER_WEBHOOK_SECRET: goes with"),
        ({"endpoints": "/e.yaml", "webhook_secret": SECRETS[0]}, "names the secrets of each"),
    ],
)
def test_one_way_of_naming_endpoints_is_chosen(given: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DeliverSettings(ledger_url=LEDGER, **given)  # type: ignore[arg-type]
