"""Django's settings, made of ours: nothing of Django's is read from files or the environment."""

import sys
import urllib.parse
from pathlib import Path
from typing import Any, Final

import django
from django.conf import settings as django_settings
from django.core.management import execute_from_command_line

from aforo_admin.django_security import SingleSignOn, security
from aforo_admin.faults import StoreError
from aforo_admin.places import Places

NOWHERE: Final = Places()
LOCK_WAIT_S: Final = 20  # How long a writer waits for another.
# A PostgreSQL that says nothing is given up after this, unless its URL says otherwise: whoever
# waits for it must end in time.
CONNECT_S: Final = 5

# SQLite: readers see the last commit while one writes, and a commit waits for the disk.
SQLITE_PRAGMAS: Final = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"

APPS: Final = (
    "aforo_admin.control.apps.ControlConfig",  # Before unfold: some of its templates stand in ours.
    "unfold.apps.BasicAppConfig",
    "aforo_admin.control.apps.SiteConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
)
# Commands of Django's that know nothing of our record, and what does the same on it.
INSTEAD: Final = {
    "changepassword": "aforo-admin user password NAME",
    "createsuperuser": "aforo-admin user add NAME --role owner",
    "loaddata": "aforo-admin apply FILE",
}
TEMPLATES: Final = {
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {
        "context_processors": [
            "django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ]
    },
}
UNFOLD: Final = {
    "SITE_TITLE": "Aforo",
    "SITE_HEADER": "Aforo",
    "SITE_SYMBOL": "scale",
    "SITE_URL": None,
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": "/static/control/icon.svg"},
    ],
    "STYLES": ["/static/control/aforo.css"],
    "SCRIPTS": ["/static/control/htmx_settings.js"],
    "SHOW_HISTORY": False,  # Django's, which knows nothing of our record.
    "SIDEBAR": {"navigation": "aforo_admin.control.navigation.sidebar"},
}
MIDDLEWARE: Final = (
    "django.middleware.security.SecurityMiddleware",
    "aforo_admin.control.static_files.StaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "aforo_admin.control.texts.no_nul",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "aforo_admin.control.headers.content_policy",
    "allauth.account.middleware.AccountMiddleware",
    "axes.middleware.AxesMiddleware",  # Last: it answers instead of a login that is locked.
)


def configure(
    database_url: str,
    *,
    secret_key: str = "",
    hosts: tuple[str, ...] = (),
    places: Places = NOWHERE,
    https: bool = False,
    sign_on: SingleSignOn | None = None,
) -> None:
    """Set Django up, once in a process.

    Args:
        database_url: As AFORO_ADMIN_DATABASE_URL has it.
        secret_key: Signs sessions; commands that serve nothing need none.
        hosts: Names by which browsers may ask.
        places: Where the pages find what is not in the database.
        https: Whether they come over TLS.
        sign_on: Where users are known; None: here alone.
    """
    django_settings.configure(
        DATABASES={"default": database_of(database_url)},
        SECRET_KEY=secret_key or "unused: this process signs nothing",
        ALLOWED_HOSTS=list(hosts),
        INSTALLED_APPS=list(APPS),
        MIDDLEWARE=list(MIDDLEWARE),
        ROOT_URLCONF="aforo_admin.control.urls",
        TEMPLATES=[TEMPLATES],
        UNFOLD=UNFOLD,
        AUTH_PASSWORD_VALIDATORS=[
            {"NAME": f"django.contrib.auth.password_validation.{name}"}
            for name in ("MinimumLengthValidator", "CommonPasswordValidator")
        ],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        AFORO_PLACES=places,
        USE_TZ=True,
        TIME_ZONE="UTC",
        FORMAT_MODULE_PATH="aforo_admin.control.formats",
        LOGIN_REDIRECT_URL="/admin/",
        STATIC_URL="/static/",
        # Straight from the packages: no step that collects them before a start.
        WHITENOISE_USE_FINDERS=True,
        WHITENOISE_AUTOREFRESH=False,
        LOGGING_CONFIG=None,  # process.configure_logging does that.
        **security(https=https, sign_on=sign_on),
    )
    django.setup()


def database_of(url: str) -> dict[str, Any]:
    """Return Django's settings of a database, whose URL our settings have checked."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "sqlite":
        path = Path(urllib.parse.unquote(parts.path.removeprefix("/")))
        options: dict[str, Any] = {
            # A writer takes the lock as it begins: it never loses to another halfway.
            "transaction_mode": "IMMEDIATE",
            "timeout": LOCK_WAIT_S,
            "init_command": SQLITE_PRAGMAS,
        }
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": options}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": urllib.parse.unquote(parts.path.removeprefix("/")),
        "USER": urllib.parse.unquote(parts.username or ""),
        "PASSWORD": urllib.parse.unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "OPTIONS": {
            "connect_timeout": str(CONNECT_S),
            **dict(urllib.parse.parse_qsl(parts.query)),
        },
    }


def manage(arguments: list[str]) -> None:
    """Run one of Django's own commands, with its own words and exit codes.

    Raises:
        StoreError: It would change something and leave no entry in the record.
    """
    if arguments and arguments[0] in INSTEAD:
        name, instead = arguments[0], INSTEAD[arguments[0]]
        raise StoreError(f"{name} leaves nothing in the record of changes: {instead} does")
    execute_from_command_line([Path(sys.argv[0]).name, *arguments])
