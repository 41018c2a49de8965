"""aforo-authz: the command line."""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Coroutine

import uvloop

from aforo_authz import explain_command, otlp
from aforo_authz.log import configure_logging
from aforo_authz.otlp import OtlpError
from aforo_authz.server import AddressError
from aforo_authz.serving import serve
from aforo_authz.settings import Settings, SettingsError, describe, load
from aforo_authz.tls import TlsError
from aforo_authz.workers import Workers

EXAMPLES = """examples:
  aforo-authz serve
  AFORO_AUTHZ_LISTEN=unix:/run/aforo/authz.sock aforo-authz serve
  aforo-authz serve --workers 4
  aforo-authz serve --transport grpcio
  aforo-authz explain --tenant acme --method POST --path /v1/chat
  aforo-authz check-config

Every setting is a variable that begins with AFORO_AUTHZ_; check-config prints them all. Where
OTEL_EXPORTER_OTLP_ENDPOINT is set, a span of each check is sent there.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="aforo-authz",
        description="Decides for Envoy whether a request may pass: allow, throttle or block.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(transport=None, workers=None)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{serve,explain,check-config}"
    )
    serve_command = commands.add_parser("serve", help="serve Envoy's ext_authz over gRPC")
    serve_command.add_argument(
        "--transport", choices=["ngh2", "grpcio"], help="which gRPC server (default: the setting)"
    )
    serve_command.add_argument(
        "--workers", type=int, help="how many processes (default: the setting)"
    )
    worker_command = commands.add_parser("worker")  # Not listed: only a parent starts it.
    worker_command.add_argument("channel", type=int)
    commands.add_parser("check-config", help="print the settings in force, and stop")
    explain_command.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        chosen = {"transport": options.transport, "workers": options.workers}
        settings = load(os.environ, **{k: v for k, v in chosen.items() if v is not None})
        if options.command == "check-config":
            print(describe(settings))  # noqa: T201 - what the command is for
            spans = otlp.load(os.environ)
            print(f"# spans: {spans or 'off'} (OTEL_EXPORTER_OTLP_ENDPOINT)")  # noqa: T201
            return 0
        if options.command == "explain":
            return explain_command.run(options, settings)
        spans = otlp.load(os.environ)
        if options.command == "worker":
            return run(settings, serve(settings, spans, socket.socket(fileno=options.channel)))
        several = settings.workers > 1
        return run(settings, Workers(settings).serve() if several else serve(settings, spans))
    except (SettingsError, AddressError, TlsError, OtlpError) as error:
        print(f"aforo-authz: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2


def run(settings: Settings, work: Coroutine[None, None, None]) -> int:
    configure_logging(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
