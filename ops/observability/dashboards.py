"""Grafana's dashboards, as code: `python -m ops.observability.dashboards` writes grafana/*.json.

What is shown is in `shown.py`. This module knows Grafana's JSON, and nothing of Aforo.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "grafana"
SCHEMA_VERSION: Final = 39  # Of Grafana 10.4; newer ones read it.
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 24, 8, 8
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A graph, or one figure."""

    title: str
    says: str  # What it means, for who looks at it at night.
    queries: Sequence[tuple[str, str]]  # PromQL, and the legend of each line.
    unit: str = "short"  # As Grafana names units: s, bytes, reqps, percentunit.
    figure: bool = False
    red_from: float | None = None  # From which value on it is bad.
    red_below: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A page."""

    uid: str
    title: str
    panels: Sequence[Panel]


def document(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["aforo"],
        "timezone": "utc",
        "editable": True,
        "schemaVersion": SCHEMA_VERSION,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    per_row = COLUMNS // PANEL_WIDTH
    return {
        "id": number + 1,
        "title": panel.title,
        "description": panel.says,
        "type": "stat" if panel.figure else "timeseries",
        "datasource": SOURCE,
        "gridPos": {
            "x": number % per_row * PANEL_WIDTH,
            "y": number // per_row * PANEL_HEIGHT,
            "w": PANEL_WIDTH,
            "h": PANEL_HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": _thresholds(panel)},
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": expr,
                "legendFormat": legend,
            }
            for place, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    first, second = "green", "red"
    value = panel.red_from
    if panel.red_below is not None:
        first, second, value = "red", "green", panel.red_below
    steps: list[dict[str, Any]] = [{"color": first, "value": None}]
    if value is not None:
        steps.append({"color": second, "value": value})
    return {"mode": "absolute", "steps": steps}


def text(dashboard: Dashboard) -> str:
    return json.dumps(document(dashboard), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    from ops.observability.shown import DASHBOARDS  # noqa: PLC0415 - it is made of what is above.

    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(text(dashboard))


if __name__ == "__main__":
    main()
