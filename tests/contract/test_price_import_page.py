"""Prices from a CSV in the admin: shown first, then added as shown, all or none, on the record."""

import re
from collections.abc import Mapping

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client

from aforo_admin import audit, store
from aforo_admin.catalog_yaml import read_file
from aforo_admin.control.models import AuditEntry, CostPrice
from aforo_admin.control.roles import Role
from aforo_admin.price_csv import COLUMNS
from lab.servers import ROOT
from tests.contract.forms_lab import as_role, sent
from tests.contract.test_control_pages import (  # noqa: F401 - fixtures.
    address,
    browser,
    log_in,
    settings,
    token,
)
from tests.contract.test_control_process import (  # noqa: F401 - fixtures.
    control,
    filled,
    sqlite_only,
)
from tests.contract.test_sync_process import aforo_admin

pytestmark = [pytest.mark.contract, pytest.mark.slow]

PAGE = "/admin/prices/import/"
HEADER = "meter,provider,model,price,per,from"
GOOD = f"""\
{HEADER}
llm.input_tokens,own,a,2.50,1M,2027-01-01
llm.output_tokens,own,a,10,1M,2027-01-01
"""
WRONG = GOOD.replace(",10,", ",ten,")


@pytest.fixture
def finance(database: str) -> Client:  # noqa: ARG001 - Django uses it.
    store.apply_catalog(read_file(ROOT / "catalog.example.yaml"), actor="tests")
    return as_role(Role.FINANCE)


def looked(client: Client, text: str | bytes) -> HttpResponse:
    data = text if isinstance(text, bytes) else text.encode()
    file = SimpleUploadedFile("prices.csv", data, content_type="text/csv")
    return client.post(PAGE, {"step": "look", "file": file})


def hidden(answer: HttpResponse) -> dict[str, str]:
    """Return what the page would send if somebody agreed: without a reason."""
    form = answer.context["asked"]
    said = {name: form[name].value() for name in ("text", "digest")}
    return {"step": "apply", **said}


def applied(client: Client, said: Mapping[str, str], reason: str = "contract 1043") -> HttpResponse:
    return client.post(PAGE, {**said, "change_reason": reason}, follow=True)


def words(answer: HttpResponse) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", answer.content.decode()).split())


def test_a_file_is_shown_then_added_as_shown_and_recorded(finance: Client) -> None:
    seq = audit.last_seq()
    shown = looked(finance, GOOD)
    held = audit.last_seq()
    done = applied(finance, hidden(shown))

    assert "2 entries." in words(shown)
    assert "2 llm.input_tokens own a 2.50 1,000,000 2027-01-01 00:00:00 0 all day" in words(shown)
    assert held == seq
    assert "2 prices were added." in words(done)
    costs = store.load_catalog().catalog.costs
    assert [(each.meter, each.price_nanos) for each in costs[-2:]] == [
        ("llm.input_tokens", 2_500_000_000),
        ("llm.output_tokens", 10_000_000_000),
    ]
    entries = AuditEntry.objects.filter(seq__gt=seq)
    assert [(each.actor, each.source, each.kind, each.reason) for each in entries] == [
        ("finance", "ui", "cost price", "contract 1043")
    ] * 2
    again = looked(finance, GOOD)
    assert "all 2 prices of the file are in the price book already" in words(again)


def test_a_wrong_row_is_told_at_the_field_and_nothing_is_added(finance: Client) -> None:
    seq = audit.last_seq()
    answer = looked(finance, WRONG)
    smuggled = applied(finance, {"step": "apply", "text": WRONG, "digest": "x"})

    (told,) = answer.context["form"].errors["file"]
    assert told.startswith("one thing is wrong: correct the rows below in the file")
    assert '3 price "ten" is no amount: write digits and a point' in words(answer).replace(
        "&quot;", '"'
    )
    assert answer.context["rows"] is None
    assert "Nothing was added" in words(smuggled)
    assert audit.last_seq() == seq


