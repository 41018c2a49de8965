"""aforo-authz: the command line."""

import argparse
import asyncio
import os
import sys

import uvloop

from aforo_authz.log import configure_logging
from aforo_authz.server import AddressError
from aforo_authz.serving import serve
from aforo_authz.settings import SettingsError, describe, load
from aforo_authz.tls import TlsError

EXAMPLES = """examples:
  aforo-authz serve
  AFORO_AUTHZ_LISTEN=unix:/run/aforo/authz.sock aforo-authz serve
  aforo-authz serve --transport grpcio
  aforo-authz check-config

Every setting is a variable that begins with AFORO_AUTHZ_; check-config prints them all.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="aforo-authz",
        description="Decides for Envoy whether a request may pass: allow, throttle or block.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve_command = commands.add_parser("serve", help="serve Envoy's ext_authz over gRPC")
    serve_command.add_argument(
        "--transport", choices=["ngh2", "grpcio"], help="which gRPC server (default: the setting)"
    )
    commands.add_parser("check-config", help="print the settings in force, and stop")
    options = parser.parse_args(arguments)
    try:
        settings = load(os.environ)
        if options.command == "check-config":
            print(describe(settings))  # noqa: T201 - what the command is for
            return 0
        if options.transport:
            settings = settings.model_copy(update={"transport": options.transport})
        configure_logging(settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (SettingsError, AddressError, TlsError) as error:
        print(f"aforo-authz: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
