"""What stands in the sidebar, in order, and which pages there are beside the forms.

A page is one line here: it then has an address, a permission, and its place in the sidebar. Its
view is a `control.page.PageView`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest
from django.urls import path, reverse
from django.utils.module_loading import import_string

VIEW: Final = "aforo_admin.control"
SCREENS: Final = "aforo_admin.screens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of its own, at /admin/ and `route`, named `admin:` and `name`."""

    name: str
    title: str
    view: str  # Dotted path of a PageView.
    icon: str = ""  # Of Material Symbols. Empty: it is not in the sidebar.
    route: str = ""  # Empty: the name and a slash. It may take parameters, like tenants/<str:id>/.
    permission: str = "control.view_tenant"

    @property
    def shown(self) -> bool:
        return bool(self.icon)

    @property
    def url_name(self) -> str:
        return f"admin:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The list of a model's rows, with their forms."""

    model: str  # In small letters.
    title: str
    icon: str
    app: str = "control"

    @property
    def shown(self) -> bool:
        return True

    @property
    def permission(self) -> str:
        return f"{self.app}.view_{self.model}"

    @property
    def url_name(self) -> str:
        return f"admin:{self.app}_{self.model}_changelist"


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    lines: tuple[Page | Table, ...]


GROUPS: Final = (
    Group(
        "See",
        (
            Page(
                name="overview",
                title="Overview",
                icon="monitoring",
                view=f"{SCREENS}.overview.OverviewView",
            ),
            Page(
                name="margins",
                title="Margins",
                icon="percent",
                view=f"{SCREENS}.margins.MarginsView",
            ),
            Page(
                name="margin",
                title="Tenant",
                route="margins/<str:tenant_id>/",
                view=f"{SCREENS}.tenant.TenantView",
            ),
            Page(
                name="interventions",
                title="Interventions",
                icon="block",
                view=f"{SCREENS}.interventions.InterventionsView",
            ),
            Page(
                name="prices",
                title="Prices in force",
                icon="receipt_long",
                view=f"{SCREENS}.prices.PricesView",
            ),
            Page(
                name="price",
                title="Price",
                route="prices/one/",
                view=f"{SCREENS}.prices.PriceView",
            ),
            Page(
                name="prices-import",
                title="Import prices",
                route="prices/import/",
                view=f"{VIEW}.price_import.PriceImportView",
                permission="control.add_costprice",
            ),
            Page(
                name="what-if",
                title="What if",
                icon="query_stats",
                view=f"{SCREENS}.what_if.WhatIfView",
                permission="control.view_scenario",
            ),
            Page(
                name="what-if-prices",
                title="What new prices do",
                route="what-if/prices/",
                view=f"{SCREENS}.what_if_prices.PricePreviewView",
                permission="control.view_scenario",
            ),
            Page(
                name="tester",
                title="Decision tester",
                icon="fact_check",
                view=f"{SCREENS}.tester.TesterView",
            ),
        ),
    ),
    Group(
        "Sell",
        (
            Table(model="tenant", title="Tenants", icon="groups"),
            Table(model="deal", title="Deals", icon="handshake"),
            Table(model="planversion", title="Plans", icon="sell"),
            Table(model="feature", title="Features", icon="category"),
        ),
    ),
    Group(
        "Price",
        (
            Table(model="costprice", title="Price book", icon="payments"),
            Table(model="exchangerate", title="Exchange rates", icon="currency_exchange"),
            Table(model="marginoverride", title="Margin overrides", icon="gpp_maybe"),
            Table(model="general", title="Floors and general", icon="tune"),
        ),
    ),
    Group(
        "Meter",
        (
            Table(model="route", title="Routes", icon="alt_route"),
            Table(model="meter", title="Meters", icon="speed"),
            Table(model="meteringrule", title="Metering rules", icon="rule"),
        ),
    ),
    Group(
        "Connect",
        (
            Table(model="credential", title="Credentials", icon="key"),
            Table(model="ingestkey", title="Ingest keys", icon="vpn_key"),
            Table(model="webhookendpoint", title="Webhooks", icon="webhook"),
        ),
    ),
    Group(
        "Look after",
        (
            Page(
                name="sessions",
                title="Sessions",
                icon="smart_toy",
                view=f"{SCREENS}.sessions.SessionsView",
            ),
            Page(
                name="deliveries",
                title="Alerts",
                icon="notifications",
                view=f"{SCREENS}.deliveries.DeliveriesView",
            ),
            Page(
                name="delivery",
                title="Alert",
                route="deliveries/<str:message_id>/",
                view=f"{SCREENS}.deliveries.DeliveryView",
            ),
            Page(
                name="letters",
                title="Dead letters",
                icon="mark_email_unread",
                view=f"{SCREENS}.letters.LettersView",
            ),
            Page(
                name="letter",
                title="Dead letter",
                route="letters/<str:place>/",
                view=f"{SCREENS}.letters.LetterView",
            ),
            Page(
                name="audit",
                title="Audit",
                icon="history",
                view=f"{SCREENS}.record.AuditView",
                permission="control.view_auditentry",
            ),
            Table(app="auth", model="user", title="Users", icon="person"),
        ),
    ),
)


def pages() -> Iterator[Page]:
    for group in GROUPS:
        yield from (line for line in group.lines if isinstance(line, Page))


def urls(admin_view: Callable[[Any], Any]) -> list[Any]:
    """Return the addresses of the pages. `admin_view` asks for a login first."""
    return [
        path(
            page.route or f"{page.name}/",
            admin_view(import_string(page.view).as_view(page=page)),
            name=page.name,
        )
        for page in pages()
    ]


def tables() -> Iterator[Table]:
    for group in GROUPS:
        yield from (line for line in group.lines if isinstance(line, Table))


def title_at(link: str) -> str:
    """Return what the sidebar calls the list at an address; empty: none is there."""
    return next((table.title for table in tables() if reverse(table.url_name) == link), "")


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar of whoever asks, in unfold's terms."""
    return [
        {
            "title": group.title,
            "items": [_item(line, request) for line in group.lines if line.shown],
        }
        for group in GROUPS
    ]


def _item(line: Page | Table, request: HttpRequest) -> dict[str, Any]:
    link = reverse(line.url_name)
    return {
        "title": line.title,
        "icon": line.icon,
        "link": link,
        "active": request.path.startswith(link),
        "permission": lambda asking: asking.user.has_perm(line.permission),
    }
