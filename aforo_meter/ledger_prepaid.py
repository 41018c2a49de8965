"""What earlier periods have drawn from a prepaid balance: always by what the ledger holds of them.

Usage of a period may come, or be taken back, long after its end. So nothing of it is stored: it is
reckoned from the earlier periods' sums, and remembered as long as their revisions stay the same.
"""

from collections.abc import Mapping

from aforo_meter.database import Sql
from aforo_meter.domain.periods import PeriodMicros
from aforo_meter.domain.revenue import draws_before, usage_nanos
from aforo_meter.domain.terms import Terms
from aforo_meter.ledger import Watch
from aforo_meter.ledger_accounts import read_account
from aforo_meter.ledger_memory import Charged, PeriodKey

EARLIER = (
    "SELECT period_start_micros, period_end_micros, revision FROM margin_state"
    " WHERE tenant_id = ? AND subscription_id = ? AND period_start_micros < ?"
)


class Balances:
    """Within one transaction, when all of it but the levels is written."""

    def __init__(self, sql: Sql, remembered: Mapping[PeriodKey, Charged]) -> None:
        self._sql = sql
        self._remembered = remembered
        self.read: dict[PeriodKey, Charged] = {}

    def drawn_before(self, watch: Watch) -> int:
        """Return what the periods before a watched one are charged of the same balance; nanos."""
        terms, period = watch.terms, watch.period
        if terms is None or not terms.opening(period).prepaid_nanos:
            return 0
        key = (watch.tenant_id, watch.subscription_id)
        found = self._sql.execute(EARLIER, (*key, period.start_micros)).fetchall()
        revisions = {PeriodMicros(start, end): revision for start, end, revision in found}
        return sum(
            self._charged(terms, (*key, each.start_micros), each, revisions[each])
            for each in draws_before(terms, period, revisions)
        )

    def _charged(self, terms: Terms, key: PeriodKey, period: PeriodMicros, revision: int) -> int:
        known = self._remembered.get(key)
        if known is None or known[:2] != (revision, terms):
            account = read_account(self._sql, *key)
            known = self.read[key] = Charged(revision, terms, usage_nanos(terms, account, period))
        return known.nanos
