"""`aforo-meter rerate`, `void` and `close` as processes, beside a consumer that goes on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from aforo_meter.alerts import LEVEL_CHANGED
from aforo_meter.domain.periods import HOUR_MICROS, datetime_of
from aforo_proto import margin_pb2
from lab.servers import KafkaServer, eventually
from tests.conftest import KafkaAt
from tests.contract.consume_lab import DOLLAR, ConsumeLab, consume_lab, now_micros, usage_event
from tests.contract.ledger_lab import UNIT
from tests.contract.tools_lab import Ran, ran, started

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

WHO = ("--apply", "--author", "ana", "--reason", "ticket 812")
ROWS_MANY = 3000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    kafka_server: KafkaServer | KafkaAt, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ConsumeLab]:
    async with consume_lab(kafka_server.bootstrap, tmp_path_factory.mktemp("corrections")) as made:
        made.catalog.price("api.calls", DOLLAR, price_id="dear")
        for tenant in ("acme", "globex", "event", "keyed", "hours", "replayed", "many"):
            made.catalog.contract(tenant)
        made.catalog.sync()
        await made.start()
        yield made


def lower_price(lab: ConsumeLab, nanos: int, *, price_id: str, meter: str = "api.calls") -> None:
    """Say that another price holds since long ago."""
    lab.catalog.price(meter, nanos, price_id=price_id)
    lab.catalog.prices[-1].effective_from_micros = len(lab.catalog.prices)
    lab.catalog.sync()


async def rerate(lab: ConsumeLab, *more: str) -> Ran:
    return await ran(
        "rerate", "--ledger-url", lab.ledger.url, "--redis-url", lab.redis_server.url, *more
    )


async def void(lab: ConsumeLab, *more: str) -> Ran:
    return await ran(
        "void", "--ledger-url", lab.ledger.url, "--redis-url", lab.redis_server.url, *more
    )


def hour_text(micros: int) -> str:
    return f"{datetime_of(micros - micros % HOUR_MICROS):%Y-%m-%dT%H:%M}"


async def test_a_rerated_tenant_is_assessed_and_alerted_while_consume_goes_on(
    lab: ConsumeLab,
) -> None:
    """$9.50 of $10 is throttle; at half the price it is none: one alert each way."""
    await lab.send_many([usage_event("acme", 1) for _ in range(9)])
    await lab.margin_is("acme", lambda margin: margin.level == margin_pb2.LEVEL_WARN)
    await lab.send("globex", 1)
    await lab.units_are("globex", {"dear": 1})
    lower_price(lab, DOLLAR // 2, price_id="cheap")

    preview = await rerate(lab, "--tenant", "acme", "--json")
    assert preview.code == 0, preview.err
    (period,) = preview.json()["periods"]
    assert (period["level_before"], period["level_after"]) == ("warn", "none")
    assert (period["margin_before"], period["margin_after"]) == ("0.1000", "0.5500")
    assert lab.ledger.rows("SELECT * FROM adjustment") == []

    done = await rerate(lab, "--tenant", "acme", *WHO)
    assert done.code == 0, done.err
    assert "put right, as rerate-" in done.lines[-1]
    await lab.margin_is("acme", lambda margin: margin.level == margin_pb2.LEVEL_NONE)
    await lab.send("acme", 1)
    await lab.margin_is("acme", lambda margin: margin.cogs_nanos == 5 * DOLLAR)

    levels = [one["data"] for one in lab.outbox("acme") if one["type"] == LEVEL_CHANGED]
    assert [one["to"] for one in levels] == ["warn", "none"]
    again = await rerate(lab, "--tenant", "acme", *WHO)
    assert again.lines == ["nothing to do"]
    everybody = await rerate(lab)
    assert "globex" in everybody.out
    assert everybody.lines[-1].startswith("1 row of 1 tenant, COGS -0.50: to be put right")


async def test_an_event_is_found_in_kafka_and_taken_back_once(lab: ConsumeLab) -> None:
    one = await lab.send("event", 3, event_id="twice")
    await lab.send("event", 1)
    await lab.margin_is("event", lambda margin: margin.cogs_nanos > 0)
    await eventually(lambda: sum(lab.ledger.units("event").values()) == 4)
    before = lab.margin("event").cogs_nanos
    where = (
        *("--tenant", "event", "--event", one.event_id),
        *("--bootstrap", lab.bootstrap, "--topic", lab.topic),
    )

    preview = await void(lab, *where)
    assert preview.code == 0, preview.err
    assert "api.calls -3" in preview.lines
    done = await void(lab, *where, *WHO, "--json")
    assert done.code == 0, done.err
    assert done.json()["quantity_micros"] == {"api.calls": -3 * UNIT}
    again = await void(lab, *where, *WHO)
    assert again.lines == ["it was taken back before; nothing to do"]

    await lab.margin_is("event", lambda margin: margin.cogs_nanos == before // 4)
    nowhere = await void(lab, *where[:3], "nobody-sent-it", *where[4:])
    assert (nowhere.code, nowhere.out) == (1, "")
    assert "kafka has no event 'nobody-sent-it' of 'event'" in nowhere.err


async def test_hours_are_taken_back(lab: ConsumeLab) -> None:
    at_micros = now_micros() - 2 * HOUR_MICROS
    await lab.send("hours", 3, occurred_at_micros=at_micros)
    await lab.send("hours", 1)
    await eventually(lambda: sum(lab.ledger.units("hours").values()) == 4)
    hour = ("--from", hour_text(at_micros), "--to", hour_text(at_micros + HOUR_MICROS))

    done = await void(lab, "--tenant", "hours", *hour, "--feature", "api", *WHO)

    assert done.code == 0, done.err
    assert "api.calls -3" in done.lines
    assert (await void(lab, "--tenant", "hours", *hour, *WHO)).lines == ["nothing to do"]


async def test_a_replay_equals_the_corrected_ledger(lab: ConsumeLab, tmp_path: Path) -> None:
    """Rated again, late, and taken back: what is left is what a replay finds."""
    start = now_micros() - now_micros() % HOUR_MICROS - 3 * HOUR_MICROS
    at_micros = start + HOUR_MICROS // 2
    one = usage_event("replayed", 3, occurred_at_micros=at_micros)
    await lab.send_many([one, usage_event("replayed", 5, occurred_at_micros=at_micros)])
    await eventually(lambda: sum(lab.ledger.units("replayed").values()) == 8)
    lower_price(lab, 333_333_333, price_id="odd")
    await lab.send("replayed", 7, occurred_at_micros=at_micros)
    await eventually(lambda: sum(lab.ledger.units("replayed").values()) == 15)
    where = ("--bootstrap", lab.bootstrap, "--topic", lab.topic)
    taken = await void(lab, "--tenant", "replayed", "--event", one.event_id, *where, *WHO)
    assert taken.code == 0, taken.err
    assert (await rerate(lab, *WHO)).code == 0

    replay = await ran(
        *("replay", *where, "--redis-url", lab.redis_server.url),
        *("--from", hour_text(start - HOUR_MICROS), "--to", hour_text(start + 2 * HOUR_MICROS)),
        *("--ledger-url", f"sqlite:///{tmp_path}/scratch.db", "--live-ledger-url", lab.ledger.url),
        "--json",
    )

    assert replay.code == 0, replay.out + replay.err
    assert replay.json()["rows"]["equal"] >= 1


async def test_a_killed_rerating_goes_on_where_it_stood(lab: ConsumeLab) -> None:
    """Killed with SIGKILL once it has begun to write; the next run does the rest."""
    hour = now_micros() - now_micros() % HOUR_MICROS
    events = [
        usage_event(
            *("many", 1 + number % 7),
            occurred_at_micros=hour - number // 100 * HOUR_MICROS,
            features=[f"f{number % 100}"],
        )
        for number in range(ROWS_MANY)
    ]
    await lab.send_many(events)
    units = sum(1 + number % 7 for number in range(ROWS_MANY))
    await eventually(lambda: sum(lab.ledger.units("many").values()) == units)
    lower_price(lab, 1_000_003, price_id="tiny")
    count = "SELECT COUNT(*) FROM adjustment WHERE tenant_id = 'many'"
    arguments = ("--ledger-url", lab.ledger.url, "--redis-url", lab.redis_server.url)

    process = await started("rerate", *arguments, "--tenant", "many", *WHO)
    await eventually(lambda: lab.ledger.rows(count)[0][0] > 0, every_s=0.001)
    process.kill()
    await process.communicate()
    await lab.send("many", 1, occurred_at_micros=hour)
    done = await rerate(lab, "--tenant", "many", *WHO)

    assert done.code == 0, done.err
    assert lab.ledger.rows(count)[0][0] == 2 * ROWS_MANY
    await lab.margin_is("many", lambda margin: margin.cogs_nanos == (units + 1) * 1_000_003)


async def test_periods_are_closed_by_hand(lab: ConsumeLab) -> None:
    at_micros = now_micros() - 60 * 24 * HOUR_MICROS
    await lab.send("acme", 1, occurred_at_micros=at_micros)
    closable = "SELECT COUNT(*) FROM margin_state WHERE tenant_id = 'acme' AND in_force = 0"
    await eventually(lambda: lab.ledger.rows(closable) == [(1,)])
    arguments = ("--ledger-url", lab.ledger.url, "--tenant", "acme", "--ended-by")
    until = f"{datetime_of(at_micros + 40 * 24 * HOUR_MICROS):%Y-%m-%d}"

    preview = await ran("close", *arguments, until)
    assert preview.lines[-1] == "1 period to close (--apply)"
    done = await ran("close", *arguments, until, "--apply")
    assert done.lines[-1] == "1 period closed"
    assert (await ran("close", *arguments, until, "--apply")).lines == ["nothing to do"]

    await lab.send("acme", 1, occurred_at_micros=at_micros)
    late = "SELECT quantity_micros FROM adjustment WHERE kind = 'late'"
    await eventually(lambda: lab.ledger.rows(late) == [(UNIT,)])


async def test_consume_closes_periods_days_after_their_end(lab: ConsumeLab) -> None:
    """It looks as it starts, and once an hour."""
    at_micros = now_micros() - 60 * 24 * HOUR_MICROS
    await lab.send("globex", 1, occurred_at_micros=at_micros)
    closed = (
        "SELECT period_end_micros, closed_at_micros FROM margin_state WHERE tenant_id = 'globex'"
        " ORDER BY 1"
    )
    await eventually(lambda: len(lab.ledger.rows(closed)) == 2)
    assert [row[1] for row in lab.ledger.rows(closed)] == [None, None]

    with lab.another("closer", close_after_days="1"):
        await eventually(lambda: lab.ledger.rows(closed)[0][1] is not None)

    (ended, was_closed), (goes_on, is_open) = lab.ledger.rows(closed)
    assert ended + 24 * HOUR_MICROS <= was_closed <= now_micros() < goes_on
    assert is_open is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("rerate", "--tenant", "acne"), "no tenant 'acne' in the ledger; did you mean 'acme'?"),
        (("rerate", "--tenant", "acme", "--meter", "api.cals"), "did you mean 'api.calls'?"),
        (
            (
                *("void", "--tenant", "acme", "--feature", "apj"),
                *("--from", "2026-11-01", "--to", "2026-11-02"),
            ),
            "no usage of the feature 'apj' in the ledger; did you mean 'api'?",
        ),
        (("close", "--tenant", "acne", "--ended-by", "2026-11-01"), "did you mean 'acme'?"),
    ],
)
async def test_a_misspelt_name_is_no_order_to_do_nothing(
    lab: ConsumeLab, arguments: tuple[str, ...], complaint: str
) -> None:
    await lab.send("acme", 1)
    await eventually(lambda: bool(lab.ledger.units("acme")))
    where = ["--ledger-url", lab.ledger.url]
    if arguments[0] != "close":
        where += ["--redis-url", lab.redis_server.url]

    answer = await ran(arguments[0], *where, *arguments[1:])

    assert (answer.code, answer.out) == (1, "")
    assert complaint in answer.err


async def test_an_event_is_found_by_its_idempotency_key(lab: ConsumeLab) -> None:
    await lab.send("keyed", 2, event_id="ik:order-4711")
    seen = "SELECT COUNT(*) FROM charge WHERE tenant_id = 'keyed'"
    await eventually(lambda: lab.ledger.rows(seen)[0][0] > 0)
    where = ("--bootstrap", lab.bootstrap, "--topic", lab.topic)

    found = await void(lab, "--tenant", "keyed", "--event", "order-4711", *where)

    assert found.code == 0, found.err
    assert "api.calls -2" in found.lines


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("rerate", "--apply"), "--apply needs --reason"),
        (("rerate", "--apply", "--reason", "x"), "--apply needs --author"),
        (("rerate", "--from", "2026-11-01T10:30"), "--from must be a full hour"),
        (("rerate", "--from", "2026-11-02", "--to", "2026-11-01"), "--from must be before --to"),
        (("void", "--tenant", "acme"), "name what to take back: --event, or both --from and --to"),
        (("void", "--tenant", "acme", "--event", "e"), "--event needs --bootstrap"),
        (
            ("void", "--tenant", "a", "--event", "e", "--bootstrap", "k:1", "--meter", "m"),
            "--event takes back the whole event",
        ),
    ],
)
async def test_wrong_usage_says_what_is_missing(arguments: tuple[str, ...], complaint: str) -> None:
    urls = ("--ledger-url", "sqlite:////nowhere/ledger.db", "--redis-url", "redis://127.0.0.1:1")

    answer = await ran(arguments[0], *urls, *arguments[1:])

    assert answer.code == 2
    assert complaint in answer.err


async def test_without_redis_it_says_what_to_look_at(lab: ConsumeLab) -> None:
    await lab.send("acme", 1)
    await eventually(lambda: bool(lab.ledger.units("acme")))

    answer = await ran(
        "rerate", "--ledger-url", lab.ledger.url, "--redis-url", "redis://127.0.0.1:1/0"
    )

    assert (answer.code, answer.out) == (1, "")
    assert "redis at 127.0.0.1:1 does not answer (Error 111 connecting" in answer.err
