"""The steps of the story in their order, and how they are played."""

from collections.abc import Awaitable, Callable

from demo import control_story, story
from demo.checks import StepFailedError
from demo.observe import World

Step = Callable[[World], Awaitable[str]]

STEPS: tuple[tuple[str, Step], ...] = (
    ("allowed at first", story.allowed_at_first),
    ("usage arrives in the ledger to the token", story.usage_arrives_to_the_token),
    ("COGS mounts", story.cogs_mount),
    (
        "below 20 %: one webhook, signature valid, request untouched",
        story.below_20_percent_one_webhook,
    ),
    ("below 10 %: throttled, and rerouted", story.below_10_percent_throttled_and_rerouted),
    ("below 0 %: blocked", story.below_0_percent_blocked),
    ("watched in the admin, and no more by a viewer", control_story.watched_in_the_admin),
    ("a bigger contract frees", control_story.bigger_contract_frees),
    ("a raised floor blocks", control_story.raised_floor_blocks),
    ("an override lets pass", control_story.override_lets_pass),
    ("a revoked key is refused", control_story.revoked_key_is_refused),
    ("a hard quota is exact", story.hard_quota_is_exact),
    ("streams are metered to the token", story.streams_are_metered_to_the_token),
    ("spoofing changes nothing", story.spoofing_changes_nothing),
    ("usage over HTTP counts once", story.usage_over_http_counts_once),
    ("Redis stopped, and back", story.redis_stopped_and_back),
    ("consumer killed in mid-batch", story.consumer_killed_in_mid_batch),
)


async def play(world: World, tell: Callable[[str], None]) -> bool:
    """Play every step until one fails; return whether all held."""
    for number, (name, step) in enumerate(STEPS, start=1):
        try:
            seen = await step(world)
        except StepFailedError as error:
            tell(f"FAILED  {number:2} {name}\n           {error}")
            tell(f"demo: failed at step {number} of {len(STEPS)}: {name}")
            return False
        tell(f"ok      {number:2} {name}\n           {seen}")
    tell(f"demo: {len(STEPS)} of {len(STEPS)} steps")
    return True
