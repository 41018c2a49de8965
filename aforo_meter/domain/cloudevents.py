"""CloudEvents 1.0 → an event of ours. Pure.

An event is known by its `source` and `id`: the same two from whomever are the same event.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from aforo_meter.domain.ingest_values import Rejection, shown, text_of

SPEC_VERSION: Final = "1.0"
ATTRIBUTE_CHARACTERS_MAX: Final = 2048
KEY_DIGITS: Final = 40
DECISION_ID: Final = "aforodecisionid"  # An extension: these have small letters and digits alone.
# What CloudEvents itself defines; any other attribute is an extension, and kept as metadata.
ATTRIBUTES: Final = frozenset(
    {
        *("specversion", "id", "source", "type", "subject", "time", "data", "data_base64"),
        *("datacontenttype", "dataschema"),
    }
)
KNOWN: Final = ATTRIBUTES | {DECISION_ID}


def event_id_of(source: str, identifier: str) -> str:
    digest = hashlib.sha256(f"{source}\0{identifier}".encode()).hexdigest()
    return f"ce:{digest[:KEY_DIGITS]}"


def from_cloudevent(
    cloud: Any,  # noqa: ANN401 - of JSON.
    *,
    received: str,
) -> tuple[str, dict[str, Any]]:
    """Return an event's id and the event in our own shape.

    `data` is an object in that shape; where it is silent, `subject` is the customerId, `type` the
    metricName, `time` the occurredAt, the extension `aforodecisionid` the aforoDecisionId, and the
    quantity is 1.

    Args:
        cloud: One CloudEvent in JSON.
        received: When it arrived, for events without a time.

    Raises:
        Rejection: It is no CloudEvent, or not one of this version.
    """
    if type(cloud) is not dict:
        raise Rejection("event", f"must be an object, this is {shown(cloud)}")
    version = cloud.get("specversion")
    if version != SPEC_VERSION:
        raise Rejection("specversion", f'must be "{SPEC_VERSION}", this is {shown(version)}')
    source, identifier = _attribute(cloud, "source"), _attribute(cloud, "id")
    kind = _attribute(cloud, "type")
    data = _data(cloud)
    event = {
        "customerId": cloud.get("subject"),
        "metricName": kind,
        "quantity": 1,
        "occurredAt": cloud.get("time") or received,
    }
    if DECISION_ID in cloud:
        event["aforoDecisionId"] = cloud[DECISION_ID]
    event |= {name: value for name, value in data.items() if value is not None}
    event["idempotencyKey"] = event_id_of(source, identifier)
    extensions = {name: value for name, value in cloud.items() if name not in KNOWN}
    event = {"ceSource": source, "ceId": identifier, "ceType": kind} | extensions | event
    return event_id_of(source, identifier), event


def _attribute(cloud: Mapping[str, Any], name: str) -> str:
    text = text_of(name, cloud.get(name))
    if not text:
        raise Rejection(name, "is required of a CloudEvent")
    if len(text) > ATTRIBUTE_CHARACTERS_MAX:
        raise Rejection(
            name, f"at most {ATTRIBUTE_CHARACTERS_MAX} characters, this has {len(text)}"
        )
    return text


def _data(cloud: Mapping[str, Any]) -> Mapping[str, Any]:
    if cloud.get("data_base64") is not None:
        raise Rejection("data_base64", "is not read; send JSON in `data`")
    kind = cloud.get("datacontenttype")
    if kind is not None and not is_json(text_of("datacontenttype", kind)):
        raise Rejection("datacontenttype", f"must be JSON, this is {shown(kind)}")
    data = cloud.get("data")
    if data is None:
        return {}
    if type(data) is not dict:
        raise Rejection("data", f"must be an object, this is {shown(data)}")
    return data


def is_json(content_type: str) -> bool:
    """Return whether a media type is JSON, with or without parameters."""
    name = content_type.partition(";")[0].strip().lower()
    return name == "application/json" or (
        name.startswith("application/") and name.endswith("+json")
    )
