"""What the doctor concludes when parts are laid side by side, and from what they say."""

import pytest

from aforo_admin.doctor.masking import masked, passwords_of
from aforo_admin.domain.diagnosis import Clock, Finding, Seen, Severity, compare, worst
from aforo_admin.domain.diagnosis_envoy import judge_clusters, judge_stats
from aforo_admin.domain.diagnosis_kafka import Topic, judge_topic
from aforo_admin.domain.diagnosis_metrics import SIGNS, judge_metrics
from aforo_admin.domain.diagnosis_redis import judge_info

SECOND = 1_000_000
WELL = {
    "redis_version": "7.2.4",
    "maxmemory": 100,
    "maxmemory_policy": "noeviction",
    "used_memory": 50,
}


def severities(seen: Seen) -> set[Severity]:
    return {finding.severity for finding in seen.findings}


def told(seen: Seen, severity: Severity) -> list[str]:
    return [finding.what for finding in seen.findings if finding.severity is severity]


def clocks(*aheads_s: float, unsure_s: float = 0) -> Seen:
    seen = Seen("parts")
    seen.clocks = [
        Clock(
            part=f"part {number}",
            ahead_micros=round(ahead_s * SECOND),
            unsure_micros=round(unsure_s * SECOND),
        )
        for number, ahead_s in enumerate(aheads_s)
    ]
    return seen


@pytest.mark.parametrize(
    ("aheads_s", "unsure_s", "severity"),
    [
        ((0, 0.9), 0, Severity.OK),
        ((0, 1), 0, Severity.WARNING),
        ((-0.6, 0.6), 0, Severity.WARNING),  # Each is near us, and they are apart.
        ((1.5,), 0.6, Severity.OK),  # It may be 0.9 s.
        ((59.9,), 0, Severity.WARNING),
        ((-60,), 0, Severity.FAULT),
        ((), 0, Severity.OK),
    ],
)
def test_clocks_disagree_where_they_surely_do(
    aheads_s: tuple[float, ...], unsure_s: float, severity: Severity
) -> None:
    seen = compare([clocks(*aheads_s, unsure_s=unsure_s)], own_build="1")

    assert worst(seen.findings) is severity


def test_builds_that_differ_are_named() -> None:
    part = Seen("parts")
    part.builds = {"authz": "1", "ship-a": "0.9"}

    (warning,) = told(compare([part], own_build="1"), Severity.WARNING)
    assert "ship-a 0.9" in warning
    assert "authz" not in warning


@pytest.mark.parametrize(
    ("position", "fault"),
    [
        (10, None),
        (20, None),
        (9, "Kafka begins at 10"),  # 9 went by.
        (21, "Kafka ends at 20"),
    ],
)
def test_a_position_lies_within_what_kafka_has(position: int, fault: str | None) -> None:
    kafka, ledger = Seen("kafka"), Seen("ledger")
    kafka.offsets = {0: (10, 20)}
    ledger.positions = {0: position}

    faults = told(compare([kafka, ledger], own_build="1"), Severity.FAULT)

    assert (faults == []) if fault is None else (fault in faults[0])


def test_lag_is_summed_and_a_partition_without_a_position_counts_from_its_beginning() -> None:
    kafka, ledger = Seen("kafka"), Seen("ledger")
    kafka.offsets = {0: (0, 20), 1: (5, 7)}
    ledger.positions = {0: 15}

    assert told(compare([kafka, ledger], own_build="1"), Severity.OK) == [
        "7 records are in Kafka and not yet in the ledger"
    ]


def test_partitions_whose_margins_nobody_confirms_are_named() -> None:
    kafka, redis = Seen("kafka"), Seen("redis")
    kafka.offsets = {0: (0, 0), 1: (0, 0), 2: (0, 0)}
    redis.confirmed = {1: 1}

    (warning,) = told(compare([kafka, redis], own_build="1"), Severity.WARNING)
    assert warning.endswith("partitions 0, 2")


