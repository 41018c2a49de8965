"""What an event says → the record for Kafka."""

from collections.abc import Mapping
from typing import Final

from aforo_meter.buffer import Record
from aforo_meter.domain.ingest import Reading
from aforo_meter.domain.ingest_fields import Boundary, ExecutionStatus
from aforo_meter.domain.ingest_values import MICROS_PER_UNIT
from aforo_proto import usage_pb2

SOURCE: Final = "ingest"

STATUSES: Final[Mapping[ExecutionStatus | None, int]] = {
    None: usage_pb2.EXECUTION_STATUS_UNSPECIFIED,
    **{
        status: usage_pb2.ExecutionStatus.Value(f"EXECUTION_STATUS_{status}")
        for status in ExecutionStatus
    },
}
BOUNDARIES: Final[Mapping[Boundary | None, int]] = {
    None: usage_pb2.SESSION_BOUNDARY_UNSPECIFIED,
    Boundary.HEARTBEAT: usage_pb2.SESSION_BOUNDARY_HEARTBEAT,
    Boundary.START: usage_pb2.SESSION_BOUNDARY_START,
    Boundary.END: usage_pb2.SESSION_BOUNDARY_END,
}


def record_of(
    reading: Reading,
    *,
    topic: str,
    event_id: str,
    tenant_id: str,
    subscription_id: str,
    received_micros: int,
) -> Record:
    """Return the record of one event.

    Args:
        reading: What it says.
        topic: Where it goes.
        event_id: Ours, unique in the tenant.
        tenant_id: Who pays; "" for a heartbeat of nobody.
        subscription_id: The tenant's subscription in force. Another one that a client names is
            kept with the metadata, and charges nobody.
        received_micros: Unix time, UTC.
    """
    event = usage_pb2.UsageEvent(
        event_id=event_id,
        source=SOURCE,
        tenant_id=tenant_id,
        subscription_id=subscription_id,
        occurred_at_micros=reading.occurred_micros,
        outcome=usage_pb2.OUTCOME_ALLOW,
        dimensions=usage_pb2.Dimensions(
            provider=reading.provider,
            model=reading.model,
            method=reading.method,
            status=reading.status_code,
            tool=reading.tool,
            agent=reading.agent,
            session=reading.session,
            execution_status=STATUSES[reading.status],  # type: ignore[arg-type]  # An int is one.
            product=reading.product,
        ),
        measures=[
            usage_pb2.Measure(
                meter=meter,
                units=micros // MICROS_PER_UNIT,
                micros=micros % MICROS_PER_UNIT,
            )
            for meter, micros in reading.measures
        ],
        late=reading.late,
        session_boundary=BOUNDARIES[reading.boundary],  # type: ignore[arg-type]
        metadata_json=reading.metadata_json.decode(),
        received_at_micros=received_micros,
    )
    return Record(topic=topic, key=tenant_id.encode(), value=event.SerializeToString())
