"""Parts of ingest that need no server: JSON, CloudEvents, quota advice, memory, OpenAPI."""

import gzip
import sqlite3
import zlib
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aforo_meter.database_sqlite import SqliteStatements
from aforo_meter.domain.cloudevents import from_cloudevent
from aforo_meter.domain.ingest_fields import PRODUCTS, REQUIRED, TEXT_UNITS_MAX
from aforo_meter.domain.ingest_values import Rejection
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.quota_check import Advice, Answer, AskedQuota, advise
from aforo_meter.ingest import bodies, codec, openapi
from aforo_meter.ingest.ledger_look import KILLED
from aforo_meter.ingest.memory import Accepted
from aforo_meter.ingest.problems import ProblemError

MINUTE = PeriodMicros(60_000_000, 120_000_000)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"0.1", Decimal("0.1")),
        (b"1e400", Decimal("1E+400")),
        (b"1e99999999999999999999", "1e99999999999999999999"),
        (b"9" * 40, int("9" * 40)),
        (b"9" * 5000, "9" * 5000),
        (b'"\\ud800"', "\ud800"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b"18446744073709551616", 2**64),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_numbers_and_texts_are_read_exactly(body: bytes, value: object) -> None:
    assert codec.decode(b'{"a": ' + body + b"}") == {"a": value}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"NaN", b"[Infinity]", b"{'a': 1}", b"\xff", b'"\xed\xa0\x80"', b"[" * 100_000],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_json_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(codec.NotJsonError):
        codec.decode(body)


def cloud(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - of a CloudEvent
    whole = {
        "specversion": "1.0",
        "id": "1",
        "source": "/a",
        "type": "api_calls",
        "subject": "acme",
    }
    return {name: value for name, value in (whole | fields).items() if value is not None}


def test_a_cloudevent_is_an_event_whose_data_says_the_rest() -> None:
    event_id, event = from_cloudevent(
        cloud(time="2026-11-26T12:00:00Z", data={"quantity": 3}, region="eu"), received="now"
    )

    assert event_id.startswith("ce:")
    assert len(event_id) == 43
    assert event == {
        "customerId": "acme",
        "metricName": "api_calls",
        "quantity": 3,
        "occurredAt": "2026-11-26T12:00:00Z",
        "idempotencyKey": event_id,
        "ceSource": "/a",
        "ceId": "1",
        "ceType": "api_calls",
        "region": "eu",
    }


def test_a_cloudevent_names_a_call_by_an_extension_attribute() -> None:
    _, event = from_cloudevent(cloud(aforodecisionid="ab" * 16), received="2026-11-26T12:00:00Z")

    assert event["aforoDecisionId"] == "ab" * 16
    assert "aforodecisionid" not in event


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_cloudevents_are_the_same_if_source_and_id_are(a: str, b: str, c: str, d: str) -> None:
    def identity(source: str, identifier: str) -> str | None:
        try:
            return from_cloudevent(cloud(source=source, id=identifier), received="now")[0]
        except Rejection:
            return None  # Letters that no database keeps; blank.

    first, second = identity(a, b), identity(c, d)
    if first is not None and second is not None:
        assert (first == second) == ((a, b) == (c, d))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": None}, "id: is required"),
        ({"source": " "}, "source: is required"),
        ({"type": None}, "type: is required"),
        ({"data": []}, "data: must be an object"),
        ({"data_base64": "AA=="}, "data_base64"),
        ({"datacontenttype": "text/xml"}, "datacontenttype: must be JSON"),
        ({"id": "x" * 3000}, "id: at most 2048"),
    ],
    ids=str,
)
def test_what_is_no_cloudevent_is_refused_by_attribute(
    fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(Rejection, match=problem):
        from_cloudevent(cloud(**fields), received="now")


def quota(used: int, limit: int = 100, *, soft: bool = False, name: str = "q") -> AskedQuota:
    return AskedQuota(
        quota_id=name,
        meter="api.calls",
        limit_units=limit,
        soft=soft,
        window=MINUTE,
        used_units=used,
    )


def told(*quotas: AskedQuota, wanted: int = 1) -> Advice:
    return advise(quotas, wanted_micros=wanted * 1_000_000, now_micros=MINUTE.start_micros + 1)


@pytest.mark.parametrize(
    ("used", "soft", "answer"),
    [
        (0, False, Answer.ALLOW),
        (78, False, Answer.ALLOW),
        (79, False, Answer.WARN),
        (99, False, Answer.WARN),
        (100, False, Answer.DENY),
        (100, True, Answer.WARN),
    ],
)
def test_a_quota_warns_before_it_denies(used: int, *, soft: bool, answer: Answer) -> None:
    assert told(quota(used, soft=soft)).answer is answer


def test_the_worst_quota_answers_and_says_when_to_come_again() -> None:
    advice = told(quota(1), quota(100, name="full"), quota(90))

    assert advice.answer is Answer.DENY
    assert "full" in advice.reason
    assert advice.retry_after_ms == 60_000


def test_no_time_is_told_where_waiting_would_not_help() -> None:
    assert told(quota(0), wanted=101).retry_after_ms is None


def test_no_quota_allows() -> None:
    assert told().answer is Answer.ALLOW


@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 50), st.booleans())
def test_more_usage_never_turns_a_denial_into_an_allowance(
    used: int,
    more: int,
    wanted: int,
    soft: bool,  # noqa: FBT001 - hypothesis gives it so.
) -> None:
    order = list(Answer)
    before, after = (
        told(quota(used, soft=soft), wanted=wanted),
        told(quota(used + more, soft=soft), wanted=wanted),
    )

    assert order.index(before.answer) <= order.index(after.answer)