@pytest.mark.parametrize(
    ("changed", "severity"),
    [
        ({}, Severity.OK),
        ({"redis_version": "6.0.16"}, Severity.FAULT),
        ({"redis_version": "6.2.0"}, Severity.OK),
        ({"redis_version": "6.0.16", "valkey_version": "9.1"}, Severity.FAULT),
        ({"used_memory": 90}, Severity.WARNING),
        ({"used_memory": 89}, Severity.OK),
        ({"maxmemory": 0}, Severity.WARNING),
        ({"maxmemory_policy": "volatile-ttl"}, Severity.FAULT),
        ({"evicted_keys": 1}, Severity.WARNING),
        ({"loading": 1}, Severity.WARNING),
        ({"aof_last_write_status": "err"}, Severity.FAULT),
    ],
    ids=str,
)
def test_what_redis_says_is_judged(changed: dict[str, object], severity: Severity) -> None:
    seen = Seen("redis")
    judge_info(seen, {**WELL, **changed})

    assert worst(seen.findings) is severity


@pytest.mark.parametrize(
    ("topic", "brokers", "severity"),
    [
        (Topic(name="t", partitions=2, replicas=1), 1, Severity.OK),
        (Topic(name="t", partitions=2, replicas=1), 3, Severity.WARNING),
        (Topic(name="t", partitions=2, replicas=3), 3, Severity.OK),
        (Topic(name="t", partitions=2, replicas=3, thin=(1,)), 3, Severity.WARNING),
        (Topic(name="t", partitions=2, replicas=3, thin=(1,), leaderless=(1,)), 3, Severity.FAULT),
        (Topic(name="t"), 1, Severity.FAULT),
    ],
    ids=str,
)
def test_topics_are_judged_by_their_replicas(
    topic: Topic, brokers: int, severity: Severity
) -> None:
    seen = Seen("kafka")
    judge_topic(seen, topic, brokers=brokers, bootstrap="kafka:9092")

    assert worst(seen.findings) is severity


USAGE_TOPIC = Topic(name="u", partitions=2, replicas=3, settings={"max.message.bytes": "1048588"})
GOOD_LETTERS = {
    "min.insync.replicas": "2",
    "retention.ms": "7776000000",
    "max.message.bytes": "20971520",
}


@pytest.mark.parametrize(
    ("changed", "replicas", "told_of", "command"),
    [
        ({}, 3, "", ""),
        ({"min.insync.replicas": "1"}, 3, "min.insync.replicas is 1", "min.insync.replicas=2"),
        ({"min.insync.replicas": "1"}, 2, "", ""),  # Two of two would stop with one broker.
        ({"min.insync.replicas": "3"}, 3, "", ""),
        ({"retention.ms": "604800000"}, 3, "kept for 7 days", "retention.ms=7776000000"),
        ({"retention.ms": "2592000000"}, 3, "", ""),
        ({"retention.ms": "-1"}, 3, "", ""),
        (
            {"max.message.bytes": "1048588"},
            3,
            "max.message.bytes is 1048588, that of u 1048588",
            "max.message.bytes=20971520",
        ),
        ({"max.message.bytes": "1048589"}, 3, "", ""),
    ],
    ids=str,
)
def test_a_topic_of_dead_letters_is_judged_beside_that_of_usage(
    changed: dict[str, str], replicas: int, told_of: str, command: str
) -> None:
    seen = Seen("kafka")
    letters = Topic(name="d", partitions=2, replicas=replicas, settings={**GOOD_LETTERS, **changed})
    judge_topic(seen, letters, brokers=3, bootstrap="kafka:9092", usage=USAGE_TOPIC)

    (finding,) = seen.findings
    assert finding.severity is (Severity.WARNING if told_of else Severity.OK)
    assert told_of in finding.what
    assert finding.do.endswith(command)


