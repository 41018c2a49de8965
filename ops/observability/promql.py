"""The shapes of PromQL that panels repeat."""


def rate(metric: str, *by: str, window: str = "5m") -> str:
    """Return PromQL for how fast a counter grows, by some labels."""
    of = f" by ({', '.join(by)})" if by else ""
    return f"sum{of} (rate({metric}[{window}]))"


def quantile(q: float, histogram: str, *by: str) -> str:
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket[5m])))"