def test_what_was_accepted_is_remembered_within_bounds() -> None:
    accepted = Accepted(1000)
    for number in range(10_000):
        accepted.add([("acme", f"ik:{number}")])

    assert len(accepted) <= 1000
    assert ("acme", "ik:9999") in accepted
    assert ("acme", "ik:9600") in accepted
    assert ("acme", "ik:0") not in accepted
    assert ("other", "ik:9999") not in accepted


def unpacked(packed: bytes, bits: int = bodies.WINDOW_BITS["gzip"]) -> bytes:
    return bodies._unpack(bytearray(packed), bits)


def test_bodies_are_unpacked_within_size_and_ratio() -> None:
    text = b"".join(b'{"number": %d}' % number for number in range(10_000))
    raw = zlib.compressobj(wbits=-15)

    assert unpacked(gzip.compress(text)) == text
    assert unpacked(zlib.compress(text), bodies.WINDOW_BITS["deflate"]) == text
    assert unpacked(raw.compress(text) + raw.flush(), bodies.WINDOW_BITS["deflate"]) == text


@pytest.mark.parametrize(
    ("packed", "status"),
    [
        (gzip.compress(b"\0" * (bodies.BODY_BYTES_MAX + 1)), 415),
        (gzip.compress(b"\0" * 1_000_000), 415),
        (gzip.compress(bytes(range(256)) * 400_000, compresslevel=1), 413),
        (gzip.compress(b"x" * 1000)[:-5], 400),
        (gzip.compress(b"x") + b"more", 400),
        (b"not gzip", 400),
        (b"", 400),
    ],
    ids=["bomb", "small bomb", "large", "cut", "trailing", "plain", "empty"],
)
def test_what_unpacks_to_too_much_or_not_at_all_is_refused(packed: bytes, status: int) -> None:
    with pytest.raises(ProblemError) as caught:
        unpacked(packed)

    assert caught.value.status == status


def test_openapi_says_what_is_validated() -> None:
    document = openapi.document()
    schema = document["components"]["schemas"]["Event"]

    assert schema["required"] == list(REQUIRED)
    for name, limit in TEXT_UNITS_MAX.items():
        assert schema["properties"][name]["maxLength"] == limit
    for product in PRODUCTS:
        assert product in schema["properties"]["productType"]["description"]
    assert codec.decode(codec.encode(document)) == document


def test_the_page_asks_nothing_of_others() -> None:
    assert "//" not in openapi.page()


def test_the_question_for_killed_sessions_uses_the_primary_key() -> None:
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.execute(
            "CREATE TABLE session (tenant_id TEXT, session_id TEXT, killed_micros BIGINT,"
            " PRIMARY KEY (tenant_id, session_id))"
        )
        given, values = SqliteStatements(sql).given(tenant_id=["acme"], name=["s1"])
        plan = sql.execute(f"EXPLAIN QUERY PLAN {KILLED.format(given=given)}", values).fetchall()

    assert any("SEARCH s USING INDEX" in row[3] for row in plan), plan
