"""h2load, of nghttp2: a client in C++ that a server in Python can't outrun."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from aforo_authz.authorize import PATH

CONNECTIONS, STREAMS = 8, 32  # 256 checks under way: what several Envoys' threads would ask.


class H2loadError(Exception):
    """h2load is missing, or some of its requests failed."""


@dataclass(frozen=True, slots=True)
class Rate:
    requests_per_s: float
    failed: int


def checks(port: int, body: Path, *, requests: int) -> Rate:
    """Send the same check again and again, as fast as answers come."""
    return _run(
        *("-c", str(CONNECTIONS), "-m", str(STREAMS), "-n", str(requests), "-d", str(body)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "grpc-timeout: 250m"),
        f"http://127.0.0.1:{port}{PATH}",
    )


def http1(port: int, path: str, header: str, *, requests: int, connections: int) -> Rate:
    """Send HTTP/1.1 requests, one at a time on each connection."""
    return _run(
        *("--h1", "-c", str(connections), "-n", str(requests), "-H", header),
        f"http://127.0.0.1:{port}{path}",
    )


def require() -> None:
    """Stop early where h2load is missing.

    Raises:
        H2loadError: It is.
    """
    if shutil.which("h2load") is None:
        raise H2loadError("h2load is missing: apt-get install nghttp2-client")


def _run(*arguments: str) -> Rate:
    require()
    done = subprocess.run(["h2load", *arguments], capture_output=True, text=True, check=True)  # noqa: S607
    rate = re.search(r"([\d.]+) req/s", done.stdout)
    counts = re.search(r"status codes: (\d+) 2xx", done.stdout)
    total = re.search(r"requests: (\d+) total", done.stdout)
    if rate is None or counts is None or total is None:
        raise H2loadError(f"h2load said something else:\n{done.stdout}{done.stderr}")
    return Rate(float(rate[1]), int(total[1]) - int(counts[1]))
