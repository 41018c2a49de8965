"""What the web process answers."""

from django.contrib import admin
from django.urls import path, re_path

from aforo_admin.rest.api import api, missing

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
    re_path("^api/", missing),
]
