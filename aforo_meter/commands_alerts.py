"""The subcommands `alerts list`, `show`, `resend` and `test` of `aforo-meter`."""

import argparse
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from aforo_meter.alerts import KINDS, TEST, trial_alert
from aforo_meter.command_arguments import (
    FAILED,
    OK,
    CommandError,
    add_ledger_url,
    complain,
    positive,
)
from aforo_meter.command_running import run_async
from aforo_meter.domain.periods import datetime_of
from aforo_meter.settings import load
from aforo_meter.settings_deliver import DeliverSettings

ROWS_SHOWN: Final = 50
STATES: Final = ("waiting", "delivered", "gave-up")

EXAMPLES: Final = """\
examples:
  aforo-meter alerts list --ledger-url sqlite:////var/lib/aforo/ledger.db --state gave-up
  aforo-meter alerts show --ledger-url sqlite:////var/lib/aforo/ledger.db msg_0c1f…
  aforo-meter alerts resend msg_0c1f… --endpoint finance
  aforo-meter alerts test finance --dry-run

resend and test know endpoints by the variables of `aforo-meter deliver`, AFORO_METER_DELIVER_…:
run them where it runs. A message that is sent again has the same id.

Exit codes: 0 done; 1 not delivered, or no such message; 2 wrong usage or settings.
"""


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    parser = commands.add_parser(
        "alerts",
        help="alerts: what became of them, send again, try an endpoint out",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="the newest ones, oldest first")
    listed.add_argument("--tenant", help="of this tenant alone")
    listed.add_argument("--kind", choices=(*KINDS, TEST), help="of this kind alone")
    listed.add_argument("--endpoint", help="to this endpoint alone")
    listed.add_argument("--state", choices=STATES, help="only those")
    listed.add_argument("--limit", type=positive, default=ROWS_SHOWN, help="(default: %(default)s)")
    shown = actions.add_parser("show", help="one message, and every attempt to deliver it")
    for one, work in ((listed, _list), (shown, _show)):
        add_ledger_url(one)
        one.add_argument("--json", action="store_true", help="for programs")
        one.set_defaults(run=lambda options, work=work: run_async(work(options)))
    resent = actions.add_parser("resend", help="deliver a message again, with the same id")
    resent.add_argument("--endpoint", help="to this one (default: to all that it went to)")
    for one in (shown, resent):
        one.add_argument("message_id", metavar="ID")
    tested = actions.add_parser("test", help="send a test message to an endpoint, now")
    tested.add_argument("endpoint", metavar="ENDPOINT")
    for one in (listed, shown, resent, tested):
        one.epilog = EXAMPLES
    for one, work in ((resent, _resend), (tested, _test)):
        one.add_argument("--dry-run", action="store_true", help="print what would be sent")
        one.set_defaults(run=lambda options, work=work: run_async(work(options)))


async def _list(options: argparse.Namespace) -> int:
    from aforo_meter.ledger_sql import SqlLedger  # noqa: PLC0415 - for these commands alone.
    from aforo_meter.outbox_reading import DeliveryLog, LogQuery  # noqa: PLC0415

    query = LogQuery(
        count_max=options.limit,
        tenant_id=options.tenant,
        kind=options.kind,
        endpoint_id=options.endpoint,
        state=options.state,
    )
    async with SqlLedger(options.ledger_url) as ledger:
        rows = await DeliveryLog(ledger).find(query)
        if not rows:
            await _check_names(options, ledger)
    if options.json:
        print(json.dumps([_row(one) for one in rows], indent=2))  # noqa: T201
        return OK
    for one in rows:
        error = f"  {one.last_error}" if one.last_error else ""
        print(  # noqa: T201
            f"{_second(one.created_at_micros)}  {one.message_id}  {one.kind:<20}"
            f"  {one.tenant_id or '-'}  {one.endpoint_id or '(no endpoint)'}  {one.state}"
            f"  attempts {one.attempts or 0}{error}"
        )
    if not rows:
        print("no messages")  # noqa: T201
    return OK


async def _check_names(options: argparse.Namespace, ledger: Any) -> None:  # noqa: ANN401
    """Complain of names that nothing has: else nothing is found of them, and nothing said."""
    from aforo_meter.known_names import KnownNames  # noqa: PLC0415

    if options.tenant:
        await KnownNames(ledger).require_tenant(options.tenant)
    if options.endpoint:
        await KnownNames(ledger).require_endpoint(options.endpoint)


async def _show(options: argparse.Namespace) -> int:
    from aforo_meter.ledger_sql import SqlLedger  # noqa: PLC0415
    from aforo_meter.outbox_reading import DeliveryLog  # noqa: PLC0415

    async with SqlLedger(options.ledger_url) as ledger:
        delivery_log = DeliveryLog(ledger)
        rows = await delivery_log.get(options.message_id)
        if not rows:
            return complain(_unknown(options.message_id), FAILED)
        attempts = await delivery_log.attempts(rows[0].outbox_id)
    if options.json:
        shown = {
            "payload": json.loads(rows[0].payload),
            "deliveries": [_row(one) for one in rows],
            "attempts": [{**one._asdict(), "at": _second(one.at_micros)} for one in attempts],
        }
        print(json.dumps(shown, indent=2, ensure_ascii=False))  # noqa: T201
        return OK
    print(json.dumps(json.loads(rows[0].payload), indent=2, ensure_ascii=False))  # noqa: T201
    for row in rows:
        print(f"\n{row.endpoint_id or '(no endpoint wanted it)'}: {row.state}{_next(row)}")  # noqa: T201
        for one in attempts:
            if one.endpoint_id == row.endpoint_id:
                print(f"  {one.number}. {_second(one.at_micros)}  {_outcome(one)}")  # noqa: T201
    return OK


