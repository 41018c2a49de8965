"""One alert of each kind, made by the code that makes them: what docs/alerts.md shows."""

from aforo_meter.alerts import (
    Alert,
    QuotaReached,
    Repricing,
    Unpriced,
    alert_of,
    completeness_alert,
    price_alert,
    quota_alert,
    sync_alert,
    trial_alert,
    unpriced_alert,
)
from aforo_meter.domain.completeness import Score
from aforo_meter.domain.margin import Assessment, Level, MarginState, Thresholds
from aforo_meter.domain.periods import HOUR_MICROS, PeriodMicros
from aforo_meter.domain.price_changes import ChangeState, ChargedPrice, ModelUse, PriceChange
from aforo_meter.domain.prices import PriceEntry
from aforo_meter.domain.quotas import Quota, WindowKind
from aforo_meter.ledger import Transition, Watch

NOVEMBER = PeriodMicros(1_793_491_200_000_000, 1_796_083_200_000_000)
NOW = 1_795_438_345_298_588  # 2026-11-23 12:52:25
HOUR = NOW - NOW % HOUR_MICROS
WATCH = Watch(
    tenant_id="acme",
    subscription_id="sub-1",
    period=NOVEMBER,
    revenue_nanos=10**10,
    allowance_nanos=0,
    currency="USD",
    thresholds=Thresholds(source="plan:pro"),
    catalog_version="v1",
    price_book_version="1",
)
INPUT = ModelUse("llm.input_tokens", "openai", "gpt-4o")


def assessment(level: Level, cogs_nanos: int) -> Assessment:
    return Assessment(
        level=level,
        state=MarginState.DEFINED,
        revenue_nanos=10**10,
        cogs_nanos=cogs_nanos,
        allowance_nanos=0,
    )


WORSE = Transition(
    watch=WATCH,
    seq=1,
    before=Level.NONE,
    after=assessment(Level.WARN, 8_166_000_000),
    at_micros=NOW,
)
REACHED = QuotaReached(
    tenant_id="acme",
    subscription_id="sub-1",
    quota=Quota(
        quota_id="monthly-calls", meter="api.calls", window=WindowKind.MONTH, limit_units=10_000
    ),
    window=NOVEMBER,
    threshold_bp=8000,
    used_units=8_013,
    currency="USD",
    as_of_micros=NOW,
)
UNPRICED = Unpriced(
    tenant_id="acme",
    use=ModelUse("llm.input_tokens", "openai", "gpt-9"),
    episode=1,
    quantity_micros=1_500_000_000,
    since_micros=HOUR,
)
CHANGE = PriceChange(
    use=INPUT,
    state=ChangeState.IN_FORCE,
    before=(
        ChargedPrice(
            *("gpt-4o-input-2024", 2_500_000_000, 1_000_000, 1_722_816_000_000_000, 0),
            *("genai-prices 0.2.3", 0, 0, 0),
        ),
    ),
    after=(
        PriceEntry(
            price_id="gpt-4o-input-nov",
            meter="llm.input_tokens",
            price_nanos=3_500_000_000,
            per_units=1_000_000,
            effective_from_micros=NOW - 298_588,
            source="catalog",
        ),
    ),
    effective_from_micros=NOW - 298_588,
)
REPRICING = Repricing(
    tenant_id="acme",
    subscription_id="sub-1",
    period=NOVEMBER,
    currency="USD",
    changes=[CHANGE],
    before=assessment(Level.NONE, 7_010_000_000),
    after=assessment(Level.THROTTLE, 9_210_000_000),
)
SCORE = Score(
    tenant_id="acme", hour_start_micros=HOUR - HOUR_MICROS, decided=1000, logged=980, missing=20
)


def samples() -> list[Alert]:
    return [
        alert_of(WORSE),
        quota_alert(REACHED),
        unpriced_alert(UNPRICED, now_micros=NOW),
        price_alert(REPRICING, now_micros=NOW),
        completeness_alert(SCORE, threshold_bp=9900, now_micros=NOW),
        sync_alert(since_micros=NOW - 301_000_000, stale_after_s=300, now_micros=NOW),
        trial_alert("finance", nonce="n", now_micros=NOW),
    ]
