"""What ingest takes without being told of it, the catalog can price."""

from aforo_admin.domain.catalog import METERS
from aforo_meter.domain.ingest_metrics import BUILT_IN


def test_every_meter_that_ingest_knows_is_one_of_the_catalog_and_back() -> None:
    assert frozenset(METERS) == BUILT_IN
