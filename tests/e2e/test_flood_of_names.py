"""Who names another tool in every call takes no more rows or memory, and disturbs nobody.

Here are a few thousand names, enough to be past each bound; `make names` plays ten million.
"""

import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from aforo_meter.domain.rating import TOOLS_MAX
from tests.e2e.flood_of_names import Entries, play

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAMES = 3000


def test_endless_tool_names_take_bounded_rows_and_each_call_is_charged() -> None:
    found = play(NAMES, kafka=None)

    assert not found.problems, str(found)
    assert found.loud_calls == NAMES
    assert found.quiet_calls == NAMES // 100
    # It may have run across the hour.
    assert TOOLS_MAX < found.loud_tools <= (TOOLS_MAX + 1) * found.hours


def test_entries_that_are_put_together_from_bytes_are_what_protobuf_reads() -> None:
    entries = Entries()
    loud = StreamAccessLogsMessage.FromString(entries.message(7, 3)).http_logs.log_entry
    (quiet,) = StreamAccessLogsMessage.FromString(
        entries.message(0, 1, is_quiet=True)
    ).http_logs.log_entry

    tools = [
        entry.common_properties.metadata.filter_metadata["envoy.filters.http.mcp"]["params"]["name"]
        for entry in (*loud, quiet)
    ]
    assert [tool[-3:] for tool in tools[:3]] == ["007", "008", "009"]
    assert tools[3].startswith("search")
    uids = [entry.common_properties.custom_tags["uid"] for entry in (*loud, quiet)]
    assert len(set(uids)) == 4