def test_an_addition_needs_a_reason(finance: Client) -> None:
    seq = audit.last_seq()
    said = hidden(looked(finance, GOOD))

    answer = applied(finance, said, reason=" ")

    assert "say why: who looks at these prices" in words(answer)
    assert hidden(answer) == said
    assert audit.last_seq() == seq


def test_what_was_not_shown_is_not_added(finance: Client) -> None:
    """Somebody adds one of the two meanwhile; and another file comes under the same digest."""
    said = hidden(looked(finance, GOOD))
    other = applied(finance, {**said, "text": GOOD.replace("2.50", "0.01")})
    sent(
        finance,
        "costprice/add/",
        meter="llm.input_tokens",
        provider="own",
        model="a",
        price_nanos="2.50",
        per_units="1000000",
        effective_from_0="2027-01-01",
        effective_from_1="00:00:00",
    )
    seq = audit.last_seq()
    overtaken = applied(finance, said)
    held = audit.last_seq()
    again = applied(finance, hidden(overtaken))

    assert "the price book has changed since this was shown" in words(other)
    assert "the price book has changed since this was shown" in words(overtaken)
    assert "1 entry; 1 of the file is in the price book already" in words(overtaken)
    assert held == seq
    assert "1 price was added." in words(again)
    assert CostPrice.objects.filter(provider="own").count() == 2


def test_another_price_that_came_meanwhile_refuses_all(finance: Client) -> None:
    said = hidden(looked(finance, GOOD))
    applied(finance, hidden(looked(finance, GOOD.replace("10,1M", "11,1M"))))
    seq = audit.last_seq()

    refused = applied(finance, said)

    assert "Nothing was added: one thing is wrong" in words(refused)
    assert "overlaps an entry of the price book" in words(refused)
    assert audit.last_seq() == seq


@pytest.mark.parametrize("role", [Role.VIEWER, Role.PRODUCT, Role.DEVELOPER])
def test_who_may_add_no_price_imports_none(finance: Client, role: Role) -> None:
    client = as_role(role)
    said = hidden(looked(finance, GOOD))

    assert client.get(PAGE).status_code == 403
    assert looked(client, GOOD).status_code == 403
    assert applied(client, said).status_code == 403
    assert "Import a CSV" not in client.get("/admin/control/costprice/").content.decode()
    assert "Import a CSV" in finance.get("/admin/control/costprice/").content.decode()


def test_no_file_and_a_file_too_large_are_told_at_the_field(finance: Client) -> None:
    none = finance.post(PAGE, {"step": "look"})
    large = looked(finance, HEADER + "\n" + "x" * 300 * 1024)

    assert none.context["form"].errors["file"] == ["choose a file, and look at it again"]
    assert large.context["form"].errors["file"]
    assert "file is larger than 256 KiB: split it up" in words(large)


def test_the_template_has_all_columns(finance: Client) -> None:
    page, file = finance.get(PAGE), finance.get(PAGE, {"template": ""})

    assert file.headers["Content-Type"].startswith("text/csv")
    assert file.content.decode().strip().split(",") == list(COLUMNS)
    assert all(f"{name} {what}" in words(page) for name, what in COLUMNS.items())


@sqlite_only
def test_a_file_is_sent_and_added_by_http(
    address: str,  # noqa: F811 - the fixture.
    filled: Mapping[str, str],  # noqa: F811 - the fixture.
) -> None:
    with browser(address) as client:
        log_in(client)
        files = {"file": ("prices.csv", GOOD.encode(), "text/csv")}
        said = {"step": "look", "csrfmiddlewaretoken": token(client, "prices/import/")}
        shown = client.post("prices/import/", data=said, files=files).text
        inputs = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', shown))
        done = client.post(
            "prices/import/", data={**inputs, "step": "apply", "change_reason": "contract 1043"}
        )

    assert "2 prices were added." in done.text
    assert "provider: own, model: a" in aforo_admin("export", env=filled).stdout
