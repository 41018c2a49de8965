"""Days and months end at midnight UTC, and quotas and margins with them: not amid a story."""

import time
from collections.abc import Callable
from typing import Final

DAY_S: Final = 86_400
STORY_S: Final = 300.0  # No story takes so long.


def wait_out_midnight(tell: Callable[[str], None] = lambda _: None) -> None:
    """If a day ends soon, sleep until the next has begun."""
    left_s = DAY_S - time.time() % DAY_S
    if left_s < STORY_S:
        tell(f"waiting {left_s:.0f} s for midnight UTC, when quotas and margins begin anew")
        time.sleep(left_s + 1)
