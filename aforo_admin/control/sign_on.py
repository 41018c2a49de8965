"""Single sign-on: who the provider says somebody is, and which role that is here."""

from typing import Any

import structlog
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from aforo_admin import store
from aforo_admin.control import role_groups, users
from aforo_admin.control.recording import Source
from aforo_admin.control.roles import Role
from aforo_admin.django_security import SingleSignOn

log = structlog.get_logger(__name__)


class Adapter(DefaultSocialAccountAdapter):
    """Lets in who has a role, with the role that the provider says at each sign-in."""

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        role = role_of(sociallogin.account.extra_data, settings.AFORO_SIGN_ON)
        if role is None:
            log.warning("signed on without a role", subject=sociallogin.account.uid)
            raise ImmediateHttpResponse(render(request, "control/no_role.html", status=403))
        if not sociallogin.is_existing:
            sociallogin.user.role = role
            return
        if not sociallogin.user.is_active:
            raise ImmediateHttpResponse(render(request, "control/no_role.html", status=403))
        with _change(sociallogin.user) as made:
            followed = users.follow_provider(sociallogin.user, role, made)
        if not followed:
            log.warning(
                "the last owner keeps the role, against the provider",
                user=sociallogin.user.get_username(),
                role_by_provider=role.value,
                remedy="give another user the role owner; the next sign-in then takes this one's",
            )

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        sociallogin.user.is_staff = True
        role = sociallogin.user.role
        with _change(sociallogin.user):
            user: User = super().save_user(request, sociallogin, form)
            role_groups.set_role(user, role)
        return user

    def is_open_for_signup(self, _request: HttpRequest, _sociallogin: Any) -> bool:
        return True  # Who has no role has been sent away by now.

    def on_authentication_error(
        self, request: HttpRequest, _provider: Any, error: Any = None, **_more: Any
    ) -> None:
        log.warning("single sign-on failed", error=str(error))
        raise ImmediateHttpResponse(render(request, "control/sign_on_failed.html", status=502))


def _change(user: User) -> Any:
    # No rule of the catalog speaks of users; who they are, the provider answers for.
    return store.change(
        actor="single sign-on",
        source=Source.UI,
        reason=f"{user.get_username()} signed on",
        checked=True,
    )


def role_of(claims: dict[str, Any], sign_on: SingleSignOn) -> Role | None:
    """Return the role of somebody, the widest of several.

    Args:
        claims: What the provider says of them; allauth keeps those of the two sources apart.
        sign_on: What its groups mean.
    """
    said: list[str] = []
    for source in (claims, claims.get("userinfo") or {}, claims.get("id_token") or {}):
        value = source.get(sign_on.claim)
        said += [value] if isinstance(value, str) else [str(each) for each in value or ()]
    roles = {sign_on.roles[group] for group in said if group in sign_on.roles}
    found = [role for role in Role if role.value in roles]
    return found[-1] if found else None


def back_to_login(request: HttpRequest) -> HttpResponse:
    """Answer at allauth's addresses that we have no pages for."""
    messages.error(request, "The provider's sign-in came to nothing: try again, or ask an owner.")
    return HttpResponseRedirect(reverse("admin:login"))
