"""The command line of `aforo-authz explain`."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from typing import IO

from aforo_authz.check import Call, sha256_hex
from aforo_authz.denials import DENIALS
from aforo_authz.domain.access import CredentialKind
from aforo_authz.domain.features import sorted_unique
from aforo_authz.explain import Question, UnexplainableError, explain
from aforo_authz.explain_text import as_json, as_text
from aforo_authz.policies import Presented
from aforo_authz.redis_url import parse_redis_url
from aforo_authz.settings import Settings

NOT_EXPLAINED = 3

EXAMPLES = """examples:
  aforo-authz explain --tenant acme --method POST --path /v1/chat/completions
  aforo-authz explain --credential - --path /v1/search < key.txt
  aforo-authz explain --tenant acme --path /v1/search --at 2026-12-01T00:00:00Z --json
  aforo-authz explain --decision-id 5f0c… --log authz.log

Reads Redis (AFORO_AUTHZ_REDIS_URL) and changes nothing: no quota is counted. A key on the command
line is seen by others on the machine, in the list of processes: --credential - reads it from
standard input.
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "explain",
        help="why a call is allowed, throttled or blocked",
        description="Says what would be decided on a call now, why, and on which values.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    who = command.add_mutually_exclusive_group()
    who.add_argument(
        "--credential", metavar="KEY", help="an API key; - reads it from standard input"
    )
    who.add_argument("--jwt-subject", metavar="SUB", help="the claim that Envoy has verified")
    who.add_argument("--certificate", metavar="URI", help="the URI of a verified certificate")
    who.add_argument("--tenant", metavar="ID", help="as if it had shown a valid credential")
    command.add_argument("--method", default="GET", help="(default: GET)")
    command.add_argument(
        "--path", type=_path, default="/", help="with its query, as Envoy sees it (default: /)"
    )
    command.add_argument("--features", help="what the route itself names, separated by commas")
    command.add_argument("--at", type=_instant, help="another moment, ISO 8601 (default: now)")
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--decision-id", help="find what the log says of a decision, instead")
    command.add_argument("--log", default="-", help="where to look for it; - is standard input")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Explain; return the exit code: 0, or 3 if nothing could be said."""
    try:
        print(_found(options) if options.decision_id else _explained(options, settings))  # noqa: T201
    except UnexplainableError as error:
        print(f"aforo-authz explain: {error}", file=sys.stderr)  # noqa: T201
        return NOT_EXPLAINED
    return 0


def _explained(options: argparse.Namespace, settings: Settings) -> str:
    features = options.features
    call = Call(
        presented=_presented(options),
        method=options.method.upper(),
        path=options.path,
        route_features=None if features is None else sorted_unique(features.split(",")),
        provider="",
        spoofed_headers=(),
    )
    now_micros = options.at or time.time_ns() // 1000
    told = asyncio.run(
        explain(
            Question(call=call, tenant_id=options.tenant or "", now_micros=now_micros),
            parse_redis_url(settings.redis_url),
            stale_max_micros=settings.stale_max_s * 1_000_000,
            denials={reason: settings.denial_of(reason) for reason in DENIALS},
        )
    )
    return (as_json if options.json else as_text)(told, call, now_micros)


def _presented(options: argparse.Namespace) -> Presented | None:
    if options.credential:
        key = sys.stdin.readline().strip() if options.credential == "-" else options.credential
        return Presented(kind=CredentialKind.API_KEY, sha256_hex=sha256_hex(key))
    if options.jwt_subject:
        digest = sha256_hex(f"jwt\0{options.jwt_subject}")
        return Presented(kind=CredentialKind.JWT_SUBJECT, sha256_hex=digest)
    if options.certificate:
        digest = sha256_hex(f"certificate\0{options.certificate}")
        return Presented(kind=CredentialKind.CERTIFICATE, sha256_hex=digest)
    return None


def _found(options: argparse.Namespace) -> str:
    """Return what the log says of a decision, a line for each fact."""
    if options.log == "-":
        return _told_in(sys.stdin, options.decision_id)
    try:
        with open(options.log, encoding="utf-8", errors="replace") as log:  # noqa: PTH123
            return _told_in(log, options.decision_id)
    except OSError as error:
        raise UnexplainableError(f"cannot read {options.log}: {error.strerror}") from error


def _told_in(log: IO[str] | Iterable[str], decision_id: str) -> str:
    for line in log:
        if decision_id not in line:
            continue
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and told.get("decision_id") == decision_id:
            return "\n".join(f"{name:<16} {value}" for name, value in told.items())
    raise UnexplainableError(
        f"the log says nothing of {decision_id}: refusals are always logged, up to"
        " AFORO_AUTHZ_LOG_REFUSALS_PER_S_MAX; of other decisions, AFORO_AUTHZ_LOG_SAMPLE_RATIO"
    )


def _path(text: str) -> str:
    """Return a path if it is one; Envoy never sees another."""
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no path: it begins with a slash")
    return text


def _instant(text: str) -> int:
    """Parse an ISO time into Unix microseconds; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write 2026-12-01T00:00:00Z"
        ) from None
    epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    aware = at if at.tzinfo is not None else at.replace(tzinfo=epoch.tzinfo)
    seconds = (aware - epoch).total_seconds()
    return round(seconds) * 1_000_000
