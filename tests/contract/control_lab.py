"""A database for the catalog: an SQLite file or one of the session's PostgreSQL, migrated."""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connections
from django.test.utils import setup_test_environment

from aforo_admin import django_setup

TEMPLATE = f"control_template_{os.getpid()}"

_numbers = itertools.count()


# Before any test imports a model. Which database it is, each test says.
if not django_settings.configured:
    django_setup.configure("sqlite:////nonexistent/control.db")
    setup_test_environment()  # Django's client sees what pages were made of.


def use(url: str) -> None:
    """Point this process's Django at a database."""
    connections.close_all()
    databases = {"default": django_setup.database_of(url)}
    connections.settings = connections.configure_settings(databases)
    with suppress(AttributeError):  # This thread may have none yet.
        del connections["default"]


def migrate(url: str) -> None:
    use(url)
    call_command("migrate", verbosity=0)
    connections.close_all()


@pytest.fixture(scope="session")
def empty_control_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("control") / "empty.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_database(tmp_path: Path, empty_control_file: Path) -> Iterator[str]:
    """The URL of an empty, migrated SQLite file, which this process uses."""
    path = shutil.copy(empty_control_file, tmp_path / "control.db")
    use(f"sqlite:///{path}")
    yield f"sqlite:///{path}"
    connections.close_all()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty, migrated database, which this process uses."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    with _on_server(request) as url:
        use(url)
        yield url
        connections.close_all()


@contextmanager
def _on_server(request: pytest.FixtureRequest) -> Iterator[str]:
    server = request.getfixturevalue("postgres_server")
    name = f"control_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as sql:
        known = sql.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE])
        if known.fetchone() is None:
            sql.execute(f"CREATE DATABASE {TEMPLATE}".encode())
            migrate(server.url(TEMPLATE))
        sql.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}".encode())
        yield server.url(name)
        sql.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
