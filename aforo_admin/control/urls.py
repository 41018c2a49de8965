"""What the web process answers."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.urls import include, path, re_path

from aforo_admin.control.sign_on import back_to_login
from aforo_admin.rest.api import missing, urls

SIGN_ON: list[Any] = [
    path("sso/", include("allauth.socialaccount.providers.openid_connect.urls")),
    path("sso/failed/", back_to_login, name="socialaccount_login_error"),
    path("sso/cancelled/", back_to_login, name="socialaccount_login_cancelled"),
    path("sso/signup/", back_to_login, name="socialaccount_signup"),
]

urlpatterns = [
    path("admin/", admin.site.urls),
    *(SIGN_ON if settings.AFORO_SIGN_ON is not None else []),
    path("api/v1/", urls()),
    re_path("^api/", missing),
]
