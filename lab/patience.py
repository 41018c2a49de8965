"""Those who wait: on two noisy cores a late answer is not what most tests are about.

The shipped configuration lets a call pass undecided after a quarter of a second, and authz after
50 ms of Redis: it would be served, uncounted or charged to nobody, whatever a test asked to be
decided. Who is dead is known at once, as ever.
"""

from collections.abc import Iterator
from typing import Any, Final

PATIENT_S = 20.0  # More than anybody needs.
PATIENT_AUTHZ: Final = {"AFORO_AUTHZ_REDIS_TIMEOUT_MS": "10000"}
PATIENT_INGEST: Final = {"AFORO_METER_INGEST_REDIS_TIMEOUT_MS": "10000"}


def patient(document: dict[str, Any], *, check_s: float = PATIENT_S) -> None:
    """Let Envoy wait for a decision, and for authz' sign of health, as long as it takes.

    Args:
        document: An Envoy configuration, edited in place.
        check_s: How long a decision may take.
    """
    for service in _checks(document):
        service["timeout"] = f"{check_s}s"
        if "retry_policy" in service:  # Envoy takes max_interval as the timeout of each try, too.
            service["retry_policy"]["retry_back_off"]["max_interval"] = f"{check_s}s"
    _wait_for_health(document, "aforo_authz")


def patient_with_log(document: dict[str, Any]) -> None:
    """Don't take the receivers of the access log for dead who are slow, either."""
    _wait_for_health(document, "aforo_als")
    for cluster in _clusters(document, "aforo_als"):
        for options in cluster["typed_extension_protocol_options"].values():
            http2 = options["explicit_http_config"]["http2_protocol_options"]
            http2["connection_keepalive"]["timeout"] = f"{PATIENT_S}s"


def _checks(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for listener in document["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            for network_filter in chain["filters"]:
                for each in network_filter["typed_config"].get("http_filters", ()):
                    if each["typed_config"].get("@type", "").endswith(".ExtAuthz"):
                        yield each["typed_config"]["grpc_service"]


def _wait_for_health(document: dict[str, Any], name: str) -> None:
    for cluster in _clusters(document, name):
        for check in cluster.get("health_checks", ()):
            check["timeout"] = f"{PATIENT_S}s"


def _clusters(document: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    return (each for each in document["static_resources"]["clusters"] if each["name"] == name)