async def _resend(options: argparse.Namespace) -> int:
    from aforo_meter.ledger_sql import SqlLedger  # noqa: PLC0415
    from aforo_meter.outbox_reading import DeliveryLog  # noqa: PLC0415

    settings, endpoints = _configured()
    async with SqlLedger(settings.ledger_url) as ledger:
        delivery_log = DeliveryLog(ledger)
        rows = await delivery_log.get(options.message_id)
        if not rows:
            return complain(_unknown(options.message_id), FAILED)
        names = [options.endpoint] if options.endpoint else [row.endpoint_id for row in rows]
        wanted = [_known(endpoints, name) for name in names if name is not None]
        if not wanted:
            return complain("no endpoint wanted this message; name one by --endpoint", FAILED)
        tenant_id, kind = rows[0].tenant_id, rows[0].kind
        for endpoint in wanted:
            if not endpoint.wants(tenant_id=tenant_id, kind=kind):
                about = f"{kind} of {tenant_id}" if tenant_id else kind
                return complain(
                    f"{endpoint.endpoint_id} is not for {about}: see its `tenants` and `kinds`",
                    FAILED,
                )
        for endpoint in wanted:
            if options.dry_run:
                _print_post(endpoint, options.message_id, rows[0].payload.encode())
                continue
            now_micros = time.time_ns() // 1000
            await delivery_log.resend(rows[0], endpoint.endpoint_id, now_micros=now_micros)
            print(f"{endpoint.endpoint_id}: due now; aforo-meter deliver sends it")  # noqa: T201
    return OK


async def _test(options: argparse.Namespace) -> int:
    from aforo_meter.deliver import sender_of  # noqa: PLC0415
    from aforo_meter.ledger_sql import SqlLedger  # noqa: PLC0415
    from aforo_meter.outbox_sql import SqlOutbox  # noqa: PLC0415
    from aforo_meter.sending import SendError  # noqa: PLC0415

    settings, endpoints = _configured()
    endpoint = _known(endpoints, options.endpoint)
    now_micros = time.time_ns() // 1000
    alert = trial_alert(endpoint.endpoint_id, nonce=secrets.token_hex(8), now_micros=now_micros)
    if options.dry_run:
        _print_post(endpoint, alert.message_id, alert.payload.encode())
        return OK
    started_s = time.monotonic()
    try:
        async with sender_of(settings, endpoint) as sender:
            status = await sender.send(
                alert.message_id, alert.payload.encode(), now_s=now_micros // 1_000_000
            )
    except SendError as error:
        return complain(f"{endpoint.endpoint_id} did not take it: {error}", FAILED)
    took_ms = int((time.monotonic() - started_s) * 1000)
    print(f"{endpoint.endpoint_id} took {alert.message_id}: HTTP {status} after {took_ms} ms")  # noqa: T201
    async with SqlLedger(settings.ledger_url) as ledger:
        if await SqlOutbox(ledger).back(endpoint):
            print("it was gone and is back: what waits for it is sent")  # noqa: T201
    return OK


def _configured() -> tuple[DeliverSettings, Mapping[str, Any]]:
    from aforo_meter.endpoints import EndpointsError, endpoints_of  # noqa: PLC0415

    settings = load(DeliverSettings)
    try:
        return settings, {one.endpoint_id: one for one in endpoints_of(settings)}
    except EndpointsError as error:
        raise CommandError(str(error)) from None


def _known(endpoints: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - an Endpoint.
    if name not in endpoints:
        raise CommandError(f"no endpoint {name!r}; there are: {', '.join(endpoints)}")
    return endpoints[name]


def _print_post(endpoint: Any, message_id: str, payload: bytes) -> None:  # noqa: ANN401
    """Print a post as it would be sent now, but for the path of its URL, which may be a secret."""
    from aforo_meter.sending import post_of  # noqa: PLC0415

    post = post_of(endpoint, message_id=message_id, payload=payload, now_s=int(time.time()))
    scheme, _, rest = endpoint.url.partition("://")
    lines = [f"POST {scheme}://{rest.partition('/')[0]}/…  ({endpoint.endpoint_id})"]
    lines += [f"{name}: {value}" for name, value in post.headers.items()]
    print("\n".join([*lines, "", post.body.decode(), ""]))  # noqa: T201


def _row(row: Any) -> dict[str, Any]:  # noqa: ANN401 - a DeliveryRow.
    return {
        "message_id": row.message_id,
        "created": _second(row.created_at_micros),
        "tenant": row.tenant_id,
        "kind": row.kind,
        "endpoint": row.endpoint_id,
        "state": row.state,
        "attempts": row.attempts or 0,
        "next_attempt": _instant(row.next_attempt_at_micros if row.state == "waiting" else None),
        "delivered": _instant(row.delivered_at_micros),
        "gave_up": _instant(row.gave_up_at_micros),
        "last_error": row.last_error,
    }


def _next(row: Any) -> str:  # noqa: ANN401
    return f", next attempt {_second(row.next_attempt_at_micros)}" if row.state == "waiting" else ""


def _outcome(attempt: Any) -> str:  # noqa: ANN401 - an AttemptRow.
    if attempt.took_ms is None:
        return "under way, or cut off"
    said = attempt.error or f"HTTP {attempt.status}"
    return f"{said}  ({attempt.took_ms} ms)"


def _unknown(message_id: str) -> str:
    return f"the outbox knows no message {message_id!r}; see: aforo-meter alerts list"


def _instant(micros: int | None) -> str | None:
    return None if micros is None else _second(micros)


def _second(micros: int) -> str:
    return f"{datetime_of(micros):%Y-%m-%dT%H:%M:%SZ}"
