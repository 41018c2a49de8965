"""The Django apps: the catalog in a database, and the admin's site."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig
from django.db.models.signals import post_migrate

from aforo_admin.control import immutability


class ControlConfig(AppConfig):
    name = "aforo_admin.control"
    label = "control"
    verbose_name = "Catalog"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Models can be loaded only now.
        from aforo_admin.control import role_groups, user_guard  # noqa: PLC0415

        user_guard.install()

        # After every migration: SQLite rebuilds a table that changes, and loses its triggers.
        post_migrate.connect(immutability.install, sender=self)
        post_migrate.connect(role_groups.install, sender=self)


class SiteConfig(AdminConfig):
    default = False
    default_site = "aforo_admin.control.site.ControlSite"

    def ready(self) -> None:
        super().ready()
        from aforo_admin.control import admin_users, shown  # noqa: PLC0415 - as above.

        admin_users.unregister_others()
        shown.install()