def test_letters_have_room_for_whatever_usage_may_be() -> None:
    seen = Seen("kafka")
    usage = Topic(name="u", partitions=2, settings={"max.message.bytes": "30000000"})
    letters = Topic(name="d", partitions=2, settings=GOOD_LETTERS)
    judge_topic(seen, letters, brokers=1, bootstrap="kafka:9092", usage=usage)

    (finding,) = seen.findings
    assert finding.do.endswith("max.message.bytes=60000000")


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.metric)
def test_a_sign_of_trouble_is_told_and_its_absence_is_not(sign: object) -> None:
    assert isinstance(sign, type(SIGNS[0]))
    bad, good = (0.0, 1.0) if sign.when == "zero" else (1.0, 0.0)
    seen = Seen("process")
    judge_metrics(seen, {sign.metric: {(("for", "redis"),): bad}})
    (finding,) = seen.findings
    assert finding.severity is (Severity.FAULT if sign.fault else Severity.WARNING)
    assert 'for="redis"' in finding.what

    well = Seen("process")
    judge_metrics(well, {sign.metric: {(): good}})
    assert well.findings == []


def cluster(name: str, *health: dict[str, object]) -> dict[str, object]:
    address = {"socket_address": {"address": "10.0.0.1", "port_value": 9}}
    hosts = [{"address": address, "health_status": each} for each in health]
    return {"cluster_statuses": [{"name": name, "host_statuses": hosts}]}


@pytest.mark.parametrize(
    ("document", "severity"),
    [
        (cluster("aforo_als", {"eds_health_status": "HEALTHY"}), Severity.OK),
        (cluster("aforo_als", {}, {"failed_active_health_check": True}), Severity.WARNING),
        (cluster("aforo_als", {"failed_active_health_check": True}), Severity.FAULT),
        (cluster("aforo_als", {"eds_health_status": "UNHEALTHY"}), Severity.FAULT),
        (cluster("aforo_als"), Severity.FAULT),
        (cluster("api", {"failed_outlier_check": True}), Severity.WARNING),
    ],
)
def test_clusters_of_ours_without_an_endpoint_are_faults(
    document: dict[str, object], severity: Severity
) -> None:
    seen = Seen("envoy")
    judge_clusters(seen, document)

    assert severities(seen) == {severity}


LOG = "access_logs.grpc_access_log.logs_"


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ({LOG + "dropped": 0, LOG + "written": 5, "http.a.ext_authz.x.ok": 5}, []),
        ({LOG + "dropped": 2, LOG + "written": 5, "http.a.ext_authz.x.ok": 5}, ["2 entries"]),
        ({"http.a.ext_authz.x.ok": 5}, ["no access log"]),
        ({LOG + "written": 5}, ["asks nobody"]),
        (
            {LOG + "written": 5, "http.a.ext_authz.x.failure_mode_allowed": 3},
            ["3 calls passed without"],
        ),
    ],
)
def test_what_envoy_counts_is_judged(stats: dict[str, int], expected: list[str]) -> None:
    seen = Seen("envoy")
    judge_stats(seen, stats)

    warnings = told(seen, Severity.WARNING)
    assert len(warnings) == len(expected)
    assert all(text in warning for text, warning in zip(expected, warnings, strict=True))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://aforo:s3%2Fcr3t@db/aforo",
        "postgresql://db/aforo?password=s3%2Fcr3t&sslmode=require",
        "rediss://:s3%2Fcr3t@redis:6379/0",
    ],
)
def test_a_password_is_taken_out_as_written_and_as_meant(url: str) -> None:
    seen = Seen("any")
    seen.fault("it says s3%2Fcr3t", "or s3/cr3t", "s3/cr3t s3%2Fcr3t")

    (finding,) = masked(seen, passwords_of([url])).findings

    assert finding == Finding(
        part="any",
        severity=Severity.FAULT,
        what="it says (masked)",
        means="or (masked)",
        do="(masked) (masked)",
    )
