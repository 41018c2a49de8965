"""`make demo` and `make demo-once`: everything on one machine."""

import argparse
import asyncio
import shutil
import signal
import sys
import time

from rich.console import Console

from demo.control import Control
from demo.live import show
from demo.observe import World
from demo.people import invited
from demo.play import play
from demo.tenants import catalog
from lab.midnight import wait_out_midnight
from lab.servers import ServerStartError, accepts_tcp, scratch_dir
from lab.stack import Options, Stack, StackCommandError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Start Envoy, Redis, a Kafka-protocol broker and all of Aforo, and watch.",
        epilog="examples: python -m demo | python -m demo --once | python -m demo --port 10000",
    )
    parser.add_argument("--once", action="store_true", help="play the story, check it, and end")
    parser.add_argument("--port", type=port, help="where Envoy listens (default: a free port)")
    parser.add_argument(
        "--transport", choices=["ngh2", "grpcio"], default="ngh2", help="authz' gRPC server"
    )
    options = parser.parse_args()
    if options.port is not None and accepts_tcp(options.port):
        parser.error(f"port {options.port} is in use: choose another --port, or leave it out")
    # A terminal that closes, or a supervisor that stops us, must end what we started too.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    home = scratch_dir("demo")
    path = home / "catalog.yaml"
    path.write_text(catalog())
    stack = Stack(
        Options(
            catalog=path,
            home=home,
            ingress_port=options.port,
            transport=options.transport,
            control=True,
            # A step checks what is decided; a core that has no time is not what it is about.
            patient=options.once,
        )
    )
    return run(stack, once=options.once)


def run(stack: Stack, *, once: bool) -> int:
    """Start the stack, play or show, and end all of it, whatever happens."""
    console = Console()
    started = time.monotonic()
    good = False
    try:
        stack.start(told=lambda text: print(f"… {text}", flush=True))
        print(f"up after {time.monotonic() - started:.1f} s: {stack.url}", flush=True)
        print(f"usage over HTTP: {stack.ingest_url}/docs", flush=True)
        world = World(stack, Control(stack.admin_url, invited(stack.control_url)))
        print(f"the admin: {stack.admin_url}/admin/", flush=True)
        print(f"the ledger: {stack.ledger_url}", flush=True)
        if once:
            wait_out_midnight(lambda text: print(f"… {text}", flush=True))
            good = asyncio.run(play(world, lambda text: print(text, flush=True)))
        else:
            asyncio.run(show(world, console))
    except KeyboardInterrupt:
        good = not once
    except (ServerStartError, StackCommandError) as error:
        print(f"demo: {error}", file=sys.stderr)
    finally:
        stack.stop()
        if good:
            shutil.rmtree(stack.home, ignore_errors=True)
        else:
            print(f"logs are kept in {stack.home}", file=sys.stderr)
    return 0 if good else 1


def port(text: str) -> int:
    number = int(text)
    if not 0 < number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is no port: choose one from 1 to 65535")
    return number


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
