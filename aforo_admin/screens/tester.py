"""The decision tester: what would be decided on a call, and why. It counts and keeps nothing."""

from collections.abc import Mapping
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from aforo_admin.control.models import Tenant
from aforo_admin.screens import stores
from aforo_admin.screens.page import ScreenView
from aforo_admin.screens.tester_asking import Proof, ask, call_of
from aforo_authz.check import Call
from aforo_authz.denials import DENIALS
from aforo_authz.explain import Explanation, UnknownTenantError
from aforo_authz.explain_text import CHECKED, headers_of

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
HEADERS_MAX: Final = 50
TEXT_CHARS_MAX: Final = 4096
OK: Final = 200
SECRET_HEADERS: Final = frozenset({"x-api-key", "authorization", "cookie"})
TENANT: Final = "tenant"
PROOFS: Final = (
    (TENANT, "a tenant, as if with a good credential"),
    ("api_key", "an API key"),
    ("jwt_subject", "the subject of a verified JWT"),
    ("certificate", "the URI of a verified certificate"),
    ("nobody", "nobody"),
)


class Secret(forms.PasswordInput):
    """What is typed and never sent back."""

    def __init__(self) -> None:
        super().__init__(render_value=False, attrs={"autocomplete": "off", "spellcheck": "false"})


class Headers(forms.Textarea):
    """Headers, without those that hold credentials as they are sent back."""

    def __init__(self) -> None:
        super().__init__(attrs={"rows": 3, "spellcheck": "false"})

    def format_value(self, value: Any) -> str:
        lines = str(value or "").splitlines()
        return "\n".join(line for line in lines if _name(line) not in SECRET_HEADERS)


def _name(line: str) -> str:
    return line.partition(":")[0].strip().lower()


class TesterForm(forms.Form):
    by = forms.ChoiceField(choices=PROOFS, label="Who calls", initial=TENANT)
    tenant = forms.CharField(max_length=64, required=False, label="Tenant")
    proof = forms.CharField(
        max_length=TEXT_CHARS_MAX,
        required=False,
        label="Key, subject or URI",
        widget=Secret,
        help_text="Used for this question alone: it is neither kept nor logged nor shown again.",
    )
    method = forms.ChoiceField(choices=[(name, name) for name in METHODS], label="Method")
    path = forms.CharField(
        max_length=TEXT_CHARS_MAX, initial="/", label="Path", help_text="With its query."
    )
    headers = forms.CharField(
        max_length=TEXT_CHARS_MAX,
        required=False,
        label="Headers",
        widget=Headers,
        help_text="One a line, like accept: application/json. Credentials belong above.",
    )
    route_features = forms.CharField(
        max_length=TEXT_CHARS_MAX,
        required=False,
        label="Features that the route names",
        help_text="Separated by commas. Empty: the catalog's routes say what the call needs.",
    )

    def clean_path(self) -> str:
        path = str(self.cleaned_data["path"])
        if not path.startswith("/"):
            raise ValidationError("A path begins with a slash, like /v1/search.")
        return path

    def clean_headers(self) -> Mapping[str, str]:
        lines = [line for line in str(self.cleaned_data["headers"]).splitlines() if line.strip()]
        if len(lines) > HEADERS_MAX:
            raise ValidationError(f"{HEADERS_MAX} headers at most.")
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name.strip():
                # The line is not repeated: it may hold a credential.
                raise ValidationError("Write each header as name: value, one a line.")
            if _name(line) in SECRET_HEADERS:
                raise ValidationError(
                    f"{_name(line)} holds a credential: choose above who calls, and give it there."
                )
            headers[_name(line)] = value.strip()
        return headers

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or {}
        by = given.get("by")
        if by == TENANT and not given.get("tenant"):
            self.add_error("tenant", "Say which tenant, or choose another way of calling.")
        if by in {"api_key", "jwt_subject", "certificate"} and not given.get("proof"):
            self.add_error("proof", "Say it here, or choose another way of calling.")
        return given


@method_decorator(sensitive_post_parameters(), name="dispatch")
class TesterView(ScreenView):
    template_name = "control/screens/tester.html"

    def figures(self, now_micros: int) -> dict[str, Any]:  # noqa: ARG002 - as all pages.
        return {"form": TesterForm(initial={"tenant": self.asked("tenant")})}

    def post(self, request: HttpRequest, *_arguments: Any, **given: Any) -> HttpResponse:
        """Answer in the page itself: an address would keep what was asked."""
        form = TesterForm(request.POST)
        shown = _answer(form) if form.is_valid() else {}
        return self.render_to_response(self.get_context_data(**given) | {"form": form} | shown)


@sensitive_variables()
def _answer(form: TesterForm) -> dict[str, Any]:
    given = form.cleaned_data
    by, now_micros, missing = given["by"], stores.now_micros(), stores.Missing()
    call = call_of(
        Proof(**_proof(by, given)),
        method=given["method"],
        path=given["path"],
        headers=given["headers"],
        route_features=given["route_features"],
    )
    tenant_id = given["tenant"] if by == TENANT else ""
    try:
        told = stores.run(missing.of(ask(call, tenant_id=tenant_id, now_micros=now_micros)))
    except UnknownTenantError as error:
        form.add_error("tenant", _unknown(error.tenant_id))
        return {}
    return {"missing": missing.said, **(_told(told, call) if told is not None else {})}


def _unknown(tenant_id: str) -> str:
    if Tenant.objects.filter(pk=tenant_id).exists():
        return (
            f"The tenant {tenant_id} is in the catalog, but decisions don't know it yet: "
            "aforo-admin sync tells them, within seconds where it runs."
        )
    return f"There is no tenant {tenant_id}: look its id up under Tenants, or add it there."


def _proof(by: str, given: Mapping[str, Any]) -> dict[str, str]:
    if by == TENANT:
        return {"tenant_id": given["tenant"]}
    return {} if by == "nobody" else {by: given["proof"]}


def _told(told: Explanation, call: Call) -> dict[str, Any]:
    decision = told.decision
    denial = DENIALS.get(decision.reason)
    matched = told.rules.rules[told.rule] if told.rule is not None else None
    return {
        "told": told,
        "decision": decision,
        "status": denial.status if denial is not None else OK,
        "denial": denial,
        "rule_number": None if told.rule is None else told.rule + 1,
        "rule": matched,
        "spoofed": call.spoofed_headers,
        "checks": [(CHECKED[check.reason], check) for check in told.checks],
        "answered": headers_of(told),
    }
