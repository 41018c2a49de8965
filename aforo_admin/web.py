"""`aforo-admin serve`: the pages, over HTTP."""

import contextlib
import signal
import traceback
from collections.abc import Iterator
from typing import Any, Final

import structlog
import uvicorn

from aforo_admin import django_setup, process, settings
from aforo_admin.body_bounds import bounded
from aforo_admin.places import Places
from aforo_admin.probes import Readiness, probed
from aforo_meter.http_server import Server

log = structlog.get_logger()

# For requests under way; a what-if takes longest. Kubernetes waits longer (k8s/base/admin).
DRAIN_S: Final = 20
HANDLED: Final = (signal.SIGINT, signal.SIGTERM)


class AdminServer(Server):
    """A server that ends with 0 after a signal; uvicorn's way is to die of it all the same."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(chosen: settings.ServeSettings) -> int:
    """Serve until a signal.

    Raises:
        ListenError: The address is in use or can't be listened on.
    """
    process.configure_logging(chosen.log_level)
    configure(chosen)
    # They need the settings.
    from django.core.asgi import get_asgi_application  # noqa: PLC0415
    from django.core.signals import got_request_exception  # noqa: PLC0415

    got_request_exception.connect(log_failure)

    host, port = settings.host_and_port(chosen.listen)
    config = uvicorn.Config(
        probed(bounded(get_asgi_application()), Readiness(read_head)),
        host=host,
        port=port,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
        forwarded_allow_ips=",".join(chosen.proxies),
    )
    AdminServer(config).run()
    return 0


def configure(chosen: settings.ServeSettings) -> None:
    """Set Django up as it serves."""
    django_setup.configure(
        chosen.database_url,
        secret_key=chosen.secret_key.get_secret_value(),
        hosts=chosen.hosts,
        https=chosen.https,
        sign_on=chosen.sign_on,
        places=Places(
            ledger_url=chosen.ledger_url,
            redis_url=chosen.redis_url,
            kafka_bootstrap=chosen.kafka_bootstrap,
            dead_letter_topic=chosen.dead_letter_topic,
        ),
    )


def read_head() -> None:
    """Read what every change reads first.

    Raises:
        django.db.Error: The database does not answer, or was never migrated.
    """
    from django.db import connection  # noqa: PLC0415

    from aforo_admin.control.models_records import Head  # noqa: PLC0415

    try:
        list(Head.objects.all()[:1])
    finally:
        connection.close()  # This thread's own: none is kept for a probe.


def log_failure(request: Any, **_given: Any) -> None:  # noqa: ANN401 - Django has no types.
    """Log what a page failed of: whoever asked reads 500 alone.

    Without the values of variables, and without the address's query: there may be secrets in them.
    """
    log.error(
        "a page failed", method=request.method, path=request.path, trace=traceback.format_exc()
    )
