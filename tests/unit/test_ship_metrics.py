"""What ship shows before anything has happened."""

from prometheus_client import CollectorRegistry

from aforo_meter.ship_metrics import DEAD_LETTERS, ShipMetrics


def test_dead_letters_are_shown_before_there_is_one() -> None:
    """To Prometheus a count that comes as 1 has not grown, so the first one would alert nobody."""
    registry = CollectorRegistry()
    metrics = ShipMetrics()
    registry.register(metrics)
    name = "aforo_ship_dead_letters_total"

    before = {kind: registry.get_sample_value(name, {"kind": kind}) for kind in DEAD_LETTERS}
    metrics.count({("dead_letter", "unreadable"): 2})

    assert before == {"unreadable": 0, "too_large": 0}
    assert registry.get_sample_value(name, {"kind": "unreadable"}) == 2
