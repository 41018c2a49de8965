"""Guards → lines for people."""

from aforo_admin.domain.problems import percent
from aforo_admin.readable_values import money
from aforo_proto.contract_pb2 import Guard


def guard_text(guard: Guard, currency: str) -> str:
    """Say what is guarded, on what revenue, and from where on."""
    revenue = f"{percent(guard.revenue_share_bp)} of the revenue"
    if guard.HasField("revenue_nanos"):
        revenue = money(guard.revenue_nanos, currency)
    floors = guard.thresholds
    text = (
        f"{', '.join(guard.meters) or 'all meters'} of {', '.join(guard.features) or 'all calls'}"
        f" on {revenue}: warn below {percent(floors.warn_below_bp)},"
        f" throttle below {percent(floors.throttle_below_bp)},"
        f" block below {percent(floors.block_below_bp)},"
        f" hysteresis {percent(floors.hysteresis_bp)}"
    )
    if floors.act_from_revenue_nanos:
        text += f", act from {money(floors.act_from_revenue_nanos, currency)}"
    if floors.act_from_calls:
        text += f", act from {floors.act_from_calls:,} calls"
    return f"{text} ({floors.source})"
