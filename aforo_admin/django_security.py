"""Django's settings of who comes in, and what browsers may do: see docs/decisions/0024."""

from dataclasses import dataclass
from typing import Any, Final

SESSION_S: Final = 12 * 3600
HSTS_S: Final = 365 * 86_400
FAILURES_MAX: Final = 5
LOCKED_MINUTES: Final = 15

BACKENDS: Final = (
    "axes.backends.AxesStandaloneBackend",  # First: it refuses who has failed too often.
    "django.contrib.auth.backends.ModelBackend",
)
OIDC_BACKEND: Final = "allauth.account.auth_backends.AuthenticationBackend"
OIDC: Final = "oidc"  # Our only provider's id: it is part of the redirect address.


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleSignOn:
    """An OpenID Connect provider, and which of its groups is which role.

    Args:
        issuer: Its URL, below which /.well-known/openid-configuration lies.
        client_id: Ours with it.
        client_secret: Ours with it.
        claim: Which one names a user's groups: a text, or a list of them.
        roles: Group → role. Who is in none of them doesn't come in.
    """

    issuer: str
    client_id: str
    client_secret: str
    claim: str
    roles: dict[str, str]


def security(*, https: bool, sign_on: SingleSignOn | None) -> dict[str, Any]:
    """Return the settings.

    Args:
        https: Browsers come over TLS, and never without.
        sign_on: Where users are known; None: here alone.
    """
    # Coming back from the provider is a step from another site, which strict cookies don't take.
    same_site = "Strict" if sign_on is None else "Lax"
    return {
        "AUTHENTICATION_BACKENDS": [*BACKENDS, *([OIDC_BACKEND] if sign_on else [])],
        "SESSION_COOKIE_AGE": SESSION_S,
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": same_site,
        "SESSION_COOKIE_SECURE": https,
        "CSRF_COOKIE_SAMESITE": same_site,
        "CSRF_COOKIE_SECURE": https,
        "CSRF_FAILURE_VIEW": "aforo_admin.control.refusals.unproven",
        "SECURE_SSL_REDIRECT": https,
        "SECURE_HSTS_SECONDS": HSTS_S if https else 0,
        "SECURE_HSTS_INCLUDE_SUBDOMAINS": https,
        "SECURE_REFERRER_POLICY": "same-origin",
        "X_FRAME_OPTIONS": "DENY",
        # Browsers' built-in list is for whole domains: whoever owns one decides that.
        "SILENCED_SYSTEM_CHECKS": ["security.W021"],
        **_THROTTLING,
        **_SIGN_ON,
        **({} if sign_on is None else _provider(sign_on)),
    }


_THROTTLING: Final[dict[str, Any]] = {
    "AXES_FAILURE_LIMIT": FAILURES_MAX,
    "AXES_COOLOFF_TIME": LOCKED_MINUTES / 60,
    # Both: nobody locks a colleague out, and an office behind one address isn't one person.
    "AXES_LOCKOUT_PARAMETERS": [["username", "ip_address"]],
    "AXES_RESET_ON_SUCCESS": True,
    "AXES_DISABLE_ACCESS_LOG": True,
    "AXES_ENABLE_ADMIN": False,
    "AXES_LOCKOUT_TEMPLATE": "control/locked_out.html",
    "AXES_VERBOSE": False,
}
_SIGN_ON: Final[dict[str, Any]] = {
    "SOCIALACCOUNT_ONLY": True,  # Passwords are Django's own affair, on its own page.
    "ACCOUNT_EMAIL_VERIFICATION": "none",
    "SOCIALACCOUNT_ADAPTER": "aforo_admin.control.sign_on.Adapter",
    "SOCIALACCOUNT_STORE_TOKENS": False,
    "SOCIALACCOUNT_OPENID_CONNECT_URL_PREFIX": "",  # Ours begins with sso/.
    # A GET may begin a sign-in: what comes back is bound to this browser by its state.
    "SOCIALACCOUNT_LOGIN_ON_GET": True,
    "AFORO_SIGN_ON": None,
}


def _provider(sign_on: SingleSignOn) -> dict[str, Any]:
    app = {
        "provider_id": OIDC,
        "name": "single sign-on",
        "client_id": sign_on.client_id,
        "secret": sign_on.client_secret,
        "settings": {"server_url": sign_on.issuer, "oauth_pkce_enabled": True},
    }
    return {
        "AFORO_SIGN_ON": sign_on,
        "SOCIALACCOUNT_PROVIDERS": {"openid_connect": {"APPS": [app]}},
    }
