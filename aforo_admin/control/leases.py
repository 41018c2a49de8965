"""One holder among several processes, by a row that expires."""

from datetime import UTC, datetime, timedelta

from django.db import IntegrityError, connection, transaction
from django.db.models import Q

from aforo_admin.control.models import Lease


def acquire(name: str, *, holder: str, for_s: float) -> bool:
    """Take a lease that is free or has expired, or prolong one's own; say whether it is held."""
    now = _now()
    until = now + timedelta(seconds=for_s)
    free = Q(holder=holder) | Q(expires_at__lte=now)
    if Lease.objects.filter(free, name=name).update(holder=holder, expires_at=until):
        return True
    try:
        with transaction.atomic():
            Lease.objects.create(name=name, holder=holder, expires_at=until)
    except IntegrityError:  # Somebody else's.
        return False
    return True


def release(name: str, *, holder: str) -> None:
    Lease.objects.filter(name=name, holder=holder).update(expires_at=_now())


def _now() -> datetime:
    """Return the database's time, which all holders share."""
    if connection.vendor != "postgresql":  # A file: all are on this machine.
        return datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (now,) = cursor.fetchone()
    assert isinstance(now, datetime)
    return now
