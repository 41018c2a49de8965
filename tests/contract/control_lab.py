"""A database for the catalog: an SQLite file or one of the session's PostgreSQL, migrated."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connections

from aforo_admin import django_setup

_numbers = itertools.count()


def use(url: str) -> None:
    """Point this process's Django at a database; it is set up once."""
    if not django_settings.configured:
        django_setup.configure(url)
        return
    connections.close_all()
    databases = {"default": django_setup.database_of(url)}
    connections.settings = connections.configure_settings(databases)
    del connections["default"]


def migrated(url: str) -> str:
    use(url)
    call_command("migrate", verbosity=0)
    return url


@contextmanager
def database_of(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database of the kind that a fixture's parameter names."""
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'control.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"control_{id(request)}_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as sql:
        sql.execute(f"CREATE DATABASE {name}".encode())
        yield server.url(name)
        connections.close_all()
        sql.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
